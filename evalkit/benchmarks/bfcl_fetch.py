"""Pages of the web at addresses that a model chose, for BFCL's web search.

Whoever runs this is inside a cluster, and a model may ask for anything, or be sent there by a page: so
only public addresses are connected to, looked at after their name was resolved and anew for each
redirect, and the address that was looked at is the one that is used. A page has a limit in bytes and in
seconds. What may pass (no connection, a server that is busy) is tried again; what remains is told to the
model in the original's words, since the web is so, unless the web as a whole cannot be reached.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from evalkit.benchmarks.bfcl_web import PassingSearchError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

FETCH_S = 20.0
"""For one try, redirects and the whole page included, as in the original for each wait."""
FETCH_TRIES = 3
FIRST_WAIT_S = 2.0
"""Doubled after each try: a page that does not answer costs a minute at most."""
MOST_BYTES = 8 * 2**20
"""Of a page, unpacked; the next message of the dialogue holds all of it."""
MOST_REDIRECTS = 30
CONTROL_S = 10.0
BUSY = (429, 500, 502, 503, 504)
UNREACHABLE = (aiohttp.ClientError, TimeoutError, OSError)
_LASTING = (
    aiohttp.InvalidURL,
    aiohttp.ClientConnectorCertificateError,
    aiohttp.ClientConnectorSSLError,
)
_NOT_RENDERED = (AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What the libraries raise on pages that are no HTML."""
_REDIRECTS = (301, 302, 303, 307, 308)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_HEADERS = {
    "User-Agent": "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 "
    "(KHTML, like Gecko) Chrome/112.0.0.0 Safari/537.36",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,"
    "image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7",
    "Accept-Language": "en-US,en;q=0.9",
    "Accept-Encoding": "gzip, deflate",
    "Upgrade-Insecure-Requests": "1",
    "Referer": "https://www.google.com/",
    "Sec-Fetch-Site": "same-origin",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-User": "?1",
    "Sec-Fetch-Dest": "document",
}
"""A browser's, as in the original: many sites answer nothing else."""

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


class PageError(Exception):
    """Why there is no page, as the model is told. It lasts."""


class PassingPageError(PageError):
    """Asking again may help. `answered` where a server said so."""

    def __init__(self, reason: str, *, answered: bool) -> None:
        super().__init__(reason)
        self.answered = answered


@dataclass(frozen=True, slots=True)
class Pages:
    """Pages straight from the web."""

    control: tuple[str, int]
    """Host and port that can be connected to wherever the web can be reached at all."""
    allow_private: bool = False
    """Also connect to addresses that are not public."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def fetch(self, url: str, mode: str) -> dict[str, str]:
        """`{"content": ...}`, or `{"error": ...}` as the web has it, in words close to the original's.

        Raises PassingSearchError where not even the control can be reached.
        """
        try:
            text = await self._persist(url)
            return {"content": await asyncio.to_thread(render_page, text, mode)}
        except (PageError, *_NOT_RENDERED) as error:
            reason = str(error) or type(error).__name__
            return {"error": f"An error occurred while fetching {url}: {reason}"}

    async def _persist(self, url: str) -> str:
        """The page's text. Raises PageError, PassingSearchError."""
        wait = FIRST_WAIT_S
        for _ in range(FETCH_TRIES - 1):
            try:
                return await self._get(url)
            except PassingPageError:
                await self.sleep(wait)
                wait *= 2
        try:
            return await self._get(url)
        except PassingPageError as error:
            if not error.answered and not await self._is_online():
                host, port = self.control
                raise PassingSearchError(f"{host}:{port} cannot be reached either") from error
            raise

    async def _is_online(self) -> bool:
        host, port = self.control
        try:
            async with asyncio.timeout(CONTROL_S):
                _, writer = await asyncio.open_connection(host, port)
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError):
            return False
        return True

    async def _get(self, url: str) -> str:
        """One try. Raises PageError."""
        try:
            async with asyncio.timeout(FETCH_S), self._session() as session:
                return await self._follow(session, URL(url))
        except _LASTING as error:
            raise PageError(str(error) or type(error).__name__) from error
        except UNREACHABLE as error:
            reason = str(error) or type(error).__name__
            raise PassingPageError(reason, answered=False) from error
        except ValueError as error:  # of yarl, for what is no address
            raise PageError(str(error)) from error

    async def _follow(self, session: aiohttp.ClientSession, url: URL) -> str:
        for _ in range(MOST_REDIRECTS + 1):
            self._check(url)
            async with session.get(url, headers=_HEADERS, allow_redirects=False) as response:
                target = response.headers.get("Location")
                if response.status not in _REDIRECTS or target is None:
                    return await _read_page(response)
                url = response.url.join(URL(target))
        raise PageError(f"Exceeded {MOST_REDIRECTS} redirects.")

    def _check(self, url: URL) -> None:
        """Raises PageError for another scheme, and for an address without a name that is not public:
        those are not asked for at the resolver."""
        if url.scheme not in ("http", "https") or not url.host:
            raise PageError(f"No connection adapters were found for {str(url)!r}")
        if self.allow_private or not _is_numeric(url.host):
            return
        if not is_public(url.host):
            raise _refused(url.host)

    def _session(self) -> aiohttp.ClientSession:
        resolver = ThreadedResolver()
        connector = aiohttp.TCPConnector(
            resolver=resolver if self.allow_private else PublicResolver(resolver)
        )
        return aiohttp.ClientSession(connector=connector)


class PublicResolver(AbstractResolver):
    """Resolves names, and keeps only public addresses: no other is ever connected to."""

    def __init__(self, inner: AbstractResolver) -> None:
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises PageError where none is left, OSError where there is none."""
        found = await self._inner.resolve(host, port, family)
        public = [each for each in found if is_public(each["host"])]
        if not public:
            raise _refused(host)
        return public

    async def close(self) -> None:
        """Release it."""
        await self._inner.close()


def is_public(text: str) -> bool:
    """Whether an address in numbers is one of the internet's; also of those that IPv6 wraps around
    one of IPv4. What is no address as it is usually written (`127.1`, `2130706433`) is none."""
    try:
        address: Address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    wrapped = _wrapped(address)
    if wrapped is not None:
        return is_public(str(wrapped))
    reserved = address.is_reserved or address.is_multicast
    return address.is_global and not reserved and not getattr(address, "is_site_local", False)


def _wrapped(address: Address) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)


def _is_numeric(host: str) -> bool:
    """aiohttp asks no resolver for such a host."""
    return ":" in host or host.replace(".", "").isdigit()


def _refused(host: str) -> PageError:
    return PageError(f"{host} has no public address")


async def _read_page(response: aiohttp.ClientResponse) -> str:
    """Raises PageError."""
    if response.status >= 400:
        side = "Client" if response.status < 500 else "Server"
        reason = f"{response.status} {side} Error: {response.reason} for url: {response.url}"
        if response.status in BUSY:
            raise PassingPageError(reason, answered=True)
        raise PageError(reason)
    body = await read_bounded(response, MOST_BYTES)
    if body is None:
        raise PageError(f"the page has more than {MOST_BYTES:,} bytes")
    try:
        return body.decode(response.charset or "utf-8", errors="replace")
    except LookupError:  # a character set that nobody knows
        return body.decode(errors="replace")


async def read_bounded(response: aiohttp.ClientResponse, most: int) -> bytes | None:
    """The unpacked body; null, without reading on, where it has more than `most` bytes."""
    body = bytearray()
    async for part in response.content.iter_chunked(65536):
        body += part
        if len(body) > most:
            return None
    return bytes(body)


def render_page(text: str, mode: str) -> str:
    """A page's HTML as the model asked for it."""
    if mode == "markdown":
        import html2text

        markdown: str = html2text.HTML2Text().handle(text)
        return markdown
    if mode == "truncate":
        from bs4 import BeautifulSoup

        soup: Any = BeautifulSoup(text, "html.parser")
        for each in soup(["script", "style"]):
            each.extract()
        return str(soup.get_text(separator="\n", strip=True))
    return text
