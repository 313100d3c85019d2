"""Pages at addresses that a model chose: what is refused, what is tried again, what is told."""

from __future__ import annotations

import gzip
import ipaddress
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from evalkit.benchmarks import bfcl_fetch
from evalkit.benchmarks.bfcl_fetch import (
    MOST_BYTES,
    PageError,
    Pages,
    PublicResolver,
    is_public,
    render_page,
)
from evalkit.benchmarks.bfcl_web import PassingSearchError
from evalkit.errors import RecipeError
from tests.unit.benchmarks.bfcl_support import make

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOWHERE = ("127.0.0.1", 1)
FLAT = b"x" * (MOST_BYTES + 1)

SITE = {
    "/page": (b"<p>hi</p>", {"Content-Type": "text/html"}),
    "/latin": ("é".encode("latin-1"), {"Content-Type": "text/html; charset=latin-1"}),
    "/odd": ("é".encode(), {"Content-Type": "text/html; charset=martian"}),
    "/large": (FLAT, {}),
    "/bomb": (gzip.compress(FLAT), {"Content-Encoding": "gzip"}),
}


@dataclass
class Site:
    """A server, and what came to it."""

    address: str = ""
    control: tuple[str, int] = NOWHERE
    asked: list[str] = field(default_factory=list)
    answers: list[web.Response] = field(default_factory=list)
    """For `/next`, in order."""
    waits: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def pages(self, **changes: Any) -> Pages:
        """Which may come here."""
        values = {"control": self.control, "allow_private": True, "sleep": self.sleep}
        return Pages(**(values | changes))

    async def fetch(self, path: str, **changes: Any) -> dict[str, str]:
        """A page of it, raw."""
        return await self.pages(**changes).fetch(self.address + path, "raw")

    def told(self, path: str, reason: str) -> dict[str, str]:
        """How a model hears of it."""
        return {"error": f"An error occurred while fetching {self.address}{path}: {reason}"}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """On this machine, so it may only be reached where private addresses may."""
    site = Site()

    async def answer(request: web.Request) -> web.StreamResponse:
        site.asked.append(request.path_qs)
        assert request.headers["User-Agent"].startswith("Mozilla/5.0")
        if request.path == "/next":
            return site.answers.pop(0)
        if request.path == "/to":
            return web.Response(status=302, headers={"Location": request.query["where"]})
        if request.path in SITE:
            body, headers = SITE[request.path]
            return web.Response(body=body, headers=headers)
        return web.Response(status=404)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    server = TestServer(app)
    await server.start_server()
    site.address = str(server.make_url("")).rstrip("/")
    site.control = (str(server.host), int(server.port or 0))
    yield site
    await server.close()


async def test_pages_are_fetched_and_what_the_web_says_is_told(site: Site) -> None:
    """A page in its character set, or what the server says of it; that lasts, so it is asked once."""
    assert await site.fetch("/page") == {"content": "<p>hi</p>"}
    assert await site.fetch("/latin") == {"content": "é"}
    assert await site.fetch("/odd") == {"content": "é"}
    reason = f"404 Client Error: Not Found for url: {site.address}/none"
    assert await site.fetch("/none") == site.told("/none", reason)
    assert (site.asked.count("/none"), site.waits) == (1, [])


async def test_a_busy_server_is_asked_again(site: Site) -> None:
    """Three times with growing waits; then the web is so, and the model is told."""
    site.answers = [
        web.Response(status=503),
        web.Response(status=429),
        web.Response(text="at last"),
    ]
    assert await site.fetch("/next") == {"content": "at last"}
    assert site.waits == [2.0, 4.0]
    site.answers = [web.Response(status=500) for _ in range(3)]
    reason = f"500 Server Error: Internal Server Error for url: {site.address}/next"
    assert await site.fetch("/next") == site.told("/next", reason)


async def test_no_connection_is_told_only_where_others_can_be_made(site: Site) -> None:
    """Else it is our network that is down, which is no answer to a model."""
    told = await site.pages().fetch("http://127.0.0.1:1/", "raw")
    assert told["error"].startswith("An error occurred while fetching http://127.0.0.1:1/: Cannot")
    assert site.waits == [2.0, 4.0]
    with pytest.raises(PassingSearchError, match=r"127\.0\.0\.1:1 cannot be reached either"):
        await site.pages(control=NOWHERE).fetch("http://127.0.0.1:1/", "raw")


async def test_a_page_has_a_limit_in_bytes(site: Site) -> None:
    """As it is sent, and unpacked."""
    for path in ("/large", "/bomb"):
        told = site.told(path, f"the page has more than {MOST_BYTES:,} bytes")
        assert await site.fetch(path) == told


async def test_a_page_has_a_limit_in_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each try, whatever the server does; it may pass, so it is tried again."""
    monkeypatch.setattr(bfcl_fetch, "FETCH_S", 0.0)
    assert await site.fetch("/page") == site.told("/page", "TimeoutError")
    assert site.waits == [2.0, 4.0]


async def test_redirects_are_followed_and_end(site: Site) -> None:
    """Relative ones, too; a loop is told."""
    assert await site.fetch("/to?where=/page") == {"content": "<p>hi</p>"}
    site.asked.clear()
    site.answers = [web.Response(status=301, headers={"Location": "next"}) for _ in range(40)]
    assert await site.fetch("/next") == site.told("/next", "Exceeded 30 redirects.")
    assert len(site.asked) == 31
    told = await site.fetch("/to?where=file:///etc/passwd")
    assert "No connection adapters were found for 'file:///etc/passwd'" in told["error"]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
    ],
)
async def test_this_machine_is_refused_however_it_is_written(site: Site, host: str) -> None:
    """Without a connection: nothing comes to the server."""
    url = f"http://{host}:{site.control[1]}/page"
    told = await site.pages(allow_private=False).fetch(url, "raw")
    assert told["error"].endswith("has no public address")
    assert (site.asked, site.waits) == ([], [])


async def test_a_redirect_to_a_private_address_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each hop is looked at: here only the first host counts as public."""
    monkeypatch.setattr(bfcl_fetch, "is_public", lambda text: text == "127.0.0.1")
    for where in (f"http://127.0.0.2:{site.control[1]}/page", "http://169.254.169.254/latest"):
        told = await site.fetch(f"/to?where={where}", allow_private=False)
        assert told["error"].endswith("has no public address")
    assert {path.partition("?")[0] for path in site.asked} == {"/to"}


@dataclass
class Names(AbstractResolver):
    """Answers with these addresses."""

    hosts: list[str]

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=each, port=port, family=family, proto=0, flags=0)
            for each in self.hosts
        ]

    async def close(self) -> None:
        pass


async def test_a_name_is_judged_by_its_addresses() -> None:
    """Private ones are dropped, so that none is tried; a name of only such is refused."""
    mixed = PublicResolver(Names(["10.0.0.1", "1.1.1.1"]))
    assert [each["host"] for each in await mixed.resolve("h", 80)] == ["1.1.1.1"]
    with pytest.raises(PageError, match="rebound has no public address"):
        await PublicResolver(Names(["192.168.0.1", "fe80::1%2"])).resolve("rebound", 80)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8.8.8.8", True),
        ("2606:4700:4700::1111", True),
        ("64:ff9b::808:808", True),
        ("2002:808:808::1", True),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("fd00::1", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("::", False),
        ("::10.0.0.1", False),
        ("2002:a00:1::1", False),
        ("example.org", False),
    ],
)
def test_public_addresses(text: str, expected: bool) -> None:
    """The internet's, and those around one of them."""
    assert is_public(text) is expected


@given(st.ip_addresses(v=4))
def test_an_address_within_another_is_as_public_as_itself(address: ipaddress.IPv4Address) -> None:
    """However IPv6 wraps it."""
    number = int(address)
    for wrapped in (
        (0xFFFF << 32) | number,
        (0x64FF9B << 96) | number,
        (0x2002 << 112) | number << 80,
    ):
        assert is_public(str(ipaddress.IPv6Address(wrapped))) == is_public(str(address))


def test_pages_are_rendered_as_asked_for() -> None:
    """Raw, as Markdown, or as text without scripts."""
    html = "<html><script>x()</script><h1>Title</h1><p>One <b>two</b></p></html>"
    assert render_page(html, "raw") == html
    assert render_page(html, "markdown").strip() == "# Title\n\nOne **two**"
    assert render_page(html, "truncate") == "Title\nOne\ntwo"


async def test_a_page_that_cannot_be_rendered_is_told(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that fails on it is no failure of the unit."""

    def fail(text: str, mode: str) -> str:
        raise RecursionError("too deep")

    monkeypatch.setattr(bfcl_fetch, "render_page", fail)
    assert await site.fetch("/page") == site.told("/page", "too deep")


def test_the_option_is_refused_where_it_has_no_effect() -> None:
    """A gateway fetches for itself, and says itself what it may."""
    assert make(web_search="ddgs", web_private_addresses=True).params.web_private_addresses
    for name in ("gateway", None):
        with pytest.raises(RecipeError, match="--allow-private-addresses"):
            make(web_search=name, web_private_addresses=True)
