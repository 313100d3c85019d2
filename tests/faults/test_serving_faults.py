"""What servers do wrong, and what is left of them afterwards: nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import psutil
import pytest
from aiohttp import web

from evalkit.errors import EndpointError, FailureKind, ServerStartError, ServingError
from evalkit.recipe.serving import ExternalServing
from evalkit.serving.deployment import make_deployment
from evalkit.serving.watchdog import ProgressWatchdog
from tests.faults.fault_server import FaultServer, Switches
from tests.unit.serving.support import (
    FAULT_SERVER,
    KEY,
    MODEL,
    collect,
    fault_command,
    fault_serving,
    make_context,
    make_plan,
    marked,
    starts,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from evalkit.serving.endpoint import Endpoint

REPOSITORY = Path(__file__).parents[2]


async def generate(endpoint: Endpoint, text: str = "What is 2 + 3?") -> dict[str, Any]:
    """One chat call; raises what aiohttp raises."""
    body = {"model": endpoint.model, "messages": [{"role": "user", "content": text}]}
    async with (
        aiohttp.ClientSession(headers=endpoint.request_headers()) as session,
        session.post(
            f"{endpoint.base_url}/chat/completions", json=body, raise_for_status=True
        ) as response,
    ):
        answer: dict[str, Any] = await response.json()
        return answer


def runs(process: psutil.Process) -> bool:
    """Whether it has not ended; somebody may collect it between two looks."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def until(condition: Any) -> None:
    """Wait for something that must happen; the test's time limit is the deadline."""
    while not condition():
        await asyncio.sleep(0.02)


async def test_server_is_ready_and_leaves_nothing(tmp_path: Path) -> None:
    """A stubborn server with stubborn children in other sessions is gone when stop returns."""
    context = make_context(tmp_path)
    serving = fault_serving("--spawn", "2", "--ignore-term", shutdown_timeout_s=0.5)
    deployment = make_deployment(make_plan(serving), context)
    endpoint = await deployment.start()
    processes = marked(context.attempt)
    assert len(processes) == 4, "the keeper, the server and its two children"
    assert (await generate(endpoint))["choices"][0]["finish_reason"] == "stop"
    assert deployment.failure() is None
    await deployment.stop()
    assert marked(context.attempt) == []
    assert not any(map(runs, processes))
    await deployment.stop()


async def test_facts_hold_no_secret(tmp_path: Path) -> None:
    """The command is recorded without the key; neither is the key in the endpoint's text."""
    deployment = make_deployment(make_plan(fault_serving()), make_context(tmp_path))
    endpoint = await deployment.start()
    facts = await deployment.facts()
    await deployment.stop()
    assert facts.kind == "command"
    assert facts.max_model_len == endpoint.max_model_len == 4096
    assert "***" in facts.argv
    assert KEY not in repr(facts) + repr(endpoint) + (tmp_path / "server.log").read_text()
    assert endpoint.metrics_url is not None


async def test_death_at_start(tmp_path: Path) -> None:
    """Exit code, end of the log and the cause are in the error; secrets in the log are not."""
    context = make_context(tmp_path)
    serving = fault_serving("--exit-at-start", "7", "--say", f"CUDA out of memory, {KEY}")
    with pytest.raises(ServerStartError) as caught:
        await make_deployment(make_plan(serving), context).start()
    text = str(caught.value)
    assert "exit code 7" in text
    assert "CUDA out of memory, ***" in text
    assert "gpu_memory_utilization" in text
    assert str(context.log_path) in text
    assert KEY not in text
    assert marked(context.attempt) == []


async def test_missing_program(tmp_path: Path) -> None:
    """A command that does not exist is named, with the keys to look at."""
    serving = fault_serving(command=("no-such-server", "{port}"))
    with pytest.raises(ServerStartError, match=r"no-such-server(.|\n)*serving\.command"):
        await make_deployment(make_plan(serving), make_context(tmp_path)).start()


async def test_never_ready(tmp_path: Path) -> None:
    """A server that stays unready is ended at the deadline, and the error names the key."""
    context = make_context(tmp_path)
    serving = fault_serving("--ready-after-s", "1000", ready_timeout_s=2)
    with pytest.raises(ServerStartError, match=r"not ready in time(.|\n)*ready_timeout_s is 2"):
        await make_deployment(make_plan(serving), context).start()
    assert marked(context.attempt) == []


async def test_health_without_engine(tmp_path: Path) -> None:
    """Health 200 and the right model are not enough: the first token must come."""
    serving = fault_serving("--fail-status", "500", "--fail-times", "9999", ready_timeout_s=3)
    with pytest.raises(ServerStartError, match="not ready in time"):
        await make_deployment(make_plan(serving), make_context(tmp_path)).start()


async def test_server_that_refuses_requests(tmp_path: Path) -> None:
    """A plain request that is refused for good is an error of the endpoint, not a wait."""
    serving = fault_serving("--fail-status", "403", "--fail-times", "9999")
    with pytest.raises(EndpointError, match="refuses to generate one token: HTTP 403"):
        await make_deployment(make_plan(serving), make_context(tmp_path)).start()


async def test_wrong_model_name(tmp_path: Path) -> None:
    """Both names are in the error, and a server that is certainly ours is not started twice."""
    progress: list[str] = []
    context = make_context(tmp_path, on_progress=collect(progress))
    with pytest.raises(EndpointError) as caught:
        await make_deployment(make_plan(fault_serving("--served-as", "other")), context).start()
    assert "another model's name: asked for 'tiny', it serves 'other'" in str(caught.value)
    assert starts(progress) == 1
    assert marked(context.attempt) == []


async def test_port_is_taken(tmp_path: Path) -> None:
    """A port that somebody listens on is not tried."""
    context = make_context(tmp_path)
    with socket.create_server(("127.0.0.1", context.port_base)):
        deployment = make_deployment(make_plan(fault_serving()), context)
        endpoint = await deployment.start()
        assert f":{context.port_base}/" not in endpoint.base_url
        await deployment.stop()


async def test_port_is_taken_after_the_probe(tmp_path: Path) -> None:
    """A port lost between probe and bind costs one start, not the attempt."""
    progress: list[str] = []
    taken: list[socket.socket] = []

    def take(text: str) -> None:
        if "starts on" in text and not taken:
            taken.append(socket.create_server(("127.0.0.1", context.port_base)))

    context = make_context(tmp_path, on_progress=collect(progress, take))
    deployment = make_deployment(make_plan(fault_serving()), context)
    endpoint = await deployment.start()
    assert starts(progress) == 2
    assert f":{context.port_base}/" not in endpoint.base_url
    await deployment.stop()
    taken[0].close()


async def test_another_server_answers_on_our_port(tmp_path: Path) -> None:
    """While ours is still loading, a stranger on its port is not mistaken for it."""
    progress: list[str] = []
    context = make_context(tmp_path, on_progress=collect(progress))
    stranger = web.AppRunner(FaultServer(MODEL, "another key", Switches()).make_app())
    await stranger.setup()
    site = web.TCPSite(stranger, "127.0.0.1", context.port_base, reuse_port=True)
    # The stranger comes after the probe, as in life; the loop runs it while ours "loads".
    tasks: list[asyncio.Task[None]] = []

    def come(text: str) -> None:
        if "starts on" in text and not tasks:
            tasks.append(asyncio.ensure_future(site.start()))

    context = make_context(tmp_path, on_progress=collect(progress, come))
    slow = f'test "$0" = {context.port_base} && exec sleep 1000; exec "$@"'
    serving = fault_serving(command=("sh", "-c", slow, "{port}", *fault_command()))
    deployment = make_deployment(make_plan(serving), context)
    endpoint = await deployment.start()
    assert starts(progress) == 2
    assert f":{context.port_base}/" not in endpoint.base_url
    await deployment.stop()
    await stranger.cleanup()
    assert marked(context.attempt) == []


async def test_two_deployments_on_one_base(tmp_path: Path) -> None:
    """Replicas that derive the same port on one node get different ones."""
    contexts = [make_context(tmp_path / name) for name in ("a", "b")]
    deployments = [make_deployment(make_plan(fault_serving()), c) for c in contexts]
    endpoints = await asyncio.gather(*(d.start() for d in deployments))
    assert endpoints[0].base_url != endpoints[1].base_url
    await asyncio.gather(*(d.stop() for d in deployments))


async def test_death_in_use(tmp_path: Path) -> None:
    """`failure` says how the server ended; a new deployment of the same plan works."""
    context = make_context(tmp_path)
    deployment = make_deployment(make_plan(fault_serving("--die-after", "2")), context)
    endpoint = await deployment.start()
    with pytest.raises(aiohttp.ClientError):
        await generate(endpoint)
    await until(lambda: deployment.failure() is not None)
    assert "exit code 3" in str(deployment.failure())
    await deployment.stop()
    again = make_deployment(make_plan(fault_serving()), context)
    assert await generate(await again.start())
    assert again.failure() is None
    await again.stop()


async def test_keeper_is_killed(tmp_path: Path) -> None:
    """Without its keeper the server is reported dead, and stop still finds and ends it."""
    context = make_context(tmp_path)
    deployment = make_deployment(make_plan(fault_serving("--ignore-term")), context)
    await deployment.start()
    keeper = next(p for p in marked(context.attempt) if "keeper.py" in " ".join(p.cmdline()))
    keeper.kill()
    await until(lambda: deployment.failure() is not None)
    assert "SIGKILL" in str(deployment.failure())
    assert len(marked(context.attempt)) == 1
    await deployment.stop()
    assert marked(context.attempt) == []


async def test_user_signal_does_no_harm(tmp_path: Path) -> None:
    """SIGUSR2, which Slurm may send to every process of a step, kills no part of a server."""
    context = make_context(tmp_path)
    deployment = make_deployment(
        make_plan(fault_serving("--spawn", "1", shutdown_timeout_s=0.5)), context
    )
    endpoint = await deployment.start()
    processes = marked(context.attempt)
    for process in processes:
        process.send_signal(signal.SIGUSR2)
    assert await generate(endpoint)
    assert [p.pid for p in marked(context.attempt)] == [p.pid for p in processes]
    await deployment.stop()


async def test_cancelled_start(tmp_path: Path) -> None:
    """A start that is cancelled (a drain while the model loads) leaves no process."""
    context = make_context(tmp_path)
    deployment = make_deployment(make_plan(fault_serving("--ready-after-s", "1000")), context)
    task = asyncio.create_task(deployment.start())
    await until(lambda: len(marked(context.attempt)) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert marked(context.attempt) == []


async def test_prefix(tmp_path: Path) -> None:
    """The prefix goes before the command, with the run folder and the model filled in."""
    prefix = ("env", "WHERE={run_dir}", "WHAT={model}")
    context = make_context(tmp_path, prefix=prefix)
    deployment = make_deployment(make_plan(fault_serving()), context)
    await deployment.start()
    argv = (await deployment.facts()).argv
    assert argv[:3] == ("env", f"WHERE={tmp_path}", "WHAT=/nowhere/tiny")
    await deployment.stop()


async def test_server_with_chat_alone(tmp_path: Path) -> None:
    """A server without completions and metrics becomes ready by a chat call."""
    serving = fault_serving("--no-completions", "--no-metrics")
    deployment = make_deployment(make_plan(serving), make_context(tmp_path))
    endpoint = await deployment.start()
    assert endpoint.metrics_url is None
    await deployment.stop()


async def test_no_port_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When every port is taken the error says from where on."""
    monkeypatch.setattr("evalkit.serving.local.claim_port", lambda host, port: None)
    context = make_context(tmp_path)
    with pytest.raises(ServerStartError, match=f"no free port from {context.port_base} on"):
        await make_deployment(make_plan(fault_serving()), context).start()


async def test_secrets_must_be_there(tmp_path: Path) -> None:
    """A secret that is not set is named before anything is started."""
    serving = fault_serving(secrets=("NO_SUCH_TOKEN",))
    with pytest.raises(ServingError, match="NO_SUCH_TOKEN"):
        await make_deployment(make_plan(serving), make_context(tmp_path)).start()


PARENT = """
import asyncio, sys
from pathlib import Path
from evalkit.serving.deployment import make_deployment
from tests.unit.serving.support import fault_serving, make_context, make_plan

async def main():
    serving = fault_serving("--spawn", "1", shutdown_timeout_s=0.5)
    await make_deployment(make_plan(serving), make_context(Path(sys.argv[1]))).start()
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_server_ends_with_a_killed_parent(tmp_path: Path) -> None:
    """After kill -9 of evalkit itself the server and its children end on their own, without a trace."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    with parent:
        assert parent.stdout is not None
        assert await asyncio.to_thread(parent.stdout.readline) == b"ready\n"
        processes = marked(f"test-{parent.pid}-")
        assert len(processes) == 3
        assert (tmp_path / "cache").is_dir()
        parent.kill()
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, 60)
    assert alive == []
    assert not (tmp_path / "cache").exists()


@pytest.fixture
async def hosted() -> AsyncIterator[tuple[FaultServer, str]]:
    """A fault server that somebody else runs, and its URL."""
    server = FaultServer(MODEL, KEY, Switches())
    runner = web.AppRunner(server.make_app())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    yield server, f"http://127.0.0.1:{port}/v1"
    await runner.cleanup()


def external(url: str, **changes: Any) -> ExternalServing:
    """An external endpoint with its key in EVALKIT_TEST_KEY."""
    return ExternalServing(
        kind="external", base_url=url, **{"api_key_env": "EVALKIT_TEST_KEY", **changes}
    )


async def test_external_endpoint(hosted: tuple[FaultServer, str], tmp_path: Path) -> None:
    """An endpoint that exists is ready at once, with what it told; nothing is generated."""
    context = make_context(tmp_path, env={"EVALKIT_TEST_KEY": KEY})
    deployment = make_deployment(make_plan(external(hosted[1] + "/")), context)
    endpoint = await deployment.start()
    assert (endpoint.base_url, endpoint.max_model_len) == (hosted[1], 4096)
    assert hosted[0].state.generations == 0
    assert (await deployment.facts()).kind == "external"
    assert deployment.failure() is None
    await deployment.stop()
    assert await generate(endpoint)


async def test_external_endpoint_refusals(hosted: tuple[FaultServer, str], tmp_path: Path) -> None:
    """A missing key, a wrong key, a wrong model and a wrong path are four different sentences."""
    server, url = hosted

    async def refusal(serving: ExternalServing, key: str | None) -> str:
        env = {} if key is None else {"EVALKIT_TEST_KEY": key}
        with pytest.raises(EndpointError) as caught:
            await make_deployment(make_plan(serving), make_context(tmp_path, env=env)).start()
        return str(caught.value)

    assert "EVALKIT_TEST_KEY is not set" in await refusal(external(url), None)
    assert "does not accept our key" in await refusal(external(url), "wrong")
    assert "does not list models: HTTP 404" in await refusal(external(url + "/v2"), KEY)
    server.switches.served_as = "other"
    assert "asked for 'tiny', it serves 'other'" in await refusal(external(url), KEY)


async def test_external_endpoint_that_is_busy(
    hosted: tuple[FaultServer, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A passing refusal is asked again; a silent address is an error that names the keys."""
    monkeypatch.setattr("evalkit.serving.external.PAUSE_S", 0.05)
    context = make_context(tmp_path, env={"EVALKIT_TEST_KEY": KEY})
    server, url = hosted
    server.switches.ready_after_s = 0.1
    server.started = asyncio.get_running_loop().time()
    endpoint = await make_deployment(make_plan(external(url)), context).start()
    assert endpoint.max_model_len == 4096
    with socket.create_server(("127.0.0.1", 0)) as unused:
        silent = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    with pytest.raises(EndpointError, match=r"gives no answer(.|\n)*check_models: false") as caught:
        await make_deployment(make_plan(external(silent)), context).start()
    assert caught.value.kind is FailureKind.ENDPOINT, "it may be up again for another attempt"
    unchecked = external(silent, check_models=False, api_key_env=None, headers={"X-Team": "a"})
    endpoint = await make_deployment(make_plan(unchecked), context).start()
    assert endpoint.request_headers() == {"X-Team": "a"}


async def test_watchdog_sees_a_hang(tmp_path: Path) -> None:
    """Health 200, no token, requests in flight, and no answer to a probe: that is a hang."""
    deployment = make_deployment(
        make_plan(fault_serving("--hang-after", "1")), make_context(tmp_path)
    )
    endpoint = await deployment.start()
    watchdog = ProgressWatchdog(endpoint, 0.4, time.monotonic, deployment.failure, 0.4)
    reason = str(await watchdog.watch(lambda: 3, lambda: 0))
    assert "the server hangs: 3 requests in flight" in reason
    assert "no answer within" in reason
    assert deployment.failure() is None
    await deployment.stop()


async def test_watchdog_sees_a_death(tmp_path: Path) -> None:
    """A dead process is reported with its exit code, whether or not anything is in flight."""
    context = make_context(tmp_path)
    deployment = make_deployment(make_plan(fault_serving()), context)
    endpoint = await deployment.start()
    watchdog = ProgressWatchdog(endpoint, 900, time.monotonic, deployment.failure)
    task = asyncio.create_task(watchdog.watch(lambda: 0, lambda: 0))
    server = next(
        p
        for p in marked(context.attempt)
        if str(FAULT_SERVER) in p.cmdline() and "keeper.py" not in " ".join(p.cmdline())
    )
    server.kill()
    assert "SIGKILL" in str(await task)
    await deployment.stop()


async def test_watchdog_distrusts_a_server_that_answers_only_others(
    hosted: tuple[FaultServer, str], tmp_path: Path
) -> None:
    """With token counters, calls that never move are lost although probes are answered."""
    context = make_context(tmp_path, env={"EVALKIT_TEST_KEY": KEY})
    endpoint = await make_deployment(make_plan(external(hosted[1])), context).start()
    watchdog = ProgressWatchdog(endpoint, 0.2, time.monotonic)
    reason = str(await watchdog.watch(lambda: 1, lambda: 0))
    assert "it answers new requests (2 times), but not these" in reason
    assert hosted[0].state.generations == 3


@pytest.mark.parametrize(
    "switch", [{"health_status": 503}, {"fail_status": 500, "fail_times": 9999}]
)
async def test_watchdog_sees_a_server_that_fails(tmp_path: Path, switch: dict[str, int]) -> None:
    """An ill `/health`, or 5xx for everything, ends the server long before the stall time does."""
    deployment = make_deployment(make_plan(fault_serving()), make_context(tmp_path))
    endpoint = await deployment.start()
    await turn(endpoint, **switch)
    watchdog = ProgressWatchdog(endpoint, 900, time.monotonic, deployment.failure, look_s=0.05)
    trouble = await watchdog.watch(lambda: 0, lambda: 0)
    assert trouble.kind is FailureKind.SERVER_HANG
    assert f"HTTP {switch.get('health_status', 500)}" in trouble.reason
    await deployment.stop()


async def test_watchdog_bears_faults_that_pass(tmp_path: Path) -> None:
    """Errors beside calls that get on, errors fewer than three in a row, and silence, end no server."""
    deployment = make_deployment(make_plan(fault_serving()), make_context(tmp_path))
    endpoint = await deployment.start()
    looks = 0

    def completed() -> int:
        nonlocal looks
        looks += 1
        if looks > 20:
            raise EnoughError
        return looks

    watchdog = ProgressWatchdog(endpoint, 900, time.monotonic, deployment.failure, look_s=0.02)
    await turn(endpoint, health_status=503)
    with pytest.raises(EnoughError):
        await watchdog.watch(lambda: 1, completed)
    for switch in (
        {"health_status": 0, "fail_status": 503, "fail_times": 2},
        {"fail_status": 0, "hang_after": 1},
    ):
        await turn(endpoint, **switch)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watchdog.watch(lambda: 1, lambda: 0), 1.5)
    await deployment.stop()


class EnoughError(Exception):
    """A test has seen enough looks."""


async def turn(endpoint: Endpoint, **switches: int) -> None:
    """Change the fault server's switches."""
    url = endpoint.base_url.removesuffix("/v1") + "/_switches"
    async with aiohttp.ClientSession() as session, session.post(url, json=switches) as response:
        assert response.status == 200
