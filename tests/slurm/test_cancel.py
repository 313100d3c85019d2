"""Cancel on a real Slurm: whatever the jobs do at that moment, nothing of the run is left or comes back."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from evalkit.cluster.jobs import is_cancelled, read_jobs
from tests.slurm.served import ServedRun

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.slurm.conftest import SlurmCluster


@pytest.fixture
def run(slurm_cluster: SlurmCluster, tmp_path: Path) -> Iterator[ServedRun]:
    """A run whose jobs are gone after the test."""
    served = ServedRun(slurm_cluster, tmp_path / "out" / "demo", units=24, shards=6)
    yield served
    served.cancel()


def nothing_is_left(run: ServedRun) -> None:
    """No job, no process on any node, no lease, no job that waits for ever."""
    assert run.queued() == []
    run.cluster.wait_for("no process is left", lambda: not run.processes())
    assert list(run.folder.leases.glob("*/*.lock")) == []
    assert "DependencyNeverSatisfied" not in run.cluster.run("squeue", "-h", "-o", "%r")


def shows_no_job(run: ServedRun) -> None:
    """Status calls no job of the run alive, whatever accounting has got to know by now."""
    status = run.status()
    assert {job.state for job in status.jobs} == {"cancelled"}, [
        (job.job_id, job.state, job.raw, job.reason) for job in status.jobs
    ]
    assert status.is_over, status.message


def goes_on(run: ServedRun) -> None:
    """A submit finishes the run with servers that have no fault, and starts new attempts for it."""
    assert run.submit().kind == "submitted"
    run.finish()
    assert run.results()["complete"] is True
    assert run.results()["counts"]["duplicates"] == 0


def test_cancel_while_servers_start(run: ServedRun) -> None:
    """Servers that are not ready, ignore SIGTERM and have children that do: all are gone, on
    all nodes, and the run goes on without waiting for the leases of the dead."""
    jobs = run.submit("--ready-after-s 600 --ignore-term --spawn 2", 2).jobs
    for replica in ("r0", "r1"):
        log = run.folder.server_log(replica, 1)
        run.cluster.wait_for(f"{log}", lambda log=log: log.exists() and "child" in log.read_text())
    assert len(run.processes()) >= 2 * 4, "workers, servers and their children"
    cancelled = run.cancel()
    assert (cancelled.left, cancelled.unrecorded) == ((), ())
    assert {job.job_id for job in cancelled.jobs} == {job.job_id for job in jobs}
    nothing_is_left(run)
    goes_on(run)


def test_cancel_of_calls_in_flight(run: ServedRun) -> None:
    """A worker in the middle of its calls, and one that joined it later, end; answers stay."""
    run.submit("--hang-after 4")
    run.wait_for_answers(2)
    run.submit("--hang-after 4", replicas=1)
    run.wait_for_log("r1", "server")
    done = run.status().done
    cancelled = run.cancel()
    assert cancelled.left == ()
    assert [job.role for job in cancelled.jobs] == ["gather", "replicas", "replicas"]
    nothing_is_left(run)
    assert 0 < done <= run.status().done
    shows_no_job(run)
    goes_on(run)


def test_cancel_during_a_drain(run: ServedRun) -> None:
    """A replica that drains before its time limit is not requeued when the cancel comes then."""
    (job, _) = run.submit("--hang-after 2").jobs  # the probe and the preflight end, no call does
    run.wait_for_log("r0", "server")
    run.cluster.wait_for("calls", lambda: run.status().replicas[0].in_flight > 0)
    run.cluster.run("scancel", "--signal", "USR2", job.job_id)
    run.cluster.wait_for("the drain", lambda: run.status().replicas[0].state == "draining")
    assert run.cancel().left == ()
    nothing_is_left(run)
    assert "REQUEUED" not in " ".join(run.cluster.job_states(job.job_id))
    goes_on(run)


def test_cancel_against_a_requeue_on_its_way(run: ServedRun, tmp_path: Path) -> None:
    """A requeue that reaches Slurm after the cancel revives the job: it is cancelled again."""
    slow = tmp_path / "bin" / "scontrol"
    slow.parent.mkdir()
    real = shutil.which("scontrol")
    noted = tmp_path / "requeued"
    slow.write_text(
        f'#!/bin/sh\n[ "$1" != requeue ] || {{ touch {noted}; sleep 2; }}\nexec {real} "$@"\n'
    )
    slow.chmod(0o755)
    (job, _) = run.submit("--hang-after 5", setup=f"export PATH={slow.parent}:$PATH").jobs
    run.wait_for_answers(1)
    run.cluster.run("scancel", "--signal", "USR2", job.job_id)
    run.wait_for_drain()
    run.server().go_on()
    run.cluster.wait_for("the requeue is on its way", noted.exists)
    assert run.cancel().left == ()
    nothing_is_left(run)
    shows_no_job(run)
    assert is_cancelled(run.folder, job.job_id)
    goes_on(run)


def test_cancel_of_a_requeued_job(run: ServedRun) -> None:
    """A job that waits for its next attempt is cancelled like any other."""
    (job, _) = run.submit("--hang-after 5").jobs
    run.wait_for_answers(1)
    run.cluster.run("scontrol", "requeue", job.job_id)
    assert run.cancel().left == ()
    nothing_is_left(run)
    shows_no_job(run)


def test_cancel_of_waiting_jobs(run: ServedRun) -> None:
    """Held jobs, and jobs that no node has room for, are gone at once and leave no gather."""
    held = run.submit(sbatch={"hold": True}).jobs
    run.submit(replicas=1, mem="3900MB", cpus_per_task=4, sbatch={"begin": "now+1hour"})
    run.wait_for_state(held[0].job_id, "PENDING")
    run.cluster.wait_for("it is held", lambda: run.status().jobs[0].state == "held")
    cancelled = run.cancel()
    assert cancelled.left == ()
    assert len(cancelled.jobs) == 3
    shows_no_job(run)
    nothing_is_left(run)
    assert len(read_jobs(run.folder)) == 3
