"""The real vLLM: started, asked, watched, refused and ended."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import psutil
import pytest

from evalkit.client.calls import CallClient
from evalkit.client.preflight import preflight
from evalkit.client.request import RequestBuilder
from evalkit.client.target import Target
from evalkit.clock import SYSTEM_CLOCK
from evalkit.errors import ServerStartError
from evalkit.recipe.schema import Client, Generation
from evalkit.recipe.serving import ExternalServing
from evalkit.serving.deployment import make_deployment
from evalkit.serving.ready import IdentityError
from evalkit.serving.watchdog import ProgressWatchdog, read_tokens
from evalkit.serving.wire import Wire
from tests.integration.conftest import REPOSITORY, SERVED_NAME, vllm_serving
from tests.unit.serving.support import KEY, make_context, make_plan, marked

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.serving.endpoint import Endpoint
    from tests.integration.conftest import VllmServer


async def post(endpoint: Endpoint, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """Status and JSON of a POST."""
    async with (
        aiohttp.ClientSession(headers=endpoint.request_headers()) as session,
        session.post(f"{endpoint.base_url}/{path}", json=body) as response,
    ):
        return response.status, await response.json()


def chat(**more: Any) -> dict[str, Any]:
    """A chat request of the demo model."""
    messages = [{"role": "user", "content": "What is 2 + 3?"}]
    return {"model": SERVED_NAME, "messages": messages, "temperature": 0, **more}


async def test_endpoint_answers(vllm_server: VllmServer) -> None:
    """The endpoint takes chat requests under its key, and says what context it has."""
    status, body = await post(vllm_server.endpoint, "chat/completions", chat(max_tokens=8))
    assert status == 200
    assert body["usage"]["completion_tokens"] <= 8
    assert vllm_server.endpoint.max_model_len == 32_768
    assert vllm_server.deployment.failure() is None


@pytest.mark.parametrize("context", [[], [5], [5, 17, 40, 9, 33, 12, 60, 21, 8, 44]])
async def test_loglikelihood(vllm_server: VllmServer, context: list[int]) -> None:
    """What is kept of a text's likelihood is what vLLM's own log-probabilities of a prompt come to:
    of tokens that the model chose itself, and of others."""
    endpoint = vllm_server.endpoint
    asked = {"model": SERVED_NAME, "prompt": context or [5], "max_tokens": 4, "temperature": 0}
    status, said = await post(endpoint, "completions", asked | {"return_token_ids": True})
    assert status == 200
    chosen = said["choices"][0]["token_ids"]
    target = Target(endpoint.base_url, SERVED_NAME, endpoint.request_headers())
    builder = RequestBuilder(Generation(temperature=1.0, repetition_penalty=1.5), SERVED_NAME)
    async with CallClient(target, Client(), SYSTEM_CLOCK) as client:
        for continuation in (chosen, [*chosen[:-1], 7], [7, 7, 7]):
            prompt = [*context, *continuation]
            exact = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 1}
            _, body = await post(endpoint, "completions", asked | exact)
            start = max(1, len(context))
            given = body["choices"][0]["prompt_logprobs"][start:]
            own = [each[str(token)] for each, token in zip(given, prompt[start:], strict=True)]
            request = builder.loglikelihood(context, continuation)
            reply = (await client.call(request, None)).reply
            assert reply.logprobs is not None
            assert reply.logprobs["sum"] == pytest.approx(sum(each["logprob"] for each in own))
            assert reply.logprobs["is_greedy"] == all(each["rank"] == 1 for each in own)
            if continuation is chosen and context:
                assert reply.logprobs["is_greedy"]
    await preflight(target, builder.loglikelihood([5], [6]), task="likely")


async def test_key_is_needed_and_unseen(vllm_server: VllmServer) -> None:
    """Without the key the server refuses; the key is in no argument and no log line."""
    stranger = dataclasses.replace(vllm_server.endpoint, api_key="another")
    status, _ = await post(stranger, "chat/completions", chat(max_tokens=1))
    assert status == 401
    assert KEY not in vllm_server.log_path.read_text(errors="replace")
    lines = [" ".join(p.cmdline()) for p in marked(f"test-{os.getpid()}")]
    assert lines
    assert not any(KEY in line for line in lines)


async def test_facts(vllm_server: VllmServer) -> None:
    """Provenance names the version that the server itself reports, and how it was started."""
    facts = vllm_server.facts
    assert facts.kind == "vllm"
    assert facts.version is not None
    assert facts.version[0].isdigit()
    assert facts.launcher in ("serve", "module")
    assert facts.python == ".".join(map(str, sys.version_info[:3]))
    assert str(vllm_server.checkpoint) in facts.argv
    assert facts.max_model_len == vllm_server.endpoint.max_model_len


async def test_token_counters_move(vllm_server: VllmServer) -> None:
    """The metrics page has the counters that the watchdog lives on, and a call moves them."""
    url = vllm_server.endpoint.metrics_url
    assert url is not None
    async with Wire(vllm_server.endpoint) as wire:
        before = read_tokens(await wire.get(url))
        body = chat(max_tokens=20, ignore_eos=True)
        _, answer = await post(vllm_server.endpoint, "chat/completions", body)
        after = read_tokens(await wire.get(url))
    assert before is not None
    assert after is not None
    assert after - before >= answer["usage"]["total_tokens"]


async def test_watchdog_lets_a_working_server_be(vllm_server: VllmServer) -> None:
    """With a stall time far below a generation's length, a server that generates is healthy."""
    watchdog = ProgressWatchdog(
        vllm_server.endpoint, 5.0, time.monotonic, vllm_server.deployment.failure
    )
    watch = asyncio.create_task(watchdog.watch(lambda: 64, lambda: 0))
    body = chat(max_tokens=400, ignore_eos=True)
    calls = [post(vllm_server.endpoint, "chat/completions", body) for _ in range(64)]
    assert {status for status, _ in await asyncio.gather(*calls)} == {200}
    assert not watch.done()
    watch.cancel()
    await asyncio.wait({watch})


async def test_vllm_as_an_external_endpoint(vllm_server: VllmServer, tmp_path: Path) -> None:
    """Somebody's vLLM is used as it is; its metrics are found; a wrong name is refused."""
    serving = ExternalServing(
        kind="external", base_url=vllm_server.endpoint.base_url, api_key_env="THE_KEY"
    )
    context = make_context(tmp_path, env={"THE_KEY": KEY})
    plan = make_plan(serving, model=SERVED_NAME, name=SERVED_NAME)
    # what it loads besides is not to be seen from outside
    seen = dataclasses.replace(vllm_server.endpoint, can_continue_presence=False)
    assert await make_deployment(plan, context).start() == seen
    with pytest.raises(IdentityError, match=f"asked for 'other', it serves '{SERVED_NAME}'"):
        await make_deployment(make_plan(serving, name="other"), context).start()


@pytest.mark.vllm
async def test_checkpoint_that_cannot_be_loaded(demo_checkpoint: Path, tmp_path: Path) -> None:
    """vLLM's death comes back at once, with its last lines and a cause that names config.json."""
    broken = tmp_path / "broken"
    shutil.copytree(demo_checkpoint, broken)
    config = json.loads((broken / "config.json").read_bytes())
    config |= {"architectures": ["NoSuchForCausalLM"], "model_type": "no_such_model"}
    (broken / "config.json").write_text(json.dumps(config))
    context = make_context(tmp_path)
    with pytest.raises(ServerStartError) as caught:
        await make_deployment(make_plan(vllm_serving(), model=str(broken)), context).start()
    assert "died before it was ready" in caught.value.message
    assert "no_such_model" in str(caught.value)
    assert "check config.json" in str(caught.value.hint)
    assert marked(context.attempt) == []


PARENT = """
import asyncio, sys
from pathlib import Path
from evalkit.serving.deployment import make_deployment
from tests.integration.conftest import vllm_serving
from tests.unit.serving.support import make_context, make_plan

async def main():
    context = make_context(Path(sys.argv[1]), on_progress=lambda text: print(text, flush=True))
    await make_deployment(make_plan(vllm_serving(), model=sys.argv[2]), context).start()

asyncio.run(main())
"""


@pytest.mark.vllm
async def test_vllm_ends_with_a_killed_parent(demo_checkpoint: Path, tmp_path: Path) -> None:
    """After kill -9 of evalkit while the engine core loads, no process of vLLM is left."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), str(demo_checkpoint)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    with parent:
        assert parent.stdout is not None
        assert b"starts on" in await asyncio.to_thread(parent.stdout.readline)
        # Keeper, API server, and whatever the API server starts for its engine.
        while len(processes := marked(f"test-{parent.pid}-")) < 4:
            await asyncio.sleep(0.2)
        parent.kill()
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, 200)
    assert alive == []
    async with asyncio.timeout(200):
        while marked(f"test-{parent.pid}-"):  # children that were born after we looked
            await asyncio.sleep(0.2)
