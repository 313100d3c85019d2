"""A real Slurm for the tests of this folder, started once for the session, or for each process of it.

`slurm_cluster` is shared by all tests: they must leave the nodes up and the queue as they found
it. `launch_cluster` starts further ones. Without root or the packages the tests fail, on purpose:
a silently skipped Slurm test proves nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm_dev_cluster"
START_LIMIT_S = 300.0
STOP_LIMIT_S = 180.0
WAIT_S = 240.0
"""For what takes ten seconds on a quiet machine: only a test that fails waits so long."""
OUTER_SLURM = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SINFO_", "SACCT_")

FIRST = slice(1)
"""Of the states of a job: of its first attempt."""

Value = TypeVar("Value")


def run_script(*argv: str, limit_s: float = 60, env: Mapping[str, str] | None = None) -> str:
    """Output of scripts/slurm_dev_cluster; when we are interrupted it gets the time to clean up."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *argv],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C in the terminal reaches us alone
    )
    with process:
        try:
            out, err = process.communicate(timeout=limit_s)
        except BaseException:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
            raise
    assert process.returncode == 0, f"slurm_dev_cluster {' '.join(argv)}: {err}"
    return out


@dataclass(frozen=True)
class SlurmCluster:
    """A running cluster and the ways to use it."""

    dir: Path
    nodes: tuple[str, ...]
    env: dict[str, str]  # whole environment for subprocesses that use the cluster

    def run(self, *argv: str, limit_s: float = 60) -> str:
        """Output of a command of Slurm's (or any other) on this cluster; a failure fails the test."""
        done = subprocess.run(argv, env=self.env, capture_output=True, text=True, timeout=limit_s)
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
        return done.stdout

    def script(self, *argv: str, limit_s: float = STOP_LIMIT_S) -> str:
        """Output of `slurm_dev_cluster COMMAND --dir <this cluster> ...`."""
        return run_script(argv[0], "--dir", str(self.dir), *argv[1:], limit_s=limit_s)

    def job_states(self, job: str) -> list[str]:
        """sacct's states of all attempts of a job, oldest first; empty while it lags."""
        rows = self.run("sacct", "-nXPD", "-S", "now-1hour", "-j", job, "-o", "State")
        return rows.split("\n")[:-1]

    def wait_for_states(self, job: str, *states: str, of: slice = slice(None)) -> None:
        """Until accounting, which lags, has these states of all attempts of a job, or of some."""
        self.wait_for(
            f"sacct: {job} is {', '.join(states)}",
            lambda: tuple(self.job_states(job)[of]) == states,
        )

    def wait_for(self, what: str, probe: Callable[[], Value], limit_s: float = WAIT_S) -> Value:
        """The first truthy value of `probe`; the test fails when `limit_s` seconds bring none."""
        deadline = time.monotonic() + limit_s
        while not (value := probe()):
            assert time.monotonic() < deadline, f"not within {limit_s:.0f} s: {what}"
            time.sleep(0.2)
        return value

    @contextmanager
    def urgent_job(self, node: str) -> Iterator[str]:
        """A job of the partition above that has the whole node, until the end of the block."""
        job = self.run(
            *("sbatch", "--parsable", "--partition", "high", "--nodelist", node, "--exclusive"),
            *("--mem", "100MB", "--output", "/dev/null", "--wrap", "sleep 300"),
        ).strip()
        state = ("squeue", "-h", "-j", job, "-o", "%T")
        try:
            self.wait_for("the urgent job runs", lambda: self.run(*state).strip() == "RUNNING")
            yield job
        finally:
            self.run("scancel", job)


@contextmanager
def _clusters() -> Iterator[Callable[..., SlurmCluster]]:
    """Starts clusters with the given options of `start`; all are stopped in the end."""
    folders: list[str] = []
    clean = {key: value for key, value in os.environ.items() if not key.startswith(OUTER_SLURM)}

    def launch(*options: str) -> SlurmCluster:
        # Not pytest's tmp_path: only root can enter it, and its name is too long for sockets.
        # A cluster with --dir is not the one that `stop` without --dir ends.
        folder = tempfile.mkdtemp(prefix="evalkit-slurm-")
        folders.append(folder)
        text = run_script("start", "--json", "--dir", folder, *options, limit_s=START_LIMIT_S)
        facts = json.loads(text)
        return SlurmCluster(Path(facts["dir"]), tuple(facts["nodes"]), clean | facts["env"])

    try:
        yield launch
    finally:
        for folder in folders:
            run_script("stop", "--dir", folder, limit_s=STOP_LIMIT_S)


@pytest.fixture
def launch_cluster() -> Iterator[Callable[..., SlurmCluster]]:
    """Starts clusters of a test's own, which end with it."""
    with _clusters() as launch:
        yield launch


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[SlurmCluster]:
    """The session's cluster: 4 nodes with 4 pretended GPUs, partitions `low` and `high`."""
    with _clusters() as launch:
        yield launch("--nodes", "4", "--gpus", "4")


@pytest.fixture(scope="module")
def warning_cluster() -> Iterator[SlurmCluster]:
    """One node with one GPU; who is preempted there gets the signal that his job asked for."""
    with _clusters() as launch:
        yield launch("--nodes", "1", "--gpus", "1", "--preempt-signal")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder need Slurm, and more time than the default."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(600))
