"""A server's answer as a `Reply`: content, reasoning, and what became of the call.

Servers put reasoning into `reasoning` (vLLM since 0.16), into `reasoning_content` (older vLLM,
SGLang, DeepSeek) or leave it inside the content between tags. All three end up in `Reply.reasoning`,
and `Reply.content` is what a scorer may read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from evalkit.store.records import Outcome, Reply, Usage

if TYPE_CHECKING:
    from evalkit.recipe.request import Reasoning

INTERRUPTED = frozenset({"abort", "error"})
"""Finish reasons of a generation that the server did not end by itself."""
_CONTEXT_CODES = frozenset({"context_length_exceeded", "string_above_max_length"})
_FILTER_CODES = frozenset({"content_filter", "content_policy_violation"})
_CONTEXT_WORDS = re.compile(
    r"maximum (?:model )?(?:context )?length|context (?:length|window|size)|max_model_len"
    r"|longer than the maximum|too many tokens",
    re.IGNORECASE,
)


class MalformedReplyError(ValueError):
    """A 200 whose body is no chat completion: cut off, or of another protocol."""


class WrongModelError(ValueError):
    """A reply by another model than the one that was asked."""


class ThinkTags(NamedTuple):
    """What stands around reasoning inside the content."""

    start: str | None
    """Null: every answer begins with reasoning."""
    end: str
    keep_unfinished: bool = False
    """Take content without an end for an answer, all of it."""

    @classmethod
    def of(cls, reasoning: Reasoning) -> ThinkTags | None:
        """Null where content is taken as it is."""
        if not reasoning.strip:
            return None
        return cls(reasoning.start, reasoning.end, reasoning.keep_unfinished)


class Split(NamedTuple):
    """Content without its reasoning, and the reasoning."""

    content: str
    reasoning: str | None


def parse_reply(body: bytes, think_tags: ThinkTags | None, model: str | None = None) -> Reply:
    """The reply in a chat completion's body.

    `model`, where given, is the id the reply must carry. Raises MalformedReplyError for a body that
    is no completion or says it was interrupted, WrongModelError for another model's.
    """
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise malformed(body, error) from error
    return read_reply(answer, think_tags, model, body)


def read_reply(
    answer: Any, think_tags: ThinkTags | None, model: str | None, body: bytes = b""
) -> Reply:
    """As `parse_reply`, for decoded JSON; `body` is shown where it is none."""
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        finish_reason = text_in(choice, "finish_reason")
        content = text_in(message, "content")
        reasoning = text_in(message, "reasoning") or text_in(message, "reasoning_content")
        refusal = text_in(message, "refusal")
        tool_calls = tuple(message.get("tool_calls") or ())
        usage = usage_of(answer.get("usage"))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise malformed(body, error) from error
    if model is not None and answer.get("model") != model:
        raise WrongModelError(f"asked {model!r}, answered by {answer.get('model')!r}")
    if finish_reason in INTERRUPTED:
        raise MalformedReplyError(f"the server interrupted the generation ({finish_reason})")
    split = Split(content or "", reasoning)
    if reasoning is None and think_tags is not None:
        split = split_reasoning(split.content, think_tags)
    return Reply(
        outcome=outcome_of(finish_reason, split.content, bool(tool_calls), refusal),
        content=split.content,
        reasoning=split.reasoning,
        tool_calls=tool_calls,
        finish_reason=finish_reason,
        usage=usage,
        logprobs=choice.get("logprobs"),
        detail=refusal,
    )


def malformed(body: bytes, error: Exception) -> MalformedReplyError:
    """What a body is that cannot be read."""
    start = body[:200].decode("utf-8", "replace")
    return MalformedReplyError(f"not a chat completion ({error!r}): {start!r}")


def split_reasoning(content: str, tags: ThinkTags) -> Split:
    """Take reasoning between `tags` out of content.

    The opening tag may be missing (chat templates put it into the prompt). An opening tag that is
    never closed means that the answer was cut off inside the reasoning: the content is empty, unless
    the tags say to keep it.
    """
    opening = tags.start or ""
    head, closed, tail = content.partition(tags.end)
    if closed:
        return Split(tail.lstrip("\n"), head.lstrip().removeprefix(opening).strip("\n"))
    if is_unfinished(content, tags) and not tags.keep_unfinished:
        return Split("", content.lstrip().removeprefix(opening).strip("\n"))
    return Split(content, None)


def is_unfinished(content: str, tags: ThinkTags) -> bool:
    """Whether content is reasoning that nothing ended."""
    stripped = content.lstrip()
    return bool(stripped) and tags.end not in content and stripped.startswith(tags.start or "")


def overflow_reply(status: int, body: bytes) -> Reply | None:
    """The reply for a request that did not fit the context window; null for any other refusal.

    No two servers say it alike and most say it only in words, so this is the one place that reads
    an error's text.
    """
    if status not in (400, 413, 422):
        return None
    message, code = error_message(body)
    if code in _CONTEXT_CODES or _CONTEXT_WORDS.search(message):
        return Reply(Outcome.CONTEXT_OVERFLOW, "", detail=message)
    return None


def filtered_reply(status: int, body: bytes) -> Reply | None:
    """The reply for a request that a hosted model's content filter refused; null for any other.

    Sending it again would be refused again: it is the endpoint's answer to this question.
    """
    if status not in (400, 403):
        return None
    message, code = error_message(body)
    return Reply(Outcome.REFUSED, "", detail=message) if code in _FILTER_CODES else None


def error_message(body: bytes) -> tuple[str, str | None]:
    """(message, code) of an error body, in any of the shapes servers use."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[:500].decode("utf-8", "replace").strip(), None
    found = answer.get("error", answer) if isinstance(answer, dict) else answer
    if isinstance(found, dict):
        message = found.get("message") or found.get("detail") or found
        code = found.get("code")
        return _text(message), code if isinstance(code, str) else None
    return _text(found), None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()[:500]


def outcome_of(
    finish_reason: str | None,
    content: str,
    has_tool_calls: bool = False,
    refusal: str | None = None,
) -> Outcome:
    """What became of a call that was answered."""
    if finish_reason == "length":
        return Outcome.TRUNCATED
    if finish_reason == "content_filter" or refusal:
        return Outcome.REFUSED
    if not content.strip() and not has_tool_calls:
        return Outcome.EMPTY
    return Outcome.OK


def usage_of(usage: dict[str, Any] | None) -> Usage:
    """Tokens as the server counted them. Raises TypeError."""
    if not usage:
        return Usage()
    details = usage.get("completion_tokens_details") or {}
    prompt = usage.get("prompt_tokens_details") or {}
    return Usage(
        _count_in(usage, "prompt_tokens"),
        _count_in(usage, "completion_tokens"),
        _count_in(details, "reasoning_tokens"),
        _count_in(prompt, "cached_tokens"),
    )


def text_in(found: dict[str, Any], key: str) -> str | None:
    """A text or null. Raises TypeError."""
    value = found.get(key)
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"{key} is no text")


def _count_in(found: dict[str, Any], key: str) -> int | None:
    value = found.get(key)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise TypeError(f"{key} is no whole number")
