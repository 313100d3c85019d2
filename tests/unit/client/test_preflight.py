"""Preflight through real HTTP: what would fail for hours fails at once, and says why."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from evalkit.client.preflight import preflight, preflight_body
from evalkit.errors import EndpointError, InfraError
from evalkit.recipe.schema import Generation
from tests.faults.fault_server import FaultServer, Switches
from tests.unit.client.servers import Script, refuses, serve

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
    url: str, key: str | None = "secret", model: str = "tiny", **generation: Any
) -> None:
    """A preflight of task `sums`."""
    body = preflight_body(ASK, Generation(**generation), model)
    await preflight(url, key, {"X-Team": "evals"}, body, task="sums")


async def test_passes(server: str) -> None:
    """An endpoint that answers as the protocol says passes, with all parameters."""
    await try_it(server, temperature=0.5, max_tokens=10, extra_body={"top_k": 5})


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
        with pytest.raises(EndpointError, match=f"{url} answered with an empty stream"):
            await try_it(url)


async def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int) -> None:
    """An endpoint that cannot be reached is a failure of infrastructure, and names the address."""
    sleep = asyncio.sleep

    async def briefly(seconds: float) -> None:
        await sleep(0)

    monkeypatch.setattr("anyio.sleep", briefly)
    url = f"http://127.0.0.1:{unused_tcp_port}/v1"
    with pytest.raises(InfraError, match=f"preflight of tasks.sums: no answer from {url}"):
        await try_it(url)
