"""How busy GPUs are is noted while they are held, and a driver in trouble costs nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import orjson

from evalkit.clock import Clock
from evalkit.cluster import gpu_log
from evalkit.cluster.attempts import AttemptRecord
from evalkit.cluster.gpu_log import log_gpus
from evalkit.serving.gpus import GpuUse, parse_use, use_command
from evalkit.store.layout import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

HELD = AttemptRecord("r0", 1, "slurm", "7", 0, "n1", ("n1",), 2, 0.0, 0.0)
CLOCK = Clock(wall=lambda: 1_700_000_000.0)


def smi(folder: Path, script: str) -> dict[str, str]:
    """An environment with this nvidia-smi and two GPUs."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return {"PATH": f"{folder}:/bin:/usr/bin", "CUDA_VISIBLE_DEVICES": "0,1"}


async def lines_of(folder: RunFolder, env: dict[str, str], n: int) -> list[bytes]:
    """The first n lines of the log of an attempt."""
    path = folder.gpu_use("r0", 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    task = asyncio.create_task(log_gpus(folder, HELD, env, CLOCK, every_s=0.0))
    try:
        while len(lines := path.read_bytes().splitlines()) < n:
            assert not task.done()
            await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return lines[:n]


async def test_use_is_noted_line_by_line(tmp_path: Path) -> None:
    """Fractions of both GPUs, with the time; only the visible ones are asked for."""
    env = smi(tmp_path, 'case "$*" in *--id=0,1*) echo "50, 100, 400"; echo "100, 200, 400";; esac')
    lines = await lines_of(RunFolder(tmp_path / "run"), env, 2)
    expected = {"time": 1_700_000_000.0, "busy": [0.5, 1.0], "memory": [0.25, 0.5]}
    assert [orjson.loads(line) for line in lines] == [expected, expected]


async def test_a_driver_that_fails_now_and_then(tmp_path: Path) -> None:
    """A failed look is no line, and the next one is."""
    flag = tmp_path / "failed"
    script = f'if [ ! -e {flag} ]; then touch {flag}; exit 9; fi; echo "1, 1, 2"'
    lines = await lines_of(RunFolder(tmp_path / "run"), smi(tmp_path, script), 1)
    assert orjson.loads(lines[0])["busy"] == [0.01]
    assert flag.exists()


async def test_a_driver_that_hangs_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not answer in time: killed, and nothing noted."""
    monkeypatch.setattr(gpu_log, "ANSWER_S", 0.05)
    env = smi(tmp_path, "exec sleep 1000")
    command = use_command(env)
    assert command is not None
    assert await gpu_log._ask(command) == ""


async def test_a_disk_that_cannot_be_written_ends_the_log(tmp_path: Path) -> None:
    """The log ends, and nothing else."""
    env = smi(tmp_path, 'echo "1, 1, 2"')
    await log_gpus(RunFolder(tmp_path / "nowhere"), HELD, env, CLOCK, every_s=0.0)


async def test_nothing_is_noted_of_gpus_that_are_not_held(tmp_path: Path) -> None:
    """No GPU of the attempt's, none visible, parts of one, and no nvidia-smi: it returns at once."""
    env, folder = smi(tmp_path, 'echo "1, 1, 2"'), RunFolder(tmp_path)
    await log_gpus(folder, replace(HELD, gpus=0), env, CLOCK)
    for visible in ("", "MIG-1"):
        await log_gpus(folder, HELD, {**env, "CUDA_VISIBLE_DEVICES": visible}, CLOCK)
    await log_gpus(folder, HELD, {"PATH": "/nowhere"}, CLOCK)


def test_what_a_driver_does_not_say_is_left_out() -> None:
    """`[N/A]` of one GPU, a line of something else."""
    printed = "10, 1, 4\n[N/A], 1, 4\n20, [N/A], [N/A]\nwarning\n30, 4, 4\n"
    assert parse_use(printed) == [GpuUse(0.1, 0.25), GpuUse(0.3, 1.0)]
