"""A Slurm as sites run it: jobs in control groups, where a signal reaches the worker alone, and where a job
over its memory is killed by the kernel.

Control groups of version 1 are needed: what there is of version 2 in Debian's Slurm wants systemd.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from evalkit.cluster.attempts import read_attempts
from evalkit.cluster.failures import FailureKind
from tests.faults.campaign.real import OPTIONS, play_real
from tests.faults.campaign.report import render_report
from tests.slurm.served import ServedRun

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.slurm.conftest import SlurmCluster

SEED = 11
KINDS = [
    "slurm: preempted by an urgent job",
    "slurm: scontrol requeue",
    "worker: SIGKILL, resume",
    "evalkit cancel, resume",
]
GROUPS = [Path("/sys/fs/cgroup") / name for name in ("freezer", "memory")]
HOG = "held = bytearray(2**30); print(len(held), flush=True); input()"


@pytest.fixture(autouse=True)
def _has_groups() -> None:
    if missing := [str(group) for group in GROUPS if not group.is_dir()]:
        pytest.skip(f"no control groups of version 1: {', '.join(missing)}")


@pytest.mark.long
def test_faults_in_control_groups(
    launch_cluster: Callable[..., SlurmCluster], tmp_path: Path
) -> None:
    """The server hears nothing of a TERM, so that its tokens are taken; what is killed is killed whole."""
    cluster = launch_cluster(*OPTIONS, "--cgroup")
    (outcome,) = play_real(cluster, tmp_path, "fault server", KINDS, SEED, print)
    assert [fault.kind for fault in outcome.injected] == KINDS
    assert outcome.run_counts["saved"] > 0
    print(render_report([outcome], 0.0))


def test_a_server_over_its_memory(
    launch_cluster: Callable[..., SlurmCluster], tmp_path: Path
) -> None:
    """The kernel kills the server; the status says out of memory, on which node, and in which log."""
    cluster = launch_cluster("--nodes", "1", "--gpus", "1", "--cgroup")
    command = (sys.executable, "-c", HOG)
    run = ServedRun(cluster, tmp_path / "out" / "hog", units=4, shards=1, command=command)
    run.submit(max_failures=0)
    try:
        cluster.wait_for("its attempt ends", lambda: any(a.end for a in read_attempts(run.folder)))
        cluster.wait_for("the job ends", lambda: not any("r0" in row for row in run.queued()))
        status = run.status()
        (group,) = [g for g in status.failures if g.of == "attempt"]
        assert (group.kind, group.node) == (FailureKind.OOM, cluster.nodes[0])
        assert group.log is not None
        assert (run.folder.root / group.log).exists()
        assert group.reason.endswith("exit code 137 (SIGKILL), killed for its memory)")
        cluster.wait_for("no process is left", lambda: not run.processes())
    finally:
        run.cancel()
