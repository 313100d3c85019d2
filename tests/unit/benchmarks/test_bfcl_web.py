"""BFCL's web search: what a model is told, what is ours, the gateway, and recordings."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from evalkit.benchmarks import bfcl_web
from evalkit.benchmarks.bfcl_backends import (
    MOST_BYTES,
    Gateway,
    Replay,
    Serpapi,
    make_backend,
)
from evalkit.benchmarks.bfcl_choice import GATEWAY, SERPAPI_KEY, why_not
from evalkit.benchmarks.bfcl_gateway import make_app
from evalkit.benchmarks.bfcl_web import (
    TRIES,
    PassingSearchError,
    WebSearchAPI,
    WebWorld,
    call_tool,
    persist,
)
from evalkit.errors import DataError, InfraError
from tests.unit.benchmarks.bfcl_support import ScriptedModel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

RESULTS = [{"title": f"t{n}", "href": f"http://h/{n}", "body": f"b{n}"} for n in range(12)]


@dataclass
class Backend:
    """Answers at once, after some failures."""

    failures: int = 0
    name: str = "test"
    asked: list[Any] = field(default_factory=list)

    async def search(self, keywords: str, max_results: int | None, region: str) -> Any:
        self.asked.append((keywords, max_results, region))
        if self.failures:
            self.failures -= 1
            raise PassingSearchError("No results found")
        return RESULTS

    async def fetch(self, url: str, mode: str) -> dict[str, str]:
        self.asked.append((url, mode))
        return {"content": f"{mode} of {url}"}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits are noted, not taken."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(persist, "__defaults__", (sleep,))
    return waits


async def ask(name: str, backend: Backend | None = None, **arguments: Any) -> str:
    """One call's result."""
    tools = WebSearchAPI(backend or Backend(), show_snippet=True)
    return await call_tool(tools, name, arguments)


async def test_results_are_shown_as_the_original_shows_them() -> None:
    """A list as Python writes it, ten by default; without snippets where the category has none."""
    assert await ask("search_engine_query", keywords="x") == str(RESULTS[:10])
    assert await ask("search_engine_query", keywords="x", max_results=1) == str(RESULTS[:1])
    tools = WebSearchAPI(Backend(), show_snippet=False)
    text = await call_tool(tools, "search_engine_query", {"keywords": "x", "max_results": 1})
    assert text == "[{'title': 't0', 'href': 'http://h/0'}]"
    assert await ask("fetch_url_content", url="http://h") == '{"content": "raw of http://h"}'


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("search", {}, "name 'search' is not defined"),
        (
            "search_engine_query",
            {},
            "WebSearchAPI.search_engine_query() missing 1 required positional argument: 'keywords'",
        ),
        (
            "search_engine_query",
            {"keywords": "x", "k": 1},
            "WebSearchAPI.search_engine_query() got an unexpected keyword argument 'k'",
        ),
        (
            "search_engine_query",
            {"keywords": "x", "max_results": "ten"},
            "slice indices must be integers or None or have an __index__ method",
        ),
        ("fetch_url_content", {"url": "ftp://h"}, "Invalid URL: ftp://h"),
    ],
)
async def test_mistakes_are_told_in_pythons_words(
    name: str, arguments: dict[str, Any], words: str
) -> None:
    """Without asking the back end."""
    backend = Backend()
    assert await ask(name, backend, **arguments) == f"Error during execution: {words}"
    assert backend.asked == []


async def test_an_unknown_mode_is_told_as_a_result() -> None:
    """As the original does."""
    told = json.loads(await ask("fetch_url_content", url="http://h", mode="pdf"))
    assert told == {"error": "An error occurred while fetching http://h: Unsupported mode: pdf"}


async def test_failures_are_tried_again_and_then_ours(no_waiting: list[float]) -> None:
    """A few times with growing waits; never a result that the model is told."""
    backend = Backend(failures=TRIES - 1)
    assert await ask("search_engine_query", backend, keywords="x") == str(RESULTS[:10])
    assert no_waiting == [4.0, 8.0, 16.0, 32.0, 64.0]
    with pytest.raises(InfraError, match="got no answer in 6 tries: No results found"):
        await ask("search_engine_query", Backend(failures=TRIES), keywords="x")


async def test_results_are_journaled_with_back_end_and_time() -> None:
    """As one step of all calls of an answer."""
    model = ScriptedModel([])
    world = WebWorld(model, Backend(), "web_search_no_snippet_1", lambda: 0.0)  # type: ignore[arg-type]
    step = [
        {"search_engine_query": '{"keywords": "x", "max_results": 1}'},
        {"fetch_url_content": '{"url": "http://h"}'},
    ]
    results = await world.answer(step)
    assert results == [
        "[{'title': 't0', 'href': 'http://h/0'}]",
        '{"content": "raw of http://h"}',
    ]
    [(name, arguments, journaled)] = model.steps
    assert (name, arguments["entry"]) == ("web", "web_search_no_snippet_1")
    assert journaled == {
        "results": results,
        "backend": "test",
        "at": "1970-01-01T00:00:00+00:00",
    }


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[web.Application], Awaitable[str]]]:
    """Starts servers; gives their addresses."""
    servers: list[TestServer] = []

    async def start(app: web.Application) -> str:
        server = TestServer(app)
        await server.start_server()
        servers.append(server)
        return str(server.make_url(""))

    yield start
    for server in servers:
        await server.close()


async def test_a_gateway_answers_and_records_and_the_recording_answers_again(
    serve: Callable[[web.Application], Awaitable[str]], tmp_path: Path
) -> None:
    """The same answers from all three; a question that was not recorded is a failure of ours."""
    recording = tmp_path / "web.jsonl"
    with recording.open("w", encoding="utf-8") as lines:
        gateway = Gateway(await serve(make_app(Backend(), lines.write)))
        found = await gateway.search("x", 3, "wt-wt")
        page = await gateway.fetch("http://h", "raw")
    assert (found, page) == (RESULTS, {"content": "raw of http://h"})
    replay = Replay(recording)
    assert await replay.search("x", 3, "wt-wt") == RESULTS
    assert await replay.fetch("http://h", "raw") == page
    with pytest.raises(InfraError, match="has no answer to"):
        await replay.search("y", 3, "wt-wt")


async def test_a_gateway_that_fails_is_asked_again(
    serve: Callable[[web.Application], Awaitable[str]],
) -> None:
    """Its own failure, and its absence, are passing faults."""
    address = await serve(make_app(Backend(failures=TRIES), lambda line: line))
    with pytest.raises(PassingSearchError, match="answered 502"):
        await Gateway(address).search("x", 3, "wt-wt")
    with pytest.raises(PassingSearchError, match=r"127\.0\.0\.1:1"):
        await Gateway("http://127.0.0.1:1").search("x", 3, "wt-wt")


async def test_serpapi(serve: Callable[[web.Application], Awaitable[str]]) -> None:
    """Its organic results; too many requests pass, a refused key does not; the key is never shown."""
    answers: list[web.Response] = []
    asked: list[dict[str, str]] = []

    async def search(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        return answers.pop(0)

    app = web.Application()
    app.router.add_get("/search", search)
    backend = Serpapi("secret-key", await serve(app) + "/search")
    organic = [{"title": "t", "link": "http://h", "snippet": "b"}]
    answers += [
        web.json_response({"organic_results": organic}),
        web.json_response({"error": "nothing"}),
        web.Response(status=429),
        web.Response(status=401),
        web.Response(text="<html>"),
    ]
    found = await backend.search("x y", 10, "us-en")
    assert found == [{"title": "t", "href": "http://h", "body": "b"}]
    assert asked[0] == {"engine": "duckduckgo", "q": "x y", "kl": "us-en", "api_key": "secret-key"}
    assert await backend.search("x", 10, "wt-wt") == {"error": bfcl_web.NOT_REACHED}
    with pytest.raises(PassingSearchError, match="answered 429"):
        await backend.search("x", 10, "wt-wt")
    with pytest.raises(InfraError, match="refuses SERPAPI_API_KEY") as refused:
        await backend.search("x", 10, "wt-wt")
    with pytest.raises(PassingSearchError) as broken:
        await backend.search("x", 10, "wt-wt")
    answers.append(web.Response(body=b" " * (MOST_BYTES + 1)))
    with pytest.raises(InfraError, match="SerpAPI answered with more than 33,554,432 bytes"):
        await backend.search("x", 10, "wt-wt")
    assert "secret-key" not in f"{refused.value} {broken.value}"


def test_what_a_back_end_is_missing_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before anything is planned, and again where it is used."""
    monkeypatch.delenv(GATEWAY, raising=False)
    monkeypatch.delenv(SERPAPI_KEY, raising=False)
    assert why_not("replay", None) == "params.web_recording must name the recording"
    assert why_not("replay", str(tmp_path / "no")) == f"there is no file {tmp_path / 'no'}"
    assert why_not("gateway", None) == f"{GATEWAY} is not set to the gateway's address"
    assert why_not("serpapi", None) == f"{SERPAPI_KEY} is not set"
    with pytest.raises(InfraError, match="web search with gateway: EVALKIT_WEB_GATEWAY is not set"):
        make_backend("gateway", None)
    monkeypatch.setenv(GATEWAY, "http://login1:8765")
    assert isinstance(make_backend("gateway", None), Gateway)


@pytest.mark.parametrize("line", ["{", "[]", '{"request": {}}'])
def test_a_broken_recording_is_refused_by_line(tmp_path: Path, line: str) -> None:
    """A recording that was cut would answer less than it seems to."""
    path = tmp_path / "web.jsonl"
    path.write_text('{"request": {"a": 1}, "answer": 1}\n' + line + "\n")
    with pytest.raises(DataError, match=r"web\.jsonl:2: no record of a web search"):
        Replay(path)
