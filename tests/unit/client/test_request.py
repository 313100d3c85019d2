"""What is sent, byte for byte, and the hash it is journaled under."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.client.request import UNCHANGED, RequestBuilder, fixed_fields
from evalkit.errors import ScorerError
from evalkit.recipe.request import RequestSettings
from evalkit.recipe.schema import Generation
from tests.unit.store.strategies import texts

ASK = [{"role": "user", "content": "What is 1 + 1?"}]


def body_of(
    generation: Generation, repeat: int = 0, changes: RequestSettings = UNCHANGED, **call: Any
) -> dict[str, Any]:
    """The body that is sent, as JSON."""
    request = RequestBuilder(generation, "tiny", changes).chat(ASK, repeat, **call)
    body: dict[str, Any] = orjson.loads(request.payload)
    return body


def test_bytes_of_a_request() -> None:
    """The body and its hash. Another outcome here makes every finished call of old runs unknown."""
    generation = Generation(temperature=0.6, top_p=0.95, max_tokens=131072, stop=("END",))
    request = RequestBuilder(generation, "tiny").chat(ASK, 3)
    assert request.payload == (
        b'{"model":"tiny","max_completion_tokens":131072,'
        b'"messages":[{"content":"What is 1 + 1?","role":"user"}],'
        b'"seed":3,"stop":["END"],"stream":false,"temperature":0.6,"top_p":0.95}'
    )
    assert request.digest == "7fe5743de1741060729e3344d4461386"


def test_model_id_is_not_in_the_hash() -> None:
    """The id a server has is not the question: its calls are found again under another one."""
    one, two = (RequestBuilder(Generation(), name).chat(ASK, 0) for name in ("a", 'b"\\'))
    assert one.digest == two.digest
    assert orjson.loads(two.payload)["model"] == 'b"\\'


@given(texts, texts, st.integers(0, 9), st.integers(0, 9))
def test_hash_tells_requests_apart(one: str, two: str, first: int, second: int) -> None:
    """Requests have one hash exactly when they are the same."""
    builder = RequestBuilder(Generation(), "tiny")
    left = builder.chat([{"role": "user", "content": one}], first)
    right = builder.chat([{"role": "user", "content": two}], second)
    assert (left.digest == right.digest) == ((one, first) == (two, second))


@pytest.mark.parametrize(
    ("seed", "repeat", "sent"),
    [("repeat", 0, 0), ("repeat", 5, 5), (100, 0, 100), (100, 5, 105), (None, 5, None)],
)
def test_seed(seed: Any, repeat: int, sent: int | None) -> None:
    """`repeat` sends the repeat, a number is added to it, null sends none."""
    assert body_of(Generation(seed=seed), repeat).get("seed") == sent
    assert ("seed" in body_of(Generation(seed=seed), repeat)) == (sent is not None)


def test_only_what_is_set_is_sent() -> None:
    """Without settings the server's defaults apply: nothing but the question and the seed is sent."""
    assert body_of(Generation()) == {"model": "tiny", "messages": ASK, "seed": 0, "stream": False}
    assert fixed_fields(Generation(temperature=0.0))["temperature"] == 0.0


def test_every_setting_is_sent() -> None:
    """Each key of `generation` arrives under the API's name."""
    values: dict[str, Any] = {
        "temperature": 0.1,
        "top_p": 0.2,
        "top_k": 3,
        "min_p": 0.4,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.6,
        "repetition_penalty": 0.7,
    }
    generation = Generation(**values, max_tokens=8, stop=("a", "b"), extra_body={"best_of": 1})
    assert body_of(generation) == values | {
        "max_completion_tokens": 8,
        "stop": ["a", "b"],
        "best_of": 1,
        "seed": 0,
        "stream": False,
        "model": "tiny",
        "messages": ASK,
    }


def test_system_message_comes_first() -> None:
    """A system message goes before the benchmark's messages."""
    changes = RequestSettings(system_message="Think.")
    expected = [{"role": "system", "content": "Think."}, *ASK]
    assert body_of(Generation(), changes=changes)["messages"] == expected


def test_overrides_of_one_call() -> None:
    """A call may replace fields, add some, and take one out with null."""
    generation = Generation(temperature=0.5, max_tokens=100)
    body = body_of(
        generation, overrides={"temperature": 0, "max_completion_tokens": None, "logprobs": True}
    )
    assert body["temperature"] == 0
    assert "max_completion_tokens" not in body
    assert body["logprobs"] is True
    assert "seed" not in body_of(generation, overrides={"seed": None})


def test_tools_are_sent_when_there_are_some() -> None:
    """Tools go along as they are; an empty list is no tools."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert body_of(Generation(), tools=tools)["tools"] == tools
    assert "tools" not in body_of(Generation(), tools=[])


def test_tools_keep_the_order_of_their_keys() -> None:
    """A chat template shows parameters in it: sorted, the model would read another prompt."""
    properties = {"b": {"type": "string"}, "a": {"type": "string", "description": "x"}}
    tools = [{"type": "function", "function": {"parameters": {"properties": properties}}}]
    payload = RequestBuilder(Generation(), "tiny").chat(ASK, 0, tools).payload
    assert orjson.dumps(tools) in payload
    other = [
        {
            "type": "function",
            "function": {"parameters": {"properties": dict(reversed(properties.items()))}},
        }
    ]
    digests = {
        RequestBuilder(Generation(), "tiny").chat(ASK, 0, each).digest for each in (tools, other)
    }
    assert len(digests) == 2


def test_changes_work_on_the_finished_body() -> None:
    """Removed, merged deep and renamed, in this order, also what a benchmark's own call brought."""
    generation = Generation(
        top_k=5, max_tokens=9, extra_body={"chat_template_kwargs": {"a": {"x": 1}}}
    )
    changes = RequestSettings(
        add={"provider": {"only": ["z"]}, "chat_template_kwargs": {"a": {"y": 2}}},
        remove=("seed", "top_k", "logprobs", "never_sent"),
        rename={"max_completion_tokens": "max_tokens"},
    )
    assert body_of(generation, changes=changes, overrides={"logprobs": True, "stop": ["."]}) == {
        "model": "tiny",
        "messages": ASK,
        "stream": False,
        "stop": ["."],
        "max_tokens": 9,
        "provider": {"only": ["z"]},
        "chat_template_kwargs": {"a": {"x": 1, "y": 2}},
    }


def test_changes_stay_out_of_tools() -> None:
    """A tool's parameter that is named like a field is left alone."""
    properties = {"seed": {"type": "integer"}, "top_k": {"type": "integer"}}
    tools = [{"type": "function", "function": {"parameters": {"properties": properties}}}]
    changes = RequestSettings(remove=("seed",), rename={"top_k": "k"}, add={"properties": 1})
    body = body_of(Generation(top_k=3), changes=changes, tools=tools)
    assert body["tools"] == tools
    assert (body["k"], body["properties"], "seed" in body) == (3, 1, False)


def test_a_renamed_field_takes_no_ones_place() -> None:
    """Where a call sends both names, nobody can say which value counts."""
    changes = RequestSettings(rename={"max_completion_tokens": "max_tokens"})
    with pytest.raises(ScorerError, match="max_completion_tokens would take the place of max_tok"):
        body_of(Generation(max_tokens=9), changes=changes, overrides={"max_tokens": 5})


def test_no_changes_change_no_byte() -> None:
    """Sections that say nothing leave bodies, and so the hashes of old runs, as they were."""
    request = RequestBuilder(Generation(temperature=1), "tiny", RequestSettings()).chat(ASK, 0)
    assert request == RequestBuilder(Generation(temperature=1), "tiny").chat(ASK, 0)
