"""One real request per task before the first unit: what would fail for hours fails in seconds.

It goes through the official `openai` client, so that an endpoint which passes speaks the protocol as
everybody else understands it. Its body is the one a unit would send, its headers, its proxy and its
trusted certificates are those of the calls, and nothing of the environment (OPENAI_*) gets in. The
answer is streamed and dropped after its first chunk: the server has then accepted context length,
sampling and seed, and has generated one token instead of a hundred thousand.
"""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING, Any

import orjson

from evalkit.client.limits import is_used_up
from evalkit.client.replies import error_message, filtered_reply, overflow_reply
from evalkit.client.retry import REDIRECT_STATUS
from evalkit.errors import EndpointError, FailureKind, InfraError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, MutableMapping

    import openai

    from evalkit.client.request import Request
    from evalkit.client.target import Target

PREFLIGHT_TIMEOUT_S = 600.0
"""The first request of a large model may compile kernels for minutes."""
_PROTOCOL_HEADERS = frozenset(
    {"host", "accept", "accept-encoding", "content-length", "content-type", "user-agent"}
)
_NEEDED = frozenset({"model", "messages", "stream", "tools", "max_tokens", "max_completion_tokens"})
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


async def preflight(target: Target, request: Request, *, task: str) -> None:
    """Send a chat request and wait for its first chunk.

    Raises EndpointError when the endpoint refuses it, InfraError when it cannot be reached.
    """
    import openai

    fields = orjson.loads(request.payload) | {"stream": True}
    extra = {k: v for k, v in fields.items() if k not in ("model", "messages", "stream")}
    try:
        async with _make_client(target) as client:
            stream = await client.chat.completions.create(
                model=fields["model"], messages=fields["messages"], stream=True, extra_body=extra
            )
            async with stream:
                async for _ in stream:
                    return
    except openai.APIStatusError as error:
        content = target.hide_in(error.response.content)
        if filtered_reply(error.status_code, content) is not None:
            return  # it speaks the protocol, and has an answer of its own to this very question
        raise _refused(
            task, error.status_code, content, fields
        ) from None  # its words may hold the key
    except openai.APIConnectionError as error:
        raise InfraError(
            f"preflight of tasks.{task}: no answer from {target.base_url}: "
            f"{target.hide(str(error))}"
        ) from None
    except openai.OpenAIError as error:
        raise EndpointError(f"preflight of tasks.{task}: {target.hide(str(error))}") from None
    raise EndpointError(
        f"preflight of tasks.{task}: {target.base_url} answered with an empty stream"
    )


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


def _make_client(target: Target) -> openai.AsyncOpenAI:
    import openai

    async def use_our_headers(request: Any) -> None:  # of httpx or httpx2, as the package has it
        _replace_headers(request.headers, target.headers)

    transport = openai.DefaultAsyncHttpxClient(
        proxy=target.proxy,
        trust_env=False,
        verify=ssl.create_default_context(),
        follow_redirects=False,
        event_hooks={"request": [use_our_headers]},
    )
    return openai.AsyncOpenAI(
        base_url=target.base_url,
        api_key="unused",  # the headers carry it
        max_retries=3,
        timeout=PREFLIGHT_TIMEOUT_S,
        http_client=transport,
    )


def _replace_headers(sent: MutableMapping[str, str], headers: Mapping[str, str]) -> None:
    """Send what a call sends: neither the library's own headers nor those of its variables."""
    for name in list(sent):
        if name.lower() not in _PROTOCOL_HEADERS:
            del sent[name]
    sent.update(headers)


def _refused(task: str, status: int, content: bytes, fields: Mapping[str, Any]) -> EndpointError:
    text = content.decode("utf-8", "replace")[:600]
    overflow = overflow_reply(status, content)
    if overflow is not None:
        return EndpointError(
            f"preflight of tasks.{task}: the task does not fit the context: {overflow.detail}",
            hint=f"Raise serving.max_model_len, or lower tasks.{task}.generation.max_tokens.",
            kind=FailureKind.CONTEXT_WINDOW,
        )
    if is_used_up(status, content):
        return EndpointError(
            f"preflight of tasks.{task}: no credits or quota are left for this key: {text}",
            hint="Top it up; then the same command goes on.",
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
    return EndpointError(
        f"preflight of tasks.{task}: the endpoint refused it with {status}: {text}", hint=hint
    )
