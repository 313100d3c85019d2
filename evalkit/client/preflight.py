"""One real request per task before the first unit: what would fail for hours fails in seconds.

Its body is the one a unit would send. The answer is streamed and dropped after its first chunk: the
server has then accepted context length, sampling, tools and seed, and has generated one token instead
of a hundred thousand.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson

from evalkit.client.completions import (
    LOGPROBS_HINT,
    NoLogprobsError,
    parse_answer,
    without_logprobs,
)
from evalkit.client.limits import TOO_MANY, is_used_up
from evalkit.client.replies import (
    MalformedReplyError,
    error_message,
    filtered_reply,
    overflow_reply,
)
from evalkit.client.retry import REDIRECT_STATUS
from evalkit.client.trial import send_trial
from evalkit.errors import EndpointError, FailureKind, InfraError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from evalkit.client.request import Request
    from evalkit.client.target import Target
    from evalkit.client.trial import Answered

TOOLS_HINT = (
    "Its calls offer tools, which vLLM takes with a parser only: set serving.tool_call_parser (vLLM's "
    "--enable-auto-tool-choice --tool-call-parser NAME), or start the endpoint with these options."
)


_NEEDED = frozenset(
    {
        "model",
        "messages",
        "prompt",
        "echo",
        "logprobs",
        "stream",
        "tools",
        "max_tokens",
        "max_completion_tokens",
    }
)
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


async def preflight(target: Target, request: Request, *, task: str) -> None:
    """Send a request and wait for the first chunk of its answer, or for the log-probabilities of its
    prompt where those are asked for.

    Raises EndpointError when the endpoint refuses it, InfraError when it cannot be reached.
    """
    try:
        answered = await send_trial(target, request, stream=request.measured is None)
    except (EndpointError, InfraError) as error:
        error.message = f"preflight of tasks.{task}: {error.message}"
        raise
    if answered.status == 200 or filtered_reply(answered.status, answered.body) is not None:
        if request.measured is not None and answered.status == 200:
            _check_logprobs(target, request, answered.body, task)
        return  # of a filter: an endpoint that has an answer of its own to this very question
    refusal = _refused(task, answered, orjson.loads(request.payload))
    if request.measured is not None and refusal.kind is not FailureKind.CONTEXT_WINDOW:
        refusal.hint = f"{refusal.hint}\n{LOGPROBS_HINT}"
    raise refusal


def _check_logprobs(target: Target, request: Request, body: bytes, task: str) -> None:
    try:
        parse_answer(request, body, None)
    except (NoLogprobsError, MalformedReplyError) as problem:
        error = without_logprobs(target.url_of(request.route), target.hide(str(problem)))
        error.message = f"preflight of tasks.{task}: {error.message}"
        raise error from None


def refused_fields(content: bytes, fields: Mapping[str, Any]) -> list[str]:
    """Fields of a request that a refusal speaks of: by its `param`, by a `loc`, or in its words. Not those
    that nobody goes without."""
    try:
        told = orjson.loads(content)
    except orjson.JSONDecodeError:
        told = {}
    places = set(_places(told))
    words = set(_WORD.findall(error_message(content)[0]))
    droppable = [name for name in fields if name not in _NEEDED]
    return [name for name in droppable if name in places] or [n for n in droppable if n in words]


def _places(told: Any) -> Iterator[str]:
    """What an error gives as the place of the problem, however deep that stands."""
    if isinstance(told, list):
        for each in told:
            yield from _places(each)
    elif isinstance(told, dict):
        for key, value in told.items():
            if key in ("param", "loc"):
                parts = value if isinstance(value, list) else [value]
                yield from (str(part) for part in parts)
            else:
                yield from _places(value)


def _refused(task: str, answered: Answered, fields: Mapping[str, Any]) -> EndpointError:
    status, content = answered.status, answered.body
    text = content.decode("utf-8", "replace")[:600]
    overflow = overflow_reply(status, content)
    if overflow is not None:
        return EndpointError(
            f"preflight of tasks.{task}: the task does not fit the context: {overflow.detail}",
            hint=f"Raise serving.max_model_len, or lower tasks.{task}.generation.max_tokens.",
            kind=FailureKind.CONTEXT_WINDOW,
        )
    if is_used_up(status, content, asks_to_wait=bool(answered.wait_s)):
        return EndpointError(
            f"preflight of tasks.{task}: no credits or quota are left for this key: {text}",
            hint="Top it up; then the same command goes on.",
        )
    if status == TOO_MANY:
        wait = "" if answered.wait_s is None else f" for {answered.wait_s:.3g} s"
        return EndpointError(
            f"preflight of tasks.{task}: the endpoint's limit is reached, and it asks to wait{wait}: {text}",
            hint="Others may use this key. The same command goes on later.",
            kind=FailureKind.ENDPOINT,
        )
    named = refused_fields(content, fields) if status in (400, 422) else []
    if named:
        names = ", ".join(named)
        return EndpointError(
            f"preflight of tasks.{task}: the endpoint refused it with {status} and names {names}: "
            f"{text}",
            hint=f"To go without, set request.remove to [{names}] (for all tasks, or in "
            f"tasks.{task}); results then say so. To send it under another name, use request.rename.",
        )
    if status in (401, 403):
        hint = "Check the key: serving.api_key_env names the variable that holds it."
    elif status == 404 or status in REDIRECT_STATUS:
        hint = "Check the model id and serving.base_url."
    else:
        hint = f"Check tasks.{task}.generation and the serving settings."
        if "tools" in fields:
            hint += f" {TOOLS_HINT}"
    return EndpointError(
        f"preflight of tasks.{task}: the endpoint refused it with {status}: {text}", hint=hint
    )
