"""Which requests can be continued, and what is sent then."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.client.continuable import (
    continuation,
    continued_seed,
    is_continuable,
    most_tokens,
)
from evalkit.client.server_parsing import count_reasoning
from evalkit.store.tokens import TokenChain

BODY: dict[str, Any] = {
    "model": "m",
    "messages": [],
    "stream": False,
    "temperature": 0.6,
    "top_p": 0.95,
    "top_k": 20,
    "repetition_penalty": 1.1,
    "max_completion_tokens": 100,
    "seed": 3,
    "chat_template_kwargs": {"enable_thinking": True},
    "tools": [{}],
}


def test_usual_requests_can_be_continued() -> None:
    """Sampling, tools and template arguments stand in no way."""
    assert is_continuable(BODY)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("presence_penalty", 0.5),
        ("frequency_penalty", -1),
        ("stop", ["\n"]),
        ("logprobs", True),
        ("n", 2),
        ("response_format", {"type": "json_object"}),
        ("tool_choice", "required"),
        ("include_reasoning", False),
        ("parallel_tool_calls", False),
        ("some_new_field", 1),
        ("bad_words", ["a"]),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
        ("messages", [{"role": "user", "content": ["text"]}]),
    ],
)
def test_what_stands_in_the_way(key: str, value: object) -> None:
    """State that a completion would begin anew, and fields that nobody thought about."""
    assert not is_continuable({**BODY, key: value})


@pytest.mark.parametrize(
    ("key", "value"), [("presence_penalty", 0), ("stop", None), ("n", 1), ("tool_choice", "auto")]
)
def test_neutral_values(key: str, value: object) -> None:
    """A field that is there without an effect is no reason."""
    assert is_continuable({**BODY, key: value})


def test_text_in_parts() -> None:
    """Content that is a list of texts is text, and an assistant's content may be null."""
    parts = [{"type": "text", "text": "What is 1 + 2?"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": None}]
    assert is_continuable({**BODY, "messages": messages})


def test_presence_penalty_goes_on_where_the_server_can() -> None:
    """The ids of the first part go along, each once; a factor on the same logits forbids it."""
    body = {name: value for name, value in BODY.items() if name != "repetition_penalty"}
    body["presence_penalty"] = 1.0
    assert is_continuable(body, presence=True)
    assert not is_continuable({**body, "frequency_penalty": 0.1}, presence=True)
    assert not is_continuable({**body, "repetition_penalty": 1.1}, presence=True)
    chain = TokenChain()
    chain.begin([9, 1])
    chain.add([5, 3, 5])
    fields = continuation(body, chain, 10, None)
    assert fields["presence_penalty"] == 1.0
    assert fields["vllm_xargs"] == {"evalkit_generated": [3, 5], "evalkit_prompt": 5}


@pytest.mark.parametrize(
    ("asked", "prompt", "context", "most"),
    [(100, 10, 200, 100), (100, 150, 200, 50), (None, 150, 200, 50), (100, 10, None, 100)],
)
def test_room_for_the_answer(
    asked: int | None, prompt: int, context: int | None, most: int
) -> None:
    """What was asked for, or what the context leaves."""
    assert most_tokens({"max_completion_tokens": asked}, prompt, context) == most


def test_nothing_bounds_the_answer() -> None:
    """Without a limit and a context length, nothing is known."""
    assert most_tokens({}, 10, None) is None


@given(st.integers(0, 2**40), st.integers(1, 2**20), st.integers(1, 2**20))
def test_seeds(seed: int, at: int, other: int) -> None:
    """The same place gives the same seed in every attempt; another place another one."""
    assert continued_seed(seed, at) == continued_seed(seed, at)
    assert at == other or continued_seed(seed, at) != continued_seed(seed, other)
    assert 0 <= (continued_seed(seed, at) or 0) < 2**31
    assert continued_seed(None, at) is None


def test_continuation() -> None:
    """Prompt and tokens are the prompt; sampling goes on; the rest is not sent."""
    chain = TokenChain()
    chain.begin([1, 2])
    chain.add([3, 4, 5])
    fields = continuation({**BODY, "min_tokens": 4}, chain, 97, 77)
    assert fields == {
        "model": "m",
        "prompt": [1, 2, 3, 4, 5],
        "max_tokens": 97,
        "min_tokens": 1,
        "seed": 77,
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "repetition_penalty": 1.1,
    }


@pytest.mark.parametrize(
    ("tokens", "count"),
    [
        ([8, 1, 2, 3, 9, 4, 5], 3),
        ([1, 2, 9, 4], 2),
        ([1, 2, 3], 3),
        ([8, 1, 2], 2),
        ([8, 1, 9, 4, 9, 5, 8, 6], 2),
    ],
    ids=["tags", "opened in the prompt", "never closed", "opened, never closed", "stray tags"],
)
def test_reasoning_tokens(tokens: list[int], count: int) -> None:
    """Tokens between the tags 8 and 9; a template may have written the first one."""
    assert count_reasoning(tokens, 8, 9) == count
