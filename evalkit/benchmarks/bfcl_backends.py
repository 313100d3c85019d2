"""Back ends of BFCL's web search: SerpAPI, DuckDuckGo through `ddgs`, an HTTP gateway, a recording.

The first two reach the web from where they run. On a cluster whose nodes do not, a gateway on a login
node does (`bfcl_gateway`), and whatever it answers it also records. A recording answers only what was
asked when it was made; anything else is an InfraError and never a wrong answer.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from yarl import URL

from evalkit.benchmarks.bfcl_choice import GATEWAY, SERPAPI_KEY, why_not
from evalkit.benchmarks.bfcl_fetch import BUSY, UNREACHABLE, Pages, read_bounded
from evalkit.benchmarks.bfcl_web import NOT_REACHED, PassingSearchError
from evalkit.benchmarks.env import variable
from evalkit.errors import DataError, InfraError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.benchmarks.bfcl_choice import BackendName
    from evalkit.benchmarks.bfcl_web import WebBackend

SERPAPI = "https://serpapi.com/search"
DUCKDUCKGO = "duckduckgo.com"
SEARCH_S = 60.0
MOST_BYTES = 32 * 2**20
"""Of an answer of a search engine or gateway."""
GATEWAY_S = 300.0
"""The gateway tries again by itself."""


def make_backend(
    name: BackendName, recording: str | None, *, allow_private: bool = False
) -> WebBackend:
    """`allow_private`: also fetch pages from addresses that are not public.

    Raises InfraError where something is missing for it here.
    """
    if (reason := why_not(name, recording)) is not None:
        raise InfraError(f"web search with {name}: {reason}")
    if name == "replay":
        return Replay(Path(str(recording)).expanduser())
    if name == "gateway":
        return Gateway(str(variable(GATEWAY)))
    if name == "serpapi":
        return Serpapi(str(variable(SERPAPI_KEY)), allow_private=allow_private)
    return Ddgs(allow_private=allow_private)


class Serpapi:
    """DuckDuckGo's results through SerpAPI, as the official leaderboard has them."""

    name = "serpapi"

    def __init__(self, key: str, url: str = SERPAPI, *, allow_private: bool = False) -> None:
        """`allow_private`: also fetch pages from addresses that are not public."""
        self._key = key
        self._url = url
        place = URL(url)
        self._pages = Pages((str(place.host), place.port or 443), allow_private)

    async def fetch(self, url: str, mode: str) -> dict[str, str]:
        """A page straight from the web."""
        return await self._pages.fetch(url, mode)

    async def search(self, keywords: str, max_results: int | None, region: str) -> Any:
        """All organic results; how many are wanted is the caller's affair."""
        asked = {"engine": "duckduckgo", "q": keywords, "kl": region, "api_key": self._key}
        try:
            async with (
                _session(SEARCH_S) as session,
                session.get(self._url, params=asked) as response,
            ):
                if response.status in BUSY:
                    raise PassingSearchError(f"SerpAPI answered {response.status}")
                if response.status in (401, 403):
                    raise InfraError(f"SerpAPI refuses {SERPAPI_KEY} ({response.status})")
                answer = await _read_json(response, "SerpAPI")
        except (*UNREACHABLE, ValueError) as error:
            # Its text may hold the address, and the address the key.
            raise PassingSearchError(f"SerpAPI: {type(error).__name__}") from None
        if not isinstance(answer, dict) or "organic_results" not in answer:
            return {"error": NOT_REACHED}
        return [
            {"title": each["title"], "href": each["link"], "body": each.get("snippet", "")}
            for each in answer["organic_results"]
        ]


class Ddgs:
    """DuckDuckGo's results without a key, as behind the card."""

    name = "ddgs"

    def __init__(self, *, allow_private: bool = False) -> None:
        self._pages = Pages((DUCKDUCKGO, 443), allow_private)

    async def fetch(self, url: str, mode: str) -> dict[str, str]:
        """A page straight from the web."""
        return await self._pages.fetch(url, mode)

    async def search(self, keywords: str, max_results: int | None, region: str) -> Any:
        """Results; `No results found` is what it says when it is asked too often."""
        from ddgs import DDGS
        from ddgs.exceptions import DDGSException

        def ask() -> Any:
            return DDGS(timeout=int(SEARCH_S)).text(
                keywords, region=region, max_results=max_results, backend="duckduckgo"
            )

        try:
            return await asyncio.to_thread(ask)
        except DDGSException as error:
            raise PassingSearchError(str(error)) from error


class Gateway:
    """A `bfcl_gateway`, which has the web for us."""

    name = "gateway"

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")

    async def search(self, keywords: str, max_results: int | None, region: str) -> Any:
        """What the gateway's own back end found."""
        return await self._ask(
            {"tool": "search", "keywords": keywords, "max_results": max_results, "region": region}
        )

    async def fetch(self, url: str, mode: str) -> dict[str, str]:
        """The page as the gateway got it."""
        answer: dict[str, str] = await self._ask({"tool": "fetch", "url": url, "mode": mode})
        return answer

    async def _ask(self, request: Mapping[str, Any]) -> Any:
        try:
            async with (
                _session(GATEWAY_S) as session,
                session.post(f"{self._address}/ask", json=request) as response,
            ):
                if response.status != 200:
                    raise PassingSearchError(f"{self._address} answered {response.status}")
                return (await _read_json(response, self._address))["answer"]
        except (*UNREACHABLE, ValueError, KeyError) as error:
            raise PassingSearchError(f"{self._address}: {error!r}") from error


class Replay:
    """Answers from a recording: JSON Lines of `{"request": ..., "answer": ...}`, later ones first."""

    name = "replay"

    def __init__(self, path: Path) -> None:
        """Raises DataError for a file that is no recording."""
        self._path = path
        self._answers: dict[str, Any] = {}
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                self._answers[request_key(record["request"])] = record["answer"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path}:{number}: no record of a web search: {error!r}") from error

    async def search(self, keywords: str, max_results: int | None, region: str) -> Any:
        """What was found then."""
        return self._find(
            {"tool": "search", "keywords": keywords, "max_results": max_results, "region": region}
        )

    async def fetch(self, url: str, mode: str) -> dict[str, str]:
        """The page as it was then."""
        answer: dict[str, str] = self._find({"tool": "fetch", "url": url, "mode": mode})
        return answer

    def _find(self, request: Mapping[str, Any]) -> Any:
        key = request_key(request)
        if key not in self._answers:
            raise InfraError(f"{self._path} has no answer to {key}")
        return self._answers[key]


def request_key(request: Mapping[str, Any]) -> str:
    """One text for equal requests."""
    return json.dumps(request, sort_keys=True, ensure_ascii=False)


async def _read_json(response: aiohttp.ClientResponse, who: str) -> Any:
    """Raises ValueError for what is no JSON, InfraError for what is too much."""
    body = await read_bounded(response, MOST_BYTES)
    if body is None:
        raise InfraError(f"{who} answered with more than {MOST_BYTES:,} bytes")
    return json.loads(body)


def _session(timeout_s: float) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s))
