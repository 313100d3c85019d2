"""One request through the official `openai` client: an endpoint that passes it speaks the protocol as
everybody else understands it.

Its headers, its proxy and its trusted certificates are those of the calls, and nothing of the
environment (OPENAI_*) gets in.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from evalkit.client.limits import wait_asked
from evalkit.clock import SYSTEM_CLOCK
from evalkit.errors import EndpointError, InfraError

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    import openai

    from evalkit.client.request import Request
    from evalkit.client.target import Target

_PROTOCOL_HEADERS = frozenset(
    {"host", "accept", "accept-encoding", "content-length", "content-type", "user-agent"}
)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an endpoint is waited for."""

    connect_s: float
    answer_s: float
    retries: int
    """After failures that may pass."""


LIMITS = ("max_tokens", "max_completion_tokens")
OURS = Patience(connect_s=600.0, answer_s=600.0, retries=3)
"""The first request of a large model may compile kernels for minutes."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What an endpoint answered."""

    status: int
    body: bytes
    """Without secrets where the status is not 200; empty for a stream, which is dropped."""
    wait_s: float | None = None
    """Seconds that a refusal asks to wait, in its headers or its body; null where it says none."""


async def send_trial(
    target: Target, request: Request, *, stream: bool, patience: Patience = OURS
) -> Answered:
    """Send a request of any route; of a stream only the first chunk is waited for.

    Raises InfraError where nobody answers, EndpointError for something that is no chat endpoint.
    """
    import openai

    fields = orjson.loads(request.payload) | {"stream": stream}
    what = "messages" if request.route == "chat/completions" else "prompt"
    extra = {k: v for k, v in fields.items() if k not in ("model", what)}
    asked = {"model": fields["model"], what: fields[what], "extra_body": extra}
    try:
        if stream:
            async with _make_client(target, patience) as client:
                if await _has_first_chunk(_route(client, request), asked):
                    return Answered(200, b"")
            # one token is enough to know an endpoint that streams nothing
            extra |= {name: 1 for name in LIMITS if name in extra} or {LIMITS[0]: 1}
            extra["stream"] = False
        bodies: list[bytes] = []
        async with _make_client(target, patience, bodies) as client:
            await _route(client, request).create(**asked)
        if stream:
            _check_answer(bodies[-1], target)
        return Answered(200, bodies[-1])
    except openai.APIStatusError as error:
        answer = error.response
        wait_s = wait_asked(answer.headers, answer.content, SYSTEM_CLOCK.wall())
        # its words may hold the key
        return Answered(error.status_code, target.hide_in(answer.content), wait_s)
    except openai.APIConnectionError as error:
        raise InfraError(f"no answer from {target.base_url}: {target.hide(str(error))}") from None
    except openai.OpenAIError as error:
        raise EndpointError(target.hide(str(error))) from None


def _route(client: openai.AsyncOpenAI, request: Request) -> Any:
    return client.chat.completions if request.route == "chat/completions" else client.completions


async def _has_first_chunk(route: Any, asked: Mapping[str, Any]) -> bool:
    stream = await route.create(**asked, stream=True)
    async with stream:
        async for _ in stream:
            return True
    return False


def _check_answer(body: bytes, target: Target) -> None:
    """Raise EndpointError for a 200 that is no answer of a chat endpoint."""
    shown = target.hide_in(body[:200]).decode("utf-8", "replace")
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise EndpointError(
            f"{target.base_url} answered 200 with what is no JSON: {shown!r}",
            hint="Is that the base URL of an OpenAI-compatible API, up to and including its /v1?",
        ) from None
    if not isinstance(answer, dict) or not answer.get("choices"):
        raise EndpointError(
            f"{target.base_url} answered 200 without an answer: {shown!r}",
            hint="Check the model id, and what the endpoint says.",
        )


def _make_client(
    target: Target, patience: Patience, bodies: list[bytes] | None = None
) -> openai.AsyncOpenAI:
    """A client that lays answers' bodies into `bodies`, where that is given: the library's own way to
    show them is a header, and ours replace those."""
    import openai

    async def keep_body(response: Any) -> None:
        if bodies is not None:
            bodies.append(await response.aread())

    async def use_our_headers(request: Any) -> None:  # of httpx or httpx2, as the package has it
        _replace_headers(request.headers, target.headers)

    transport = openai.DefaultAsyncHttpxClient(
        proxy=target.proxy,
        trust_env=False,
        verify=ssl.create_default_context(),
        follow_redirects=False,
        event_hooks={"request": [use_our_headers], "response": [keep_body]},
    )
    return openai.AsyncOpenAI(
        base_url=target.base_url,
        api_key="unused",  # the headers carry it
        max_retries=patience.retries,
        timeout=openai.Timeout(patience.answer_s, connect=patience.connect_s),
        http_client=transport,
    )


def _replace_headers(sent: MutableMapping[str, str], headers: Mapping[str, str]) -> None:
    """Send what a call sends: neither the library's own headers nor those of its variables."""
    for name in list(sent):
        if name.lower() not in _PROTOCOL_HEADERS:
            del sent[name]
    sent.update(headers)
