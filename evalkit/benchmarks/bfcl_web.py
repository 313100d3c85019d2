"""BFCL's web search as a model sees it: two functions, whose answers come from a back end.

The official code asks SerpAPI without end and tells the model of every other failure as a result,
which lowers the score in silence. Here a search that fails is tried again a few times and is then an
InfraError; only what the web itself says (a page that is not there, an address that does not exist)
is told to the model, in the original's words. Nothing of a model's text is evaluated: a call is a
name and arguments. Results drift with the web, so each carries the back end's name and the time.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from evalkit.errors import InfraError
from evalkit.scoring.bfcl_checks import decode_arguments

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from evalkit.benchmarks.bfcl_dialogue import Step
    from evalkit.benchmarks.contract import ModelHandle

TRIES = 6
FIRST_WAIT_S = 4.0
"""Doubled after each try: two minutes in all, which outlasts a search engine's rate limit of one."""

NOT_REACHED = "Failed to retrieve the search results from server. Please try again later."
T = TypeVar("T")


class PassingSearchError(Exception):
    """The back end gave no answer this time: asking again may help."""


class WebBackend(Protocol):
    """Where searches and pages come from."""

    @property
    def name(self) -> str:
        """For records."""
        ...

    async def search(self, keywords: str, max_results: int | None, region: str) -> Any:
        """Results as `{"title", "href", "body"}`, best first, or what the model is told instead.

        Raises PassingSearchError, and InfraError where asking again does not help.
        """
        ...

    async def fetch(self, url: str, mode: str) -> dict[str, str]:
        """`{"content": ...}` of a page, or `{"error": ...}` as the web gave it.

        Raises PassingSearchError, and InfraError where asking again does not help.
        """
        ...


async def persist(
    attempt: Callable[[], Awaitable[T]],
    what: str,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> T:
    """The answer of the first try that gives one. Raises InfraError after `TRIES` of them."""
    wait = FIRST_WAIT_S
    for number in range(1, TRIES + 1):
        try:
            return await attempt()
        except PassingSearchError as error:
            if number == TRIES:
                raise InfraError(
                    f"web search: {what} got no answer in {TRIES} tries: {error}",
                    hint="`evalkit resume` asks again. Without a back end that works, leave the "
                    "categories web_search_base and web_search_no_snippet out.",
                ) from error
            await sleep(wait)
            wait *= 2
    raise AssertionError("unreachable")


class WebSearchAPI:
    """The two functions, with the original's name, signatures and texts: a wrong argument is
    answered by what Python says of them."""

    def __init__(self, backend: WebBackend, *, show_snippet: bool) -> None:
        self._backend = backend
        self._show_snippet = show_snippet

    async def search_engine_query(
        self, keywords: str, max_results: int | None = 10, region: str | None = "wt-wt"
    ) -> Any:
        """A list of results, or an error the model is told."""
        slice(max_results).indices(0)  # raises TypeError for what is no number, as there
        found = await persist(
            lambda: self._backend.search(keywords, max_results, region or "wt-wt"),
            f"a search with {self._backend.name}",
        )
        if not isinstance(found, list):
            return found
        keys = ("title", "href", "body") if self._show_snippet else ("title", "href")
        return [{key: result[key] for key in keys} for result in found[:max_results]]

    async def fetch_url_content(self, url: str, mode: str = "raw") -> dict[str, str]:
        """A page's content, or an error the model is told."""
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"Invalid URL: {url}")
        if mode not in ("raw", "markdown", "truncate"):
            return {
                "error": f"An error occurred while fetching {url}: Unsupported mode: {mode}",
            }
        return await persist(
            lambda: self._backend.fetch(url, mode), f"a page through {self._backend.name}"
        )


@dataclass(frozen=True, slots=True)
class WebWorld:
    """The web, for one dialogue."""

    model: ModelHandle
    backend: WebBackend
    id: str
    wall: Callable[[], float]
    """Seconds since the epoch."""

    async def answer(self, step: Step) -> list[str]:
        """The result of each call. Raises InfraError where the back end gives none."""
        calls = [next(iter(call.items())) for call in decode_arguments(step)]

        async def run() -> Any:
            tools = WebSearchAPI(self.backend, show_snippet="no_snippet" not in self.id)
            results = [await call_tool(tools, name, arguments) for name, arguments in calls]
            when = datetime.fromtimestamp(self.wall(), UTC).isoformat(timespec="seconds")
            return {"results": results, "backend": self.backend.name, "at": when}

        arguments = {"entry": self.id, "calls": [[name, json.dumps(a)] for name, a in calls]}
        found = await self.model.step("web", arguments, run)
        results: list[str] = found["results"]
        return results


async def call_tool(tools: WebSearchAPI, name: str, arguments: dict[str, Any]) -> str:
    """One call's result as text. Raises InfraError."""
    functions: dict[str, Callable[..., Awaitable[Any]]] = {
        "search_engine_query": tools.search_engine_query,
        "fetch_url_content": tools.fetch_url_content,
    }
    if name not in functions:
        return f"Error during execution: name {name!r} is not defined"
    try:
        value = await functions[name](**arguments)
    except (AttributeError, TypeError, ValueError) as error:
        return f"Error during execution: {error}"
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    return text.encode(errors="replace").decode()
