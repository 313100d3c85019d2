"""What the gateway reads and writes: OpenAI's request bodies, answers, streams and errors, as values.

Answers are complete when they come here, so a stream of one is a handful of events. Reasoning goes out
under both of its names, for clients know one or the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import orjson

from evalkit.errors import EvalkitError, FailureKind, InfraError, ScorerError
from evalkit.store.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evalkit.store.records import Reply

Route: TypeAlias = Literal["chat/completions", "completions"]
ROUTES: dict[str, Route] = {
    "/v1/chat/completions": "chat/completions",
    "/v1/completions": "completions",
}
MOST_CHOICES = 4096
"""Of one request: each is a call of its own."""
ANSWERED_ABOVE = frozenset({"n", "stream", "stream_options"})
"""Fields that say how the answer is to be handed over."""


class RefusedError(Exception):
    """A request that gets an error, in OpenAI's form."""

    def __init__(self, status: int, message: str, code: str, kind: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.kind = kind or ("invalid_request_error" if status < 500 else "server_error")

    @property
    def body(self) -> dict[str, Any]:
        """The error's JSON."""
        error = {"message": str(self), "type": self.kind, "param": None, "code": self.code}
        return {"error": error}


@dataclass(frozen=True, slots=True)
class Asking:
    """One request of a program."""

    route: Route
    model: str
    number: str
    """Id of its answer."""
    created: int
    """Unix time (s)."""
    bodies: Sequence[dict[str, Any]]
    """What is asked, a call each, in the order of the choices."""
    per_prompt: int
    """Choices of one prompt."""
    streams: bool
    with_usage: bool
    """A stream ends with the usage."""

    @property
    def is_chat(self) -> bool:
        """Whether it came to the route for chats."""
        return self.route == "chat/completions"

    def head(self, kind: str) -> dict[str, Any]:
        """What all answers and events begin with."""
        return {"id": self.number, "object": kind, "created": self.created, "model": self.model}


def read_body(content: bytes) -> dict[str, Any]:
    """A request's body. Raises RefusedError."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise RefusedError(400, f"the body is no JSON: {error}", "invalid_json") from None
    if not isinstance(body, dict):
        raise RefusedError(400, "the body is no JSON object", "invalid_json")
    return body


def read_request(
    route: Route, body: dict[str, Any], model: str, number: str, created: int
) -> Asking:
    """A request, taken apart: `n` answers and a list of prompts are that many calls. Raises
    RefusedError."""
    if body.get("model") is not None:
        check_model(body["model"], model)
    n = body.get("n")
    n = 1 if n is None else n
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise RefusedError(400, f"n is a whole number from 1 on, not {n!r}", "invalid_value")
    rest = {name: value for name, value in body.items() if name not in ANSWERED_ABOVE}
    if route == "chat/completions":
        prompts = [rest]
    else:
        prompts = [rest | {"prompt": prompt} for prompt in split_prompt(body.get("prompt"))]
    if len(prompts) * n > MOST_CHOICES:
        raise RefusedError(
            400, f"more than {MOST_CHOICES} answers in one request; send several", "invalid_value"
        )
    options = body.get("stream_options")
    return Asking(
        route=route,
        model=model,
        number=f"{'chatcmpl' if route == 'chat/completions' else 'cmpl'}-{number}",
        created=created,
        bodies=[prompt for prompt in prompts for _ in range(n)],
        per_prompt=n,
        streams=bool(body.get("stream")),
        with_usage=isinstance(options, dict) and bool(options.get("include_usage")),
    )


def check_model(asked: Any, model: str) -> None:
    """Raise RefusedError for another model than the one that is served."""
    if asked != model:
        text = f"The model `{asked}` is not served here; ask for `{model}`."
        raise RefusedError(404, text, "model_not_found")


def split_prompt(prompt: Any) -> list[Any]:
    """The prompts of a completion: texts, or lists of token ids."""
    is_many = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    return prompt if is_many else [prompt]


def refusal_of(error: EvalkitError) -> RefusedError:
    """What a program is told of a call that failed. It is not asked to try again: that was done."""
    is_ours = isinstance(error, ScorerError) or error.kind is FailureKind.CLIENT_ERROR
    if is_ours:
        return RefusedError(400, error.message, "invalid_request")
    kind = "unit" if isinstance(error, InfraError) else "attempt"
    return RefusedError(503, f"{error.message} (this {kind} is not scored)", "no_answer")


def refusal_in(replies: Sequence[Reply]) -> RefusedError | None:
    """The first answer that servers give as an error: too long, or filtered; null for none."""
    for reply in replies:
        if reply.outcome is Outcome.CONTEXT_OVERFLOW:
            return RefusedError(400, reply.detail or "too long", "context_length_exceeded")
        if reply.outcome is Outcome.REFUSED and reply.finish_reason is None and not reply.content:
            return RefusedError(400, reply.detail or "filtered", "content_filter")
    return None


def whole(asking: Asking, replies: Sequence[Reply]) -> dict[str, Any]:
    """The answer in one piece."""
    choices = []
    for index, reply in enumerate(replies):
        shown = {"message": _message(reply)} if asking.is_chat else {"text": reply.content}
        choices.append({"index": index, **shown, **_end(reply)})
    kind = "chat.completion" if asking.is_chat else "text_completion"
    return {**asking.head(kind), "choices": choices, "usage": usage(asking, replies)}


def events(asking: Asking, replies: Sequence[Reply]) -> Iterator[dict[str, Any]]:
    """The answer as the events of a stream, without its end."""
    head = asking.head("chat.completion.chunk" if asking.is_chat else "text_completion")
    for index, reply in enumerate(replies):
        for choice in _deltas(reply) if asking.is_chat else _texts(reply):
            yield {**head, "choices": [{"index": index, **choice}]}
    if asking.with_usage:
        yield {**head, "choices": [], "usage": usage(asking, replies)}


def usage(asking: Asking, replies: Sequence[Reply]) -> dict[str, Any] | None:
    """Tokens of all answers; null where the server counted none. A prompt counts once."""
    prompts = [reply.usage.prompt_tokens for reply in replies[:: asking.per_prompt]]
    answers = [reply.usage.completion_tokens for reply in replies]
    if None in prompts or None in answers:
        return None
    prompt, answer = _sum(prompts), _sum(answers)
    found: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
    }
    reasoning = [reply.usage.reasoning_tokens for reply in replies]
    if None not in reasoning:
        found["completion_tokens_details"] = {"reasoning_tokens": _sum(reasoning)}
    cached = [reply.usage.cached_tokens for reply in replies[:: asking.per_prompt]]
    if None not in cached:
        found["prompt_tokens_details"] = {"cached_tokens": _sum(cached)}
    return found


def _sum(counts: Sequence[int | None]) -> int:
    return sum(count or 0 for count in counts)


def _message(reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", **_content(reply)}
    if reply.outcome is Outcome.REFUSED and reply.detail:
        message["refusal"] = reply.detail
    if reply.tool_calls:
        message["tool_calls"] = reply.tool_calls
    return message | _reasoning(reply)


def _content(reply: Reply) -> dict[str, Any]:
    return {"content": reply.content or (None if reply.tool_calls else "")}


def _reasoning(reply: Reply) -> dict[str, Any]:
    if reply.reasoning is None:
        return {}
    return {"reasoning": reply.reasoning, "reasoning_content": reply.reasoning}


def _end(reply: Reply) -> dict[str, Any]:
    reason = reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop")
    return {"logprobs": reply.logprobs, "finish_reason": reason}


def _deltas(reply: Reply) -> Iterator[dict[str, Any]]:
    def delta(fields: dict[str, Any], logprobs: Any = None) -> dict[str, Any]:
        return {"delta": fields, "logprobs": logprobs, "finish_reason": None}

    yield delta({"role": "assistant", "content": ""})
    if reply.reasoning is not None:
        yield delta(_reasoning(reply))
    if reply.content:
        yield delta({"content": reply.content}, reply.logprobs)
    if reply.outcome is Outcome.REFUSED and reply.detail:
        yield delta({"refusal": reply.detail})
    for index, call in enumerate(reply.tool_calls):
        yield delta({"tool_calls": [{**call, "index": index}]})
    yield {"delta": {}, **_end(reply), "logprobs": None}


def _texts(reply: Reply) -> Iterator[dict[str, Any]]:
    yield {"text": reply.content, "logprobs": reply.logprobs, "finish_reason": None}
    yield {"text": "", **_end(reply), "logprobs": None}
