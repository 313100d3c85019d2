"""Preflight through real HTTP: what would fail for hours fails at once, and says why."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from evalkit.client.preflight import preflight, refused_fields
from evalkit.client.request import RequestBuilder
from evalkit.client.target import Target
from evalkit.cluster.failures import classify, is_retryable
from evalkit.errors import EndpointError, FailureKind, InfraError
from evalkit.recipe.schema import Generation
from tests.faults.fault_server import FaultServer, Switches
from tests.unit.client.servers import Script, refuses, serve, serve_anything

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ASK = [{"role": "user", "content": "What is 1 + 1?"}]


@pytest.fixture
async def server() -> AsyncIterator[str]:
    """Base URL of a server with model `tiny` and key `secret`."""
    app = FaultServer("tiny", "secret", Switches()).make_app()
    async with TestServer(app) as running:
        yield str(running.make_url("/v1"))


async def try_it(
    url: str,
    key: str | None = "secret",
    model: str = "tiny",
    *,
    proxy: str | None = None,
    **generation: Any,
) -> None:
    """A preflight of task `sums`."""
    request = RequestBuilder(Generation(**generation), model).chat(ASK, repeat=0)
    headers = {"X-Team": "evals"} | ({"Authorization": f"Bearer {key}"} if key else {})
    await preflight(Target(url, model, headers, proxy), request, task="sums")


async def test_passes(server: str) -> None:
    """An endpoint that answers as the protocol says passes, with all parameters."""
    await try_it(server, temperature=0.5, max_tokens=10, extra_body={"min_tokens": 5})


async def test_wrong_key(server: str) -> None:
    """A refused key names the setting that holds it, and never the key."""
    with pytest.raises(EndpointError) as caught:
        await try_it(server, "wrong-key")
    text = str(caught.value)
    assert text.startswith("preflight of tasks.sums: the endpoint refused it with 401: ")
    assert text.endswith("\nCheck the key: serving.api_key_env names the variable that holds it.")
    assert "wrong-key" not in text


async def test_wrong_model(server: str) -> None:
    """A model that is not there names the model id and the URL as what to check."""
    with pytest.raises(EndpointError) as caught:
        await try_it(server, model="huge")
    assert "refused it with 404" in str(caught.value)
    assert "The model `huge` does not exist." in str(caught.value)
    assert str(caught.value).endswith("\nCheck the model id and serving.base_url.")


async def test_context_too_small() -> None:
    """A task that does not fit names the two keys that would make it fit."""
    words = (
        "This model's maximum context length is 4096 tokens. However, you requested 9000 tokens."
    )
    async with serve(Script(refuses(400, words))) as url:
        with pytest.raises(EndpointError) as caught:
            await try_it(url)
    assert str(caught.value) == (
        f"preflight of tasks.sums: the task does not fit the context: {words}\n"
        "Raise serving.max_model_len, or lower tasks.sums.generation.max_tokens."
    )
    assert classify(caught.value).kind is FailureKind.CONTEXT_WINDOW
    assert not is_retryable(FailureKind.CONTEXT_WINDOW)


async def test_parameter_that_is_refused() -> None:
    """A sampling key the endpoint does not know is shown in its words."""
    async with serve(Script(refuses(400, "Unknown parameter: top_k"))) as url:
        with pytest.raises(EndpointError) as caught:
            await try_it(url)
    assert str(caught.value) == (
        'preflight of tasks.sums: the endpoint refused it with 400: {"error": {"message": '
        '"Unknown parameter: top_k"}}\n'
        "Check tasks.sums.generation and the serving settings."
    )


async def test_answer_without_a_chunk() -> None:
    """A stream that ends before its first token is no answer."""

    async def empty(request: web.Request) -> web.StreamResponse:
        return web.Response(text="data: [DONE]\n\n", content_type="text/event-stream")

    async with serve(empty) as url:
        with pytest.raises(EndpointError, match=f"{url} answered 200 with what is no JSON: 'data"):
            await try_it(url)


async def test_endpoint_that_does_not_stream() -> None:
    """Whole answers are as good: units are asked for without a stream. One token is enough to see it."""
    asked: list[dict[str, Any]] = []

    async def whole(request: web.Request) -> web.StreamResponse:
        asked.append(await request.json())
        message = {"role": "assistant", "content": "3"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response({"id": "1", "object": "chat.completion", "choices": [choice]})

    async with serve(whole) as url:
        await try_it(url, max_tokens=100)
    assert [body["stream"] for body in asked] == [True, False]
    assert asked[1]["max_completion_tokens"] == 1


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ('{"error": {"message": "Provider returned error"}}', "application/json", "Provider"),
        ("<html>Please log in</html>", "text/html", "Please log in"),
    ],
)
async def test_success_that_is_none(text: str, kind: str, said: str) -> None:
    """An error, or a page for people, with status 200 is shown as it is."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(text=text, content_type=kind)

    async with serve(answer) as url:
        with pytest.raises(EndpointError) as caught:
            await try_it(url)
    assert "answered 200 with" in str(caught.value)
    assert said in str(caught.value)


async def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int) -> None:
    """An endpoint that cannot be reached is a failure of infrastructure, and names the address."""
    sleep = asyncio.sleep

    async def briefly(seconds: float) -> None:
        await sleep(0)

    monkeypatch.setattr("anyio.sleep", briefly)
    url = f"http://127.0.0.1:{unused_tcp_port}/v1"
    with pytest.raises(InfraError, match=f"preflight of tasks.sums: no answer from {url}"):
        await try_it(url)


async def chunk(request: web.BaseRequest) -> web.StreamResponse:
    """The first chunk of a stream, and its end."""
    text = 'data: {"choices": [{"index": 0, "delta": {"content": "2"}}]}\n\ndata: [DONE]\n\n'
    return web.Response(text=text, content_type="text/event-stream")


async def test_is_what_a_unit_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Body and headers are a unit's, streamed: nothing of the library or of its variables gets in."""
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "leak")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Custom: leak")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://leak.example/v1")
    seen: list[tuple[dict[str, str], dict[str, Any]]] = []

    async def keep(request: web.Request) -> web.StreamResponse:
        seen.append((dict(request.headers), await request.json()))
        return await chunk(request)

    generation = {"temperature": 0.5, "max_tokens": 9, "extra_body": {"min_tokens": 5}}
    async with serve(keep) as url:
        await try_it(url, key=None, **generation)
    ((headers, body),) = seen
    unit = RequestBuilder(Generation(**generation), "tiny").chat(ASK, 0)
    assert body == orjson.loads(unit.payload) | {"stream": True}
    assert body["seed"] == 0
    assert "leak" not in str(headers)
    assert {name.lower() for name in headers} <= {
        "host",
        "accept",
        "accept-encoding",
        "content-type",
        "content-length",
        "user-agent",
        "x-team",
    }


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
async def test_the_environment_names_no_proxy(
    name: str, server: str, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    """A cluster's proxy variables do not come between us and our own server."""
    monkeypatch.setenv(name, f"http://127.0.0.1:{unused_tcp_port}")
    await try_it(server)


async def test_proxy_of_the_target() -> None:
    """An endpoint behind a proxy is asked through it."""
    seen: list[str] = []

    async def relay(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.raw_path)
        return await chunk(request)

    async with serve_anything(relay) as proxy:
        await try_it("http://outside.example/v1", proxy=proxy)
    assert seen == ["http://outside.example/v1/chat/completions"]


async def test_filtered_question_passes() -> None:
    """An endpoint whose filter refuses the longest prompt is one that works."""
    body = {"error": {"message": "filtered", "code": "content_filter"}}

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=400)

    async with serve(answer) as url:
        await try_it(url)


@pytest.mark.parametrize(
    ("headers", "words", "kind"),
    [
        ({"retry-after-ms": "20"}, "it asks to wait for 0.02 s: ", FailureKind.ENDPOINT),
        ({"x-should-retry": "false"}, "no credits or quota are left", FailureKind.CLIENT_ERROR),
    ],
)
async def test_a_limit_is_told_from_credits_by_its_headers(
    headers: dict[str, str], words: str, kind: FailureKind
) -> None:
    """The same words mean a rate where a header says how long to wait, and an empty account where none does."""
    answer = refuses(429, "You exceeded your current quota.", **headers)
    async with serve(Script(answer)) as url:
        with pytest.raises(EndpointError) as caught:
            await try_it(url)
    assert words in caught.value.message
    assert caught.value.kind is kind


async def test_redirect_is_refused() -> None:
    """An endpoint that has moved is an error about its URL: the key goes nowhere else."""
    async with serve(Script(refuses(308, Location="http://elsewhere.example/"))) as url:
        with pytest.raises(EndpointError, match=r"refused it with 308(.|\n)*serving\.base_url"):
            await try_it(url)


@pytest.mark.parametrize(
    ("error", "named"),
    [
        ({"message": "Unsupported parameter", "param": "seed"}, "seed"),
        ({"message": "Unrecognized request argument supplied: top_k"}, "top_k"),
        ([{"loc": ["body", "chat_template_kwargs"], "msg": "no"}], "chat_template_kwargs"),
        ({"message": "seed and top_k are not supported"}, "seed, top_k"),
    ],
)
async def test_refused_fields_are_named(error: Any, named: str) -> None:
    """A field that the endpoint does not take is named, with the key that drops it."""
    body = {"error": error} if isinstance(error, dict) else {"detail": error}
    script = Script(lambda: web.json_response(body, status=400))
    async with serve(script) as url:
        with pytest.raises(EndpointError) as caught:
            await try_it(url, top_k=5, extra_body={"chat_template_kwargs": {"x": 1}})
    told = str(caught.value)
    assert f"the endpoint refused it with 400 and names {named}: " in told
    assert f"set request.remove to [{named}] (for all tasks, or in tasks.sums)" in told


def test_needed_fields_are_never_dropped() -> None:
    """A refusal of a value is no refusal of a field that nobody goes without."""
    words = orjson.dumps({"error": {"message": "max_tokens must be 9", "param": "max_tokens"}})
    assert refused_fields(words, {"max_tokens": 10, "messages": [], "seed": 1}) == []
