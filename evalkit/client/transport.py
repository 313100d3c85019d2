"""HTTP to one endpoint: one keep-alive pool, and every way a try can fail as one of a few exceptions.

What comes back is bytes, or the events of a stream; what they mean is for others. Nothing here tries
again, and nothing waits but for an answer that is promised (202).
"""

from __future__ import annotations

import asyncio
import errno
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import quote

import aiohttp
import orjson

from evalkit.client.limits import TOO_MANY, is_used_up, wait_asked
from evalkit.client.replies import error_message, filtered_reply, overflow_reply
from evalkit.client.retry import REFUSED_STATUS, is_retried
from evalkit.clock import SYSTEM_CLOCK
from evalkit.errors import EndpointError, FailureKind, InfraError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from evalkit.client.target import Target
    from evalkit.store.records import Reply

KEEP_ALIVE_S = 4.0
"""Idle connections are dropped before the server drops them: uvicorn, below vLLM and most others, does
so after 5 s, and a call sent at that moment fails."""
CONNECT_S = 30.0
END_OF_STREAM = b"[DONE]"
ACCEPTED = 202
PENDING_ID = "NVCF-REQID"
"""Header of NVIDIA's API with the number of a request whose answer is fetched at `status/NUMBER`."""
POLL_S = 1.0
OVERLOADED = frozenset({503, 529})
"""Refusals that are everybody's where they say for how long."""


class PassingFaultError(Exception):
    """A try that may succeed when repeated."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after_s: float | None = None,
        dropped: bool = False,
        limited: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        """Status of the answer; null where there was none, or it broke off."""
        self.retry_after_s = retry_after_s
        self.dropped = dropped
        """The server closed the connection without a word."""
        self.limited = limited
        """All calls are to wait: too many came, or the model is being loaded."""


class AnsweredError(Exception):
    """A refusal that is the model's own answer to the request: too long, or filtered."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.detail)
        self.reply = reply


class Refusal(NamedTuple):
    """An answer whose status is not 200."""

    status: int
    body: bytes
    headers: Mapping[str, str] = MappingProxyType({})


class Transport:
    """Requests to one endpoint. An async context manager; use it from one event loop."""

    def __init__(
        self,
        target: Target,
        *,
        limit: int,
        timeout_s: float | None,
        now: Callable[[], float] = SYSTEM_CLOCK.wall,
    ) -> None:
        """`limit` bounds the connections, `timeout_s` (null: nothing) one request; `now` gives seconds
        since 1970."""
        self._target = target
        self._now = now
        self._limit = limit
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S)

    async def __aenter__(self) -> Self:
        """Open the connection pool."""
        connector = aiohttp.TCPConnector(
            limit=self._limit, keepalive_timeout=KEEP_ALIVE_S, enable_cleanup_closed=False
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            headers={"Content-Type": "application/json", **self._target.headers},
            auto_decompress=True,
            read_bufsize=2**18,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the pool; requests in flight fail."""
        await self._session.close()

    async def post(
        self, url: str, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """The body of an answer with status 200.

        Raises PassingFaultError for a try that may be repeated, AnsweredError for the model's own
        refusal, InfraError for any other, EndpointError where no request can succeed.
        """
        try:
            async with self._send(url, payload, headers) as response:
                body = await response.read()
                if response.status == 200:
                    return body
                refusal = self._refusal(response, body)
            if refusal.status == ACCEPTED and PENDING_ID in refusal.headers:
                return await self._fetch(refusal.headers[PENDING_ID])
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._no_answer(url, error) from None
        raise refused(url, refusal, self._now())

    async def _fetch(self, pending: str) -> bytes:
        """The answer to a request that was only accepted. Raises as `post`."""
        url = f"{self._target.base_url}/status/{quote(pending, safe='')}"
        while True:
            async with self._session.get(
                url, proxy=self._target.proxy, allow_redirects=False
            ) as response:
                body = await response.read()
                if response.status == 200:
                    return body
                refusal = self._refusal(response, body)
            if refusal.status != ACCEPTED:
                raise refused(url, refusal, self._now())
            await asyncio.sleep(POLL_S)

    def _send(
        self, url: str, payload: bytes, headers: Mapping[str, str] | None
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._session.post(
            url, data=payload, headers=headers, proxy=self._target.proxy, allow_redirects=False
        )

    async def stream(
        self, url: str, payload: bytes, headers: Mapping[str, str]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a stream, up to its end. Raises as `post`, also in the middle."""
        try:
            async with self._send(url, payload, headers) as response:
                if response.status != 200:
                    refusal = self._refusal(response, await response.read())
                    raise refused(url, refusal, self._now())
                async for data in read_events(response.content.iter_any()):
                    yield parse_event(data, self._target.hide_in)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._no_answer(url, error) from None

    def _refusal(self, response: aiohttp.ClientResponse, body: bytes) -> Refusal:
        hidden = self._target.hide_in(body)
        return Refusal(response.status, hidden, response.headers)

    def _no_answer(self, url: str, error: Exception) -> PassingFaultError:
        """Raise it without its cause, whose words may hold our headers."""
        text = self._target.hide(f"no answer from {url}: {error!r}")
        return PassingFaultError(text, dropped=_is_drop(error))


async def read_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Data of server-sent events. Lines may be long: a prompt's ids come in one."""
    rest = bytearray()
    async for chunk in chunks:
        rest += chunk
        if b"\n" not in chunk:
            continue
        *lines, last = bytes(rest).split(b"\n")
        rest = bytearray(last)
        for line in lines:
            if line.startswith(b"data:"):
                data = line[5:].strip()
                if data == END_OF_STREAM:
                    return
                yield data


def parse_event(data: bytes, hide: Callable[[bytes], bytes]) -> dict[str, Any]:
    """One event's JSON. Raises PassingFaultError for a broken one, or one that tells of an error.

    `hide` takes secrets out of what is told of it.
    """
    try:
        event = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise PassingFaultError(f"a broken event in a stream: {hide(data)[:200]!r}") from error
    if not isinstance(event, dict) or event.get("error"):
        raise PassingFaultError(f"error in a stream: {error_message(hide(data))[0]}", status=500)
    return event


def refused(url: str, refusal: Refusal, now: float) -> Exception:
    """What a status other than 200 means; `now` is in seconds since 1970."""
    status, body, headers = refusal
    after_s = wait_asked(headers, body, now)
    if is_used_up(status, body, asks_to_wait=bool(after_s)):
        return EndpointError(
            f"{url} has no credits or quota left for this key (status {status}): "
            f"{error_message(body)[0]}",
            hint="Nothing is lost: top it up, then the same command or `evalkit resume` goes on.",
        )
    if is_retried(status):
        message = f"status {status}: {error_message(body)[0]}"
        limited = status == TOO_MANY or (status in OVERLOADED and after_s is not None)
        return PassingFaultError(message, status=status, retry_after_s=after_s, limited=limited)
    models_own = overflow_reply(status, body) or filtered_reply(status, body)
    if models_own is not None:
        return AnsweredError(models_own)
    message = f"{url} refused with status {status}: {error_message(body)[0]}"
    if status in REFUSED_STATUS:
        return EndpointError(message, hint="Check the key, the model id and the base URL.")
    return InfraError(message, kind=FailureKind.CLIENT_ERROR)


def _is_drop(error: Exception) -> bool:
    """Whether the server closed a connection that was open."""
    reset = isinstance(error, OSError) and error.errno == errno.ECONNRESET
    return reset or isinstance(error, (aiohttp.ServerDisconnectedError, ConnectionResetError))
