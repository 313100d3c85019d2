"""How busy a server and its GPUs were: one line of JSON every ten seconds, for the report's plots.

A hint like the heartbeat: nothing is computed from it that the journals do not prove, and a line that
cannot be had or written costs only that line. Of a server on several nodes, only the GPUs of the
worker's own node are seen.

A line has `time` (seconds since the epoch), `server` (which of the attempt's, from 0), and, where they
are known: `running`, `waiting` (requests in the engine), `kv_cache` (share in use, 0 to 1),
`prompt_tokens`, `generation_tokens`, `preemptions` (since the server's start), and `gpus`, a list of
`{"number", "busy" (share of time, 0 to 1), "memory_mib", "memory_total_mib", "power_w", "temperature_c"}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from typing import TYPE_CHECKING, Any

import orjson

from evalkit.serving.gpus import NONE_VISIBLE, find_program
from evalkit.serving.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from evalkit.serving.endpoint import Endpoint

log = logging.getLogger("evalkit.worker")

EVERY_S = 10.0
# A driver that does not answer in this time is asked no more: each question would leave a process.
GPU_TIMEOUT_S = 10.0
SUMS = {
    "running": "num_requests_running",
    "waiting": "num_requests_waiting",
    "prompt_tokens": "prompt_tokens_total",
    "generation_tokens": "generation_tokens_total",
    "preemptions": "num_preemptions_total",
}
KV_CACHE = "kv_cache_usage_perc"
_METRIC = re.compile(r"^vllm:(\w+)(?:\{[^\n]*\})? +([0-9.eE+-]+)$", re.MULTILINE)
_GPU_FIELDS = "index,utilization.gpu,memory.used,memory.total,power.draw,temperature.gpu"


def read_engine(page: str) -> dict[str, float]:
    """What vLLM's Prometheus page says: sums over its engines, and the fullest of their caches."""
    values: dict[str, list[float]] = {}
    for name, value in _METRIC.findall(page):
        values.setdefault(name, []).append(float(value))
    read = {key: sum(values[name]) for key, name in SUMS.items() if name in values}
    if KV_CACHE in values:
        read["kv_cache"] = max(values[KV_CACHE])
    return read


def read_gpus(table: str) -> list[dict[str, float | int]]:
    """nvidia-smi's lines of `_GPU_FIELDS`; what a GPU does not say (`[N/A]`) is left out."""
    gpus = []
    for line in filter(None, map(str.strip, table.splitlines())):
        number, busy, memory, total, power, temperature = (*line.split(","), *[""] * 6)[:6]
        gpu: dict[str, float | int] = {"number": int(number)}
        for key, text, unit in (
            ("busy", busy, 0.01),
            ("memory_mib", memory, 1.0),
            ("memory_total_mib", total, 1.0),
            ("power_w", power, 1.0),
            ("temperature_c", temperature, 1.0),
        ):
            if (value := _number(text)) is not None:
                gpu[key] = round(value * unit, 4)
        gpus.append(gpu)
    return gpus


class Telemetry:
    """Appends lines to one attempt's file while a server of it is fed."""

    def __init__(self, path: Path, env: Mapping[str, str], wall: Callable[[], float]) -> None:
        """`env` says which GPUs are ours; `wall` gives seconds since the epoch."""
        self._path = path
        self._wall = wall
        self._env = env
        self._gpu_command = _gpu_command(env)
        self._is_written = True
        self._tokens: tuple[float, float] | None = None
        self.tokens_per_s: float | None = None
        """Tokens a second that the engine generated between the last two looks; null where it does not say."""

    async def record(self, endpoint: Endpoint, server: int, every_s: float = EVERY_S) -> None:
        """Write until cancelled. `server` is the number of the attempt's server."""
        self._tokens = None
        try:
            async with Wire(endpoint) as wire:
                while True:
                    if line := await self._look(wire, endpoint):
                        line = {"time": self._wall(), "server": server, **line}
                        self._count(line["time"], line.get("generation_tokens"))
                        await self._write(line)
                    await asyncio.sleep(every_s)
        finally:
            self.tokens_per_s = None

    def _count(self, now: float, tokens: float | None) -> None:
        before, self._tokens = self._tokens, None if tokens is None else (now, tokens)
        if before is None or tokens is None or now <= before[0] or tokens < before[1]:
            self.tokens_per_s = None
        else:
            self.tokens_per_s = (tokens - before[1]) / (now - before[0])

    async def _look(self, wire: Wire, endpoint: Endpoint) -> dict[str, Any]:
        line: dict[str, Any] = {}
        if endpoint.metrics_url is not None:
            answer = await wire.get(endpoint.metrics_url, key=False)
            line |= read_engine(answer.text) if answer.ok else {}
        if gpus := await self._look_at_gpus():
            line["gpus"] = gpus
        return line

    async def _look_at_gpus(self) -> list[dict[str, float | int]]:
        if self._gpu_command is None:
            return []
        try:
            return read_gpus(await _output_of(self._gpu_command, self._env))
        except (OSError, ValueError, TimeoutError) as error:
            said = str(error) or "nvidia-smi does not answer"
            log.warning("GPUs are not recorded any more: %s", said)
            self._gpu_command = None
            return []

    async def _write(self, line: dict[str, Any]) -> None:
        try:
            await asyncio.to_thread(_append, self._path, orjson.dumps(line) + b"\n")
            self._is_written = True
        except OSError as error:
            if self._is_written:
                log.warning("telemetry is not written: %s", error)
            self._is_written = False


def read_telemetry(path: Path) -> list[dict[str, Any]]:
    """The lines of one attempt; [] where there is no file. A torn line is left out."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    lines = []
    for text in content.splitlines():
        try:
            line = orjson.loads(text)
        except orjson.JSONDecodeError:
            continue
        if isinstance(line, dict) and isinstance(line.get("time"), int | float):
            lines.append(line)
    return lines


def _gpu_command(env: Mapping[str, str]) -> tuple[str, ...] | None:
    program, visible = find_program(env), env.get("CUDA_VISIBLE_DEVICES")
    # nvidia-smi cannot be asked for parts of a GPU (MIG).
    if program is None or visible in NONE_VISIBLE or "MIG" in (visible or ""):
        return None
    only = () if visible is None else (f"--id={visible}",)
    return (program, f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader,nounits", *only)


async def _output_of(command: tuple[str, ...], env: Mapping[str, str]) -> str:
    """Standard output. Raises OSError, ValueError for another exit code than 0, TimeoutError."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=dict(env),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        # not wait_for, which may answer a cancel with a result that came at the same moment
        async with asyncio.timeout(GPU_TIMEOUT_S):
            output, _ = await process.communicate()
    except (TimeoutError, asyncio.CancelledError):
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            process.kill()
        raise
    if process.returncode:
        raise ValueError(f"nvidia-smi ends with exit code {process.returncode}")
    return output.decode(errors="replace")


def _append(path: Path, line: bytes) -> None:
    with path.open("ab") as file:
        file.write(line)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
