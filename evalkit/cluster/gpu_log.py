"""Notes how busy an attempt's GPUs are, for the report: a JSON line every half a minute.

A hint that nothing depends on: without nvidia-smi there is no line, a driver that does not answer costs
one, and a disk that is full ends the log and nothing else. Only the GPUs of the worker's own node are seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import orjson

from evalkit.cluster.recorder import RECORD_EVERY_S
from evalkit.serving.gpus import parse_use, use_command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from evalkit.clock import Clock
    from evalkit.cluster.attempts import AttemptRecord
    from evalkit.store.layout import RunFolder

log = logging.getLogger("evalkit.worker")

ANSWER_S = 20.0
"""nvidia-smi takes up to some seconds on a busy node; later it is of no use before the next look."""
KILLED_S = 1.0


async def log_gpus(
    folder: RunFolder,
    attempt: AttemptRecord,
    env: Mapping[str, str],
    clock: Clock,
    every_s: float = RECORD_EVERY_S,
) -> None:
    """Append lines until cancelled; returns at once where the attempt holds no GPU to look at."""
    path = folder.gpu_use(attempt.replica, attempt.attempt)
    command = use_command(env) if attempt.gpus else None
    while command is not None:
        await asyncio.sleep(every_s)
        use = parse_use(await _ask(command))
        if not use:
            continue
        line = {
            "time": round(clock.wall(), 1),
            "busy": [gpu.busy for gpu in use],
            "memory": [gpu.memory for gpu in use],
        }
        try:
            await asyncio.to_thread(_append, path, orjson.dumps(line) + b"\n")
        except OSError as error:
            log.warning("%s: the use of GPUs is not noted any more: %s", path, error)
            return


async def _ask(command: Sequence[str]) -> str:
    """What it prints; empty where it fails or does not answer in time. It never outlives this call."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return ""
    try:
        async with asyncio.timeout(ANSWER_S):
            printed, _ = await process.communicate()
    except TimeoutError:
        return ""
    finally:
        if process.returncode is None:
            await _end(process)
    return printed.decode(errors="replace") if process.returncode == 0 else ""


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError, TimeoutError):
        process.kill()
        # One that hangs in the driver cannot be killed; nobody waits for it.
        await asyncio.wait_for(process.wait(), KILLED_S)


def _append(path: Path, line: bytes) -> None:
    with path.open("ab") as file:
        file.write(line)
