"""Runs, clocks and a Slurm of plain processes for the tests of `evalkit.cluster`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from evalkit.clock import Clock
from tests.unit.cluster.builders import make_plan, write_run
from tests.unit.cluster.controller import Controller

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evalkit.store.layout import RunFolder

FAKE = Path(__file__).with_name("fake_slurm.py")
COMMANDS = ("sbatch", "srun", "squeue", "sacct", "scancel", "scontrol")
REPOSITORY = Path(__file__).parents[3]


@dataclass
class FakeSlurm:
    """The pretended Slurm: its environment, its switches and what it was asked."""

    dir: Path
    env: dict[str, str]

    def switch(self, name: str, text: str = "") -> None:
        """Create one of the files that change what happens."""
        (self.dir / name).write_text(text)

    def calls(self, command: str) -> list[list[str]]:
        """Arguments of every call of a command so far."""
        path = self.dir / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call[1:] for call in map(json.loads, lines) if call[0] == command]

    def jobs(self) -> list[dict]:
        """All submitted jobs."""
        return [json.loads(path.read_text()) for path in sorted(self.dir.glob("job-*.json"))]


@pytest.fixture
def fake_slurm(tmp_path: Path) -> Iterator[FakeSlurm]:
    """Slurm's commands on PATH; every process they started is gone afterwards."""
    state, programs = tmp_path / "slurm-state", tmp_path / "bin"
    state.mkdir()
    programs.mkdir()
    for name in COMMANDS:
        launcher = programs / name
        launcher.write_text(f"#!{sys.executable}\n{FAKE.read_text()}")
        launcher.chmod(0o755)
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))},
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "FAKE_SLURM": str(state),
    }
    fake = FakeSlurm(state, env)
    yield fake
    for pid in [pid for job in fake.jobs() for pid in job["pids"].values()]:
        with contextlib.suppress(psutil.NoSuchProcess):  # zombies included
            if psutil.Process(pid).environ().get("FAKE_SLURM") == str(state):
                os.killpg(pid, signal.SIGKILL)


@pytest.fixture
def controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Controller:
    """A Slurm job `7_0` on node n1 that was requeued once, and its controller."""
    folder = tmp_path / "controller"
    folder.mkdir()
    variables = {
        "PATH": f"{folder}:/usr/bin:/bin",
        "SUBMITIT_EXECUTOR": "slurm",
        "SLURM_JOB_ID": "9",
        "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": "0",
        "SLURM_RESTART_COUNT": "1",
        "SLURM_JOB_NODELIST": "n1",
        "SLURM_JOB_END_TIME": "1800000000",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Controller(folder)


@pytest.fixture
def no_slurm(tmp_path: Path) -> dict[str, str]:
    """An environment whose PATH has no Slurm."""
    empty = tmp_path / "empty"
    empty.mkdir()
    return {"PATH": str(empty)}


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock(wall=lambda: 1_800_000_000.0, monotonic=lambda: 0.0)


@pytest.fixture
def run_folder(tmp_path: Path) -> RunFolder:
    """A run of one task that owes everything."""
    return write_run(tmp_path / "out" / "demo", make_plan())
