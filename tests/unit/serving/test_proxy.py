"""Which proxy an endpoint is reached through, and that servers of ours have none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer, TestServer

from evalkit.errors import EndpointError
from evalkit.plan.model import DeploymentPlan
from evalkit.recipe.serving import ExternalServing
from evalkit.serving.endpoint import Endpoint
from evalkit.serving.external import ExternalDeployment
from evalkit.serving.proxy import find_proxy
from evalkit.serving.wire import Wire
from tests.unit.serving.support import make_context

if TYPE_CHECKING:
    from pathlib import Path

URL = "https://api.example/v1"
PROXY = "http://proxy:3128"


@pytest.mark.parametrize(
    ("env", "url", "expected"),
    [
        ({}, URL, None),
        ({"https_proxy": PROXY}, URL, PROXY),
        ({"HTTPS_PROXY": PROXY}, URL, PROXY),
        ({"https_proxy": "", "HTTPS_PROXY": PROXY}, URL, None),
        ({"http_proxy": PROXY}, URL, None),
        ({"http_proxy": PROXY}, "http://inside:8000/v1", PROXY),
        ({"all_proxy": PROXY}, URL, PROXY),
        ({"https_proxy": "proxy:3128"}, URL, PROXY),
        ({"https_proxy": PROXY, "no_proxy": "a, .example"}, URL, None),
        ({"https_proxy": PROXY, "NO_PROXY": "api.example:443"}, URL, PROXY),
        ({"https_proxy": PROXY, "NO_PROXY": "API.example"}, URL, None),
        ({"https_proxy": PROXY, "NO_PROXY": "xapi.example,pi.example,"}, URL, PROXY),
        ({"https_proxy": PROXY, "NO_PROXY": "*"}, URL, None),
        ({"http_proxy": PROXY}, "http://127.0.0.1:8000/v1", None),
        ({"http_proxy": PROXY}, "http://localhost:8000/v1", None),
        ({"http_proxy": PROXY}, "http://[::1]:8000/v1", None),
    ],
)
def test_proxy_of_an_endpoint(env: dict[str, str], url: str, expected: str | None) -> None:
    """The variables say it as they do for curl, no_proxy included; this host needs none."""
    assert find_proxy(env, url) == expected


def test_proxy_of_another_kind() -> None:
    """A proxy that cannot be used is an error that names what to set instead."""
    with pytest.raises(EndpointError, match=r"socks5 proxy(.|\n)*https_proxy"):
        find_proxy({"all_proxy": "socks5://proxy:1080"}, URL)


async def test_model_list_of_an_external_endpoint_goes_through_the_proxy(
    tmp_path: Path,
) -> None:
    """The check of `/models` asks the proxy, and the endpoint tells the calls of it."""
    seen: list[str] = []

    async def relay(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.raw_path)
        return web.json_response({"data": [{"id": "m"}]})

    base_url = "http://api.example/v1"
    async with RawTestServer(relay) as proxy:
        serving = ExternalServing(kind="external", base_url=base_url)
        plan = DeploymentPlan(serving=serving, model_source="m", served_model_name="m")
        context = make_context(tmp_path, env={"http_proxy": str(proxy.make_url("/"))})
        endpoint = await ExternalDeployment(plan, serving, context.env).start()
        assert endpoint.proxy == str(proxy.make_url("/"))
    assert "http://api.example/v1/models" in seen


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
async def test_our_own_servers_have_no_proxy(
    name: str, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    """Questions to a server of ours go straight there, whatever the variables say."""
    monkeypatch.setenv(name, f"http://127.0.0.1:{unused_tcp_port}")

    async def models(request: web.Request) -> web.StreamResponse:
        return web.json_response({"data": []})

    app = web.Application()
    app.router.add_get("/v1/models", models)
    async with TestServer(app) as server, Wire(Endpoint(str(server.make_url("/v1")), "m")) as wire:
        assert (await wire.models()).ok
