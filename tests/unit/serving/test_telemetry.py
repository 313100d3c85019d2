"""What is recorded of a busy server: vLLM's page, nvidia-smi's table, and the file they end in."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiohttp import web

from evalkit.serving.endpoint import Endpoint
from evalkit.serving.telemetry import Telemetry, read_engine, read_gpus, read_telemetry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.5
vllm:prompt_tokens_total{engine="0",model_name="m"} 1.2e+03
vllm:generation_tokens_total{engine="0",model_name="m"} 77.0
"""
TABLE = "0, 87, 70112, 81559, 612.34, 61\n3, [N/A], 12, [N/A], [N/A], 40\n\n"
READ = [
    {
        "number": 0,
        "busy": 0.87,
        "memory_mib": 70112,
        "memory_total_mib": 81559,
        "power_w": 612.34,
        "temperature_c": 61,
    },
    {"number": 3, "memory_mib": 12, "temperature_c": 40},
]


def test_engines_are_summed_and_the_fullest_cache_counts() -> None:
    """Two engines of one server; a counter that is not there is not in the line."""
    assert read_engine(PAGE) == {
        "running": 7,
        "waiting": 0,
        "prompt_tokens": 1200,
        "generation_tokens": 77,
        "kv_cache": 0.5,
    }
    assert read_engine("no page of vLLM") == {}


def test_what_a_gpu_does_not_say_is_left_out() -> None:
    """Shares instead of per cent; `[N/A]` is no number."""
    assert read_gpus(TABLE) == READ
    assert read_gpus("") == []


@contextlib.asynccontextmanager
async def page_server() -> AsyncIterator[str]:
    """URL of a page like vLLM's."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=PAGE)

    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def lines_of(
    telemetry: Telemetry, path: Path, root: str, enough: Callable[[list[dict[str, Any]]], bool]
) -> list[dict[str, Any]]:
    """The file's lines as soon as there are enough of them."""
    endpoint = Endpoint(f"{root}/v1", "m", metrics_url=f"{root}/metrics")
    task = asyncio.create_task(telemetry.record(endpoint, 2, every_s=0.01))
    try:
        while not enough(lines := read_telemetry(path)):
            await asyncio.sleep(0.01)
        return lines
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_lines_are_appended(tmp_path: Path) -> None:
    """One line per look with the server's number, and only our GPUs are asked for."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\nprintf "{TABLE}"\n')
    program.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": "0,3"}
    path = tmp_path / "telemetry.jsonl"
    path.write_bytes(b'{"time": 1.0, "server": 1}\n{"time": 2.')  # a killed writer's
    path.write_bytes(path.read_bytes() + b"\n")
    async with page_server() as root:
        lines = await lines_of(
            Telemetry(path, env, lambda: 5.0), path, root, lambda found: len(found) > 2
        )
    assert lines[0] == {"time": 1.0, "server": 1}
    assert lines[1] == {"time": 5.0, "server": 2, **read_engine(PAGE), "gpus": READ}
    assert "--id=0,3" in (tmp_path / "asked").read_text()


@pytest.mark.parametrize(
    ("script", "env"),
    [("exit 9", {}), ("echo nonsense", {}), ("printf 0", {"CUDA_VISIBLE_DEVICES": "MIG-1"})],
)
async def test_the_server_is_recorded_without_gpus(
    tmp_path: Path, script: str, env: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """A driver that fails is said once and asked no more."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    path = tmp_path / "telemetry.jsonl"
    paths = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    async with page_server() as root:
        telemetry = Telemetry(path, paths | env, lambda: 5.0)
        lines = await lines_of(telemetry, path, root, lambda found: len(found) > 2)
    assert [line.get("gpus") for line in lines[:3]] == [None] * 3
    assert caplog.text.count("GPUs are not recorded any more") == (0 if env else 1)


async def test_a_cancel_ends_it_whatever_the_driver_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its process has ended as it was to be killed."""
    asked = asyncio.Event()
    endless = asyncio.Event()

    class Process:
        async def communicate(self) -> tuple[bytes, bytes]:
            asked.set()
            await endless.wait()
            return b"", b""

        def kill(self) -> None:
            raise ProcessLookupError

    async def start(*_: object, **__: object) -> Process:
        return Process()

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    program = tmp_path / "nvidia-smi"
    program.touch(0o755)
    telemetry = Telemetry(tmp_path / "t", {"PATH": str(tmp_path)}, lambda: 5.0)
    task = asyncio.create_task(telemetry.record(Endpoint("http://h/v1", "m"), 0, every_s=0.01))
    await asked.wait()
    task.cancel()
    await asyncio.wait({task}, timeout=60)
    assert task.cancelled()


async def test_a_full_disk_costs_lines_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, and recording goes on when there is room again."""
    path = tmp_path / "later" / "telemetry.jsonl"
    async with page_server() as root:
        telemetry = Telemetry(path, {"PATH": ""}, lambda: 5.0)
        endpoint = Endpoint(f"{root}/v1", "m", metrics_url=f"{root}/metrics")
        task = asyncio.create_task(telemetry.record(endpoint, 0, every_s=0.01))
        while "telemetry is not written" not in caplog.text:
            await asyncio.sleep(0.01)
        path.parent.mkdir()
        while not read_telemetry(path):
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task})
    assert orjson.loads(path.read_bytes().splitlines()[0])["running"] == 7
    assert caplog.text.count("telemetry is not written") == 1


async def test_the_engine_says_how_fast_it_is(tmp_path: Path) -> None:
    """From the counters of two looks; a new server's counter begins at nothing and is no rate."""
    tokens, times = iter([10, 110, 40, 60]), iter([0.0, 2.0, 4.0, 8.0])
    rates: list[float | None] = []

    async def answer(_: web.Request) -> web.Response:
        rates.append(telemetry.tokens_per_s)
        return web.Response(text=f"vllm:generation_tokens_total {next(tokens, 0)}\n")

    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    root = f"http://127.0.0.1:{runner.addresses[0][1]}"
    path = tmp_path / "telemetry.jsonl"
    telemetry = Telemetry(path, {"PATH": ""}, lambda: next(times, 9.0))
    await lines_of(telemetry, path, root, lambda found: len(found) > 4)
    await runner.cleanup()
    assert rates[:5] == [None, None, 50.0, None, 5.0]
    assert telemetry.tokens_per_s is None
