"""Answers of `/completions`: a text, or how likely the text was that was sent.

The log-probabilities of a prompt are thousands of numbers, of which a sum is wanted: they are reduced
here, before anything is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from evalkit.client.replies import (
    INTERRUPTED,
    MalformedReplyError,
    Split,
    ThinkTags,
    WrongModelError,
    malformed,
    outcome_of,
    parse_reply,
    split_reasoning,
    text_in,
    usage_of,
)
from evalkit.errors import EndpointError
from evalkit.recipe.request import Reasoning
from evalkit.store.records import Outcome, Reply

if TYPE_CHECKING:
    from evalkit.client.request import Measured, Request

UNSAID = ThinkTags.of(Reasoning())
"""Tags of a recipe that says nothing of them. They are for chats alone: a completion is mostly asked of a
model that does not reason, and where it is to be read literally (code, a passage) a tag is text like any
other. A recipe with other tags means them."""


LOGPROBS_HINT = (
    "The task asks how likely given texts are, on /completions with echo and logprobs. Serve the model "
    "here (serving.kind: vllm), or set serving.base_url to an endpoint that answers this; else take a "
    "task that has the model write its answers."
)


class NoLogprobsError(ValueError):
    """An answer without the log-probabilities of the prompt that were asked for."""


def without_logprobs(url: str, what: str) -> EndpointError:
    """An endpoint that does not say how likely a prompt is."""
    return EndpointError(
        f"{url} was asked how likely a given text is (echo, logprobs: 1), and gave {what}",
        hint=LOGPROBS_HINT,
    )


def parse_answer(
    request: Request, body: bytes, think_tags: ThinkTags | None, model: str | None = None
) -> Reply:
    """The reply to a request of any route. Raises as `parse_reply`, and NoLogprobsError."""
    if request.route == "chat/completions":
        return parse_reply(body, think_tags, model)
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise malformed(body, error) from error
    return read_completion(answer, think_tags, model, body, request.measured)


def read_completion(
    answer: Any,
    think_tags: ThinkTags | None,
    model: str | None,
    body: bytes = b"",
    measured: Measured | None = None,
) -> Reply:
    """The reply in a decoded completion; `body` is shown where it is none. Raises as `parse_answer`."""
    try:
        choice = answer["choices"][0]
        text = text_in({"text": choice["text"]}, "text") or ""
        finish_reason = text_in(choice, "finish_reason")
        usage = usage_of(answer.get("usage"))
        logprobs = choice.get("logprobs")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise malformed(body, error) from error
    if model is not None and answer.get("model") != model:
        raise WrongModelError(f"asked {model!r}, answered by {answer.get('model')!r}")
    if finish_reason in INTERRUPTED:
        raise MalformedReplyError(f"the server interrupted the generation ({finish_reason})")
    if measured is not None:
        if usage.prompt_tokens not in (None, measured.end):
            raise NoLogprobsError(
                f"a prompt of {measured.end} tokens was read as {usage.prompt_tokens}"
            )
        likelihood = measure(logprobs, measured)
        return Reply(Outcome.OK, "", finish_reason=finish_reason, usage=usage, logprobs=likelihood)
    split = Split(text, None)
    if think_tags is not None and think_tags != UNSAID:
        split = split_reasoning(text, think_tags)
    return Reply(
        outcome=outcome_of(finish_reason, split.content),
        content=split.content,
        reasoning=split.reasoning,
        finish_reason=finish_reason,
        usage=usage,
        logprobs=logprobs,
    )


def measure(logprobs: Any, measured: Measured) -> dict[str, Any]:
    """`{"sum": of the natural logarithms, "is_greedy": each token is the likeliest}`.

    A token is the likeliest when none of those that the server names is likelier, as lm-eval 0.4 has it
    (`parse_logprobs`). The first token of a prompt has no log-probability, and is never among them.
    Raises NoLogprobsError.
    """
    start, end = measured
    try:
        tokens = logprobs["token_logprobs"][start:end]
        tops = logprobs["top_logprobs"][start:end]
        if len(tokens) != end - start or len(tops) != end - start:
            raise NoLogprobsError(f"log-probabilities of {len(tokens)} of {end - start} tokens")
        is_greedy = all(token == max(top.values()) for token, top in zip(tokens, tops, strict=True))
        return {"sum": float(sum(tokens)), "is_greedy": is_greedy}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, NoLogprobsError):
            raise
        raise NoLogprobsError(f"no log-probabilities of the prompt ({error!r})") from error
