"""A server's answer as a reply, however the server says it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.client.replies import (
    MalformedReplyError,
    Split,
    ThinkTags,
    WrongModelError,
    error_message,
    overflow_reply,
    parse_reply,
    split_reasoning,
)
from evalkit.store.records import Outcome, Reply, Usage
from tests.unit.store.strategies import json_objects, json_values, texts

TAGS = ThinkTags("<think>", "</think>")
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def completion(
    content: Any = "42", *, finish: Any = "stop", usage: Any = None, **message: Any
) -> bytes:
    """Body of a chat completion."""
    choice = {"finish_reason": finish, "message": {"content": content, **message}}
    return orjson.dumps({"model": "tiny", "choices": [choice], "usage": usage})


def parse(*arguments: Any, **message: Any) -> Reply:
    """The reply in such a body."""
    return parse_reply(completion(*arguments, **message), TAGS, "tiny")


def test_plain_reply() -> None:
    """Content, finish reason and token counts."""
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 7,
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    assert parse("42", usage=usage) == Reply(
        Outcome.OK, "42", finish_reason="stop", usage=Usage(5, 7, 3)
    )
    assert parse("42", usage={"prompt_tokens": 5}).usage == Usage(5, None, None)
    assert parse("42").usage == Usage()


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_reasoning_in_a_field(key: str) -> None:
    """Both names of the field end up in one place, and content stays as it is, tags included."""
    reply = parse("a <think>b</think> c", **{key: "I add."})
    assert (reply.reasoning, reply.content) == ("I add.", "a <think>b</think> c")


@pytest.mark.parametrize(
    ("content", "split"),
    [
        ("<think>I add.</think>42", ("42", "I add.")),
        ("<think>\nI add.\n</think>\n\n42", ("42", "I add.")),
        ("I add.</think>42", ("42", "I add.")),
        ("<think>I add", ("", "I add")),
        ("  <think>I add", ("", "I add")),
        ("42", ("42", None)),
        ("", ("", None)),
        ("so <think> is a tag", ("so <think> is a tag", None)),
        ("<think></think>42", ("42", "")),
        ("<think>a</think>b</think>c", ("b</think>c", "a")),
    ],
)
def test_reasoning_inside_the_content(content: str, split: tuple[str, str | None]) -> None:
    """Closed, unclosed, without its opening tag: the content is what a scorer may read."""
    assert split_reasoning(content, TAGS) == Split(*split)
    reply = parse(content)
    assert (reply.content, reply.reasoning) == split
    assert parse_reply(completion(content), None).content == content


@pytest.mark.parametrize(
    ("content", "keeps", "drops"),
    [
        ("I add.</think>42", ("42", "I add."), ("42", "I add.")),
        ("I add", ("I add", None), ("", "I add")),
        ("<think>I add", ("<think>I add", None), ("", "<think>I add")),
        ("", ("", None), ("", None)),
    ],
)
def test_every_answer_begins_with_reasoning(
    content: str, keeps: tuple[str, str | None], drops: tuple[str, str | None]
) -> None:
    """Without a text that begins it, content that nothing ends is all reasoning, or is kept."""
    assert split_reasoning(content, ThinkTags(None, "</think>", keep_unfinished=True)) == keeps
    assert split_reasoning(content, ThinkTags(None, "</think>")) == drops


def test_unfinished_reasoning_is_kept_where_asked() -> None:
    """With its beginning and no end, the content stays as it is; an answer without reasoning, too."""
    tags = ThinkTags("<think>", "</think>", keep_unfinished=True)
    assert split_reasoning("<think>I add", tags) == ("<think>I add", None)
    assert split_reasoning("42", tags) == ("42", None)


@given(texts, texts)
def test_split_loses_nothing(thought: str, answer: str) -> None:
    """Whatever is thought and said, each half is found again but for blank lines between them."""
    split = split_reasoning(f"<think>{thought}</think>{answer}", TAGS)
    assert split.reasoning == thought.strip("\n")
    assert split.content == answer.lstrip("\n")


@pytest.mark.parametrize(
    ("content", "finish", "message", "outcome"),
    [
        ("42", "stop", {}, Outcome.OK),
        ("4", "length", {}, Outcome.TRUNCATED),
        ("", "length", {}, Outcome.TRUNCATED),
        ("<think>hm", "length", {}, Outcome.TRUNCATED),
        ("<think>hm", "stop", {}, Outcome.EMPTY),
        ("", "stop", {}, Outcome.EMPTY),
        (" \n", "stop", {}, Outcome.EMPTY),
        (None, "stop", {}, Outcome.EMPTY),
        (None, "stop", {"reasoning": "hm"}, Outcome.EMPTY),
        (None, "tool_calls", {"tool_calls": [CALL]}, Outcome.OK),
        (None, "stop", {"tool_calls": None}, Outcome.EMPTY),
        ("", "content_filter", {}, Outcome.REFUSED),
        (None, "stop", {"refusal": "I will not."}, Outcome.REFUSED),
        ("42", None, {}, Outcome.OK),
    ],
)
def test_outcome(
    content: str | None, finish: str | None, message: dict[str, Any], outcome: Outcome
) -> None:
    """What became of a call, from its finish reason and its content."""
    assert parse(content, finish=finish, **message).outcome is outcome


def test_refusal_and_tool_calls_are_kept() -> None:
    """A refusal's words are the detail; tool calls come as the server sent them."""
    assert parse(None, refusal="I will not.").detail == "I will not."
    assert parse(None, tool_calls=[CALL]).tool_calls == (CALL,)
    assert parse(None, tool_calls=[CALL]).content == ""


def test_logprobs_are_kept() -> None:
    """Log probabilities belong to the choice, not to the message."""
    choice = {"message": {"content": "A"}, "logprobs": {"content": [{"logprob": -1.5}]}}
    reply = parse_reply(orjson.dumps({"choices": [choice]}), TAGS)
    assert reply.logprobs == choice["logprobs"]


@pytest.mark.parametrize("finish", ["abort", "error"])
def test_interrupted_generation(finish: str) -> None:
    """A generation that the server broke off is not the model's answer."""
    with pytest.raises(MalformedReplyError, match=f"interrupted the generation .{finish}."):
        parse("4", finish=finish)


def test_wrong_model() -> None:
    """Another model's name is refused where the server is ours, and taken where it is not."""
    with pytest.raises(WrongModelError, match="asked 'other', answered by 'tiny'"):
        parse_reply(completion(), TAGS, "other")
    assert parse_reply(completion(), TAGS).content == "42"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"null",
        b"[]",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [null]}',
        b'{"choices": [{"text": "42"}]}',
        b'{"choices": [{"message": null}]}',
        completion()[:-10],
        completion(["a", "b"]),
        completion(42),
        completion(finish=["stop"]),
        completion(usage=[1]),
        completion(usage={"prompt_tokens": "many"}),
        completion(reasoning={"text": "hm"}),
        completion(tool_calls=7),
        completion(refusal=1),
    ],
)
def test_body_that_is_no_completion(body: bytes) -> None:
    """A 200 that is no chat completion is told apart from an answer, and shows how it begins."""
    with pytest.raises(MalformedReplyError, match="not a chat completion"):
        parse_reply(body, TAGS)


@given(json_values, json_objects, json_objects)
def test_any_json_is_a_reply_or_malformed(
    content: Any, message: dict[str, Any], choice: dict[str, Any]
) -> None:
    """No body makes the parser fail in another way, and what it takes for a reply is well-formed."""
    inner = {"message": {**message, "content": content}, **choice}
    for body in (content, {"choices": [inner]}, {"choices": [inner], "usage": content}):
        try:
            reply = parse_reply(orjson.dumps(body), TAGS)
        except MalformedReplyError:
            continue
        assert isinstance(reply.content, str)
        assert reply.outcome.is_models_own


OVERFLOWS = {
    "vLLM": {
        "object": "error",
        "message": "This model's maximum context length is 4096 tokens. However, you requested 5000 "
        "tokens in the messages, Please reduce the length of the messages.",
        "code": 400,
    },
    "vLLM new": {
        "error": {
            "message": "'max_tokens' or 'max_completion_tokens' is too large: 9000. This model's "
            "maximum context length is 4096 tokens and your request has 12 input tokens.",
            "type": "BadRequestError",
            "code": 400,
        }
    },
    "vLLM engine": {
        "error": {
            "message": "The decoder prompt (length 5000) is longer than the maximum model length "
            "of 4096. Make sure that `max_model_len` is no smaller than the number of text tokens.",
            "code": 400,
        }
    },
    "OpenAI": {
        "error": {
            "message": "Your input exceeds the limit.",
            "type": "invalid_request_error",
            "code": "context_length_exceeded",
        }
    },
    "SGLang": {
        "object": "error",
        "message": "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
        "code": 400,
    },
    "llama.cpp": {
        "error": {
            "code": 400,
            "message": "the request exceeds the available context size, try increasing it",
            "type": "exceed_context_size_error",
        }
    },
}


@pytest.mark.parametrize("server", OVERFLOWS)
def test_context_overflow(server: str) -> None:
    """Every server's own way of saying that a request does not fit is the model's outcome."""
    reply = overflow_reply(400, orjson.dumps(OVERFLOWS[server]))
    assert reply is not None
    assert reply.outcome is Outcome.CONTEXT_OVERFLOW
    assert reply.detail
    assert overflow_reply(500, orjson.dumps(OVERFLOWS[server])) is None


@pytest.mark.parametrize(
    "message",
    ["unknown parameter: top_k", "temperature must be non-negative", "invalid tool schema", ""],
)
def test_other_refusals_are_no_overflow(message: str) -> None:
    """A request that is wrong is not one that is too long."""
    assert overflow_reply(400, orjson.dumps({"error": {"message": message}})) is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error": {"message": "no", "code": "bad"}}', ("no", "bad")),
        (b'{"error": {"message": "no", "code": 400}}', ("no", None)),
        (b'{"error": "no"}', ("no", None)),
        (b'{"message": "no"}', ("no", None)),
        (b'{"detail": "Not Found"}', ("Not Found", None)),
        (b'{"detail": [{"msg": "bad"}]}', ('[{"msg":"bad"}]', None)),
        (b" Bad Gateway\n", ("Bad Gateway", None)),
        (b"[1]", ("[1]", None)),
        (b"\xff", ("\ufffd", None)),
    ],
)
def test_error_message(body: bytes, expected: tuple[str, str | None]) -> None:
    """The words and the code of an error, in any shape that servers use."""
    assert error_message(body) == expected


@given(st.binary(max_size=60) | json_values.map(orjson.dumps))
def test_any_error_body_has_a_message(body: bytes) -> None:
    """No error body makes the reader of errors fail."""
    message, code = error_message(body)
    assert isinstance(message, str)
    assert code is None or isinstance(code, str)
