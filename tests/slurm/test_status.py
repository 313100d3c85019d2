"""Status of attempts that Slurm ended, on a real Slurm: the kind, the node and the log lines.

The worker and its calls are real; the server is one that answers slowly. The test cluster does not
limit memory: what a kill for memory looks like is tested with rows of accounting.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from evalkit.cluster.failures import FailureKind
from evalkit.cluster.jobs import read_jobs
from evalkit.cluster.logs import Wanted, follow
from tests.slurm.conftest import WAIT_S
from tests.slurm.served import ServedRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from evalkit.cluster.status_values import FailureGroup
    from tests.slurm.conftest import SlurmCluster

SLOW = "--latency-s 0.5"


@pytest.fixture
def make_run(slurm_cluster: SlurmCluster, tmp_path: Path) -> Iterator[Callable[[], ServedRun]]:
    """Runs of a thousand slow units; their jobs are gone after the test."""
    runs: list[ServedRun] = []

    def make() -> ServedRun:
        root = tmp_path / "out" / f"run{len(runs)}"
        runs.append(ServedRun(slurm_cluster, root, units=1000, shards=4))
        return runs[-1]

    yield make
    for run in runs:
        run.cancel()
    ids = {job.job_id for run in runs for job in read_jobs(run.folder)}
    slurm_cluster.wait_for(
        "all is over",
        lambda: not ids.intersection(slurm_cluster.run("squeue", "-h", "-o", "%A").split()),
    )


def working(run: ServedRun, **changes: object) -> tuple[str, str]:
    """Submit one replica; its job and node once it has answers."""
    job = run.submit(SLOW, replicas=1, **changes).jobs[0].job_id  # type: ignore[arg-type]
    run.wait_for_answers(4)
    # its heartbeat may be from before
    run.cluster.wait_for("it is ready", lambda: run.status().replicas[0].state == "ready")
    [replica] = run.status().replicas
    return job, replica.node or ""


def failure(run: ServedRun, kind: FailureKind) -> FailureGroup:
    """The failures of this kind, once the status has them."""
    seen: list[FailureGroup] = []

    def found() -> FailureGroup | None:
        seen[:] = run.status().failures
        return next((group for group in seen if group.kind is kind), None)

    try:
        group = run.cluster.wait_for(f"the status says {kind}", found)
    except AssertionError as error:
        raise AssertionError(f"no {kind}, but {seen}") from error
    assert group is not None
    return group


def test_cancelled(make_run: Callable[[], ServedRun]) -> None:
    """A job that somebody cancelled with Slurm's own command: by whom, where, and its last words."""
    run = make_run()
    job, node = working(run)
    run.cluster.run("scancel", job)
    group = failure(run, FailureKind.CANCELLED)
    run.wait_for_state(job, "")
    assert (group.of, group.where, group.node) == ("attempt", "r0.a1", node)
    status = run.status()
    [attempt] = status.attempts
    assert (attempt.end, attempt.is_alive) == ("drained", False)
    assert attempt.failure is not None
    assert attempt.failure.reason.startswith("cancelled")
    assert attempt.failure.lines
    assert status.usage is not None
    assert status.usage.unit == "gpu"
    assert 0 < status.usage.used_h < 1


def test_preempted(make_run: Callable[[], ServedRun]) -> None:
    """A preempted attempt is shown while its job waits; the next one goes on, and logs show both."""
    run = make_run()
    job, node = working(run, partition="low")
    cluster = run.cluster
    with cluster.urgent_job(node):
        group = failure(run, FailureKind.PREEMPTED)
    assert (group.where, group.node, group.count) == ("r0.a1", node, 1)
    assert group.log is not None
    assert group.lines
    run.wait_for_log("r0", "server is ready", attempt=2)
    status = run.status()
    assert status.jobs[0].job_id == job
    assert [attempt.is_alive for attempt in status.attempts] == [False, True]
    lines = follow(run.folder, Wanted(lines=1), follow=False)
    assert [line.attempt for line in lines] == ["r0.a1", "r0.a2"]


def test_node_failure(make_run: Callable[[], ServedRun]) -> None:
    """A worker whose node dies says nothing; Slurm does, and the status shows its last lines."""
    run = make_run()
    _, node = working(run)
    # With a real node they would be gone with it. Here they would have time to notice, and to say so.
    left = run.processes()
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    run.cluster.script("kill-node", node)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    run.cluster.script("node-down", node)  # Slurm would find out by itself, in a minute
    try:
        group = failure(run, FailureKind.NODE_FAILURE)
        assert (group.where, group.node, group.reason) == ("r0.a1", node, "its node failed")
        assert group.lines
        assert run.status().attempts[0].end is None
    finally:
        run.cancel()
        run.cluster.script("start-node", node)


def test_logs_through_a_requeue(make_run: Callable[[], ServedRun], tmp_path: Path) -> None:
    """`logs -f` shows both attempts of a requeued job, each line once, and ends with the run."""
    run = make_run()
    job, _ = working(run)
    program = [sys.executable, "-m", "evalkit", "logs", str(run.folder.root), "-f", "-n", "1000"]
    shown = tmp_path / "shown"
    with (
        shown.open("wb") as file,
        subprocess.Popen(
            program, env=run.cluster.env, stdout=file, stderr=subprocess.STDOUT
        ) as following,
    ):
        try:
            run.cluster.run("scontrol", "requeue", job)
            run.wait_for_log("r0", "server is ready", attempt=2)
            assert following.poll() is None, "it ended while the job waited"
            run.cancel()
            assert following.wait(timeout=WAIT_S) == 0
        finally:
            following.kill()
    lines = shown.read_text().splitlines()
    for attempt in (1, 2):
        said = run.folder.worker_log("r0", attempt).read_text().splitlines()
        prefix = f"r0.a{attempt} worker| "
        assert [line.removeprefix(prefix) for line in lines if line.startswith(prefix)] == said


def test_suspended(make_run: Callable[[], ServedRun]) -> None:
    """A suspended job is neither held nor lost, and goes on when it is resumed."""
    run = make_run()
    job, _ = working(run)
    run.cluster.run("scontrol", "suspend", job)
    status = run.status()
    assert [(each.state, each.raw) for each in status.jobs if each.job_id == job] == [
        ("suspended", "SUSPENDED")
    ]
    assert status.attempts[0].is_alive
    assert status.failures == ()
    run.cluster.run("scontrol", "resume", job)
    run.wait_for_answers(run.status().done + 4)


def test_held(make_run: Callable[[], ServedRun]) -> None:
    """A job that somebody holds is held, with what to type; once released it is not."""
    run = make_run()
    job = run.submit(SLOW, replicas=1, sbatch={"hold": True}).jobs[0].job_id
    group = failure(run, FailureKind.HELD)
    assert (group.of, group.where) == ("job", job)
    assert f"scontrol release {job}" in group.reason
    assert run.status().phase == "waiting"
    run.cluster.run("scontrol", "release", job)
    run.wait_for_answers(4)
    assert run.status().failures == ()
