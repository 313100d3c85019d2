"""What becomes of a job on a real Slurm: preempted in every way, cancelled, lost, failed, over budget.

The worker is a stand-in that waits and notes drains; what requeues is the real thing. A drain that is
warned with USR2, and preemption on a cluster that sends it, are in `test_submit`.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.attempts import AttemptRecord, begin_attempt, read_attempts, write_attempt
from evalkit.cluster.deaths import deaths_file
from evalkit.cluster.failures import FailureKind
from evalkit.cluster.jobs import read_jobs
from evalkit.cluster.slurm import JobView, SlurmCommands
from evalkit.recipe.serving import VllmServing
from tests.slurm.conftest import FIRST, WAIT_S
from tests.slurm.served import ServedRun
from tests.slurm.test_submit import Run
from tests.unit.cluster.builders import make_plan, write_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.slurm.conftest import SlurmCluster


@pytest.fixture
def make_run(slurm_cluster: SlurmCluster, tmp_path: Path) -> Iterator[Callable[[], Run]]:
    """Runs of one replica on the shared cluster; their jobs are gone after the test."""
    runs: list[Run] = []

    def make() -> Run:
        plan = make_plan(serving=VllmServing(gpus=1))
        folder = write_run(tmp_path / "out" / f"run{len(runs)}", plan)
        runs.append(Run(slurm_cluster, folder, plan))
        return runs[-1]

    yield make
    for run in runs:
        run.cancel()
    ids = {job.job_id for run in runs for job in read_jobs(run.folder)}
    queue = ("squeue", "-h", "-o", "%A")
    slurm_cluster.wait_for(
        "all is over", lambda: not ids.intersection(slurm_cluster.run(*queue).split())
    )


@pytest.fixture
def set_grace(slurm_cluster: SlurmCluster) -> Iterator[Callable[[int], None]]:
    """Sets the grace time of the partition `low` (s); it is 0 again after the test."""

    def change(seconds: int) -> None:
        slurm_cluster.run("scontrol", "update", "PartitionName=low", f"GraceTime={seconds}")

    yield change
    change(0)


@pytest.fixture
def served(slurm_cluster: SlurmCluster, tmp_path: Path) -> Iterator[ServedRun]:
    """A run with a real worker and a fault server; its jobs are gone after the test."""
    run = ServedRun(slurm_cluster, tmp_path / "out" / "served", units=24, shards=6)
    yield run
    run.cancel()


def view(run: Run, job: str) -> JobView:
    """What the controller says of a job."""
    found = SlurmCommands(run.env).show(job)
    assert found is not None
    return found


def log_of(run: Run) -> str:
    return run.folder.stdout.read_text() if run.folder.stdout.exists() else ""


def no_failed_result(run: Run) -> bool:
    """submitit has recorded no result of a replica."""
    return not list(run.folder.cluster.glob("*_result.pkl"))


@pytest.mark.parametrize(
    ("grace_s", "state"),
    [pytest.param(0, "PREEMPTED", id="no-grace"), pytest.param(20, "REQUEUED", id="grace")],
)
def test_preemption_without_a_warning(
    make_run: Callable[[], Run], set_grace: Callable[[int], None], grace_s: int, state: str
) -> None:
    """TERM alone: without grace Slurm requeues; in the grace time we do, or the job would be lost."""
    set_grace(grace_s)
    run = make_run()
    cluster = run.cluster
    job = run.submit(partition="low").jobs[0].job_id
    node = run.worker()["nodes"][0]
    with cluster.urgent_job(node):
        pass
    assert run.drains() == ["SIGTERM"]
    again = run.worker("r0", 1)
    assert again["restart_count"] == 1
    cluster.wait_for_states(job, state, of=FIRST)
    assert no_failed_result(run)


def test_a_worker_goes_on_after_its_time_limit(served: ServedRun) -> None:
    """A real worker drains in the time that is left, in a job too short for submitit to tell a limit
    from a preemption, is requeued, and the next attempt ends the run."""
    stuck = 'test "$SLURM_RESTART_COUNT" || export FAULTS="--hang-after 6"'
    # Slurm warns up to half a minute early: 60 to 90 s after the start, which leaves calls no time.
    submitted = served.submit(setup=stuck, env={}, time_min=2, signal_delay_s=30)
    served.wait_for_answers(4)
    served.finish(400)
    served.cluster.wait_for_states(submitted.jobs[0].job_id, "REQUEUED", "COMPLETED")
    first, second = read_attempts(served.folder)
    assert (first.end, first.reason) == ("drained", "SIGUSR2")
    assert (second.end, second.restart_count) == ("done", 1)
    assert 4 <= first.units == 24 - second.units
    assert served.results()["counts"]["duplicates"] == 0


def test_a_worker_goes_on_after_a_preemption(served: ServedRun) -> None:
    """A real worker drains within this site's short KillWait, and the next attempt ends the run."""
    stuck = 'test "$SLURM_RESTART_COUNT" || export FAULTS="--hang-after 6"'
    submitted = served.submit(setup=stuck, env={}, partition="low")
    served.wait_for_answers(4)
    with served.cluster.urgent_job(read_attempts(served.folder)[0].nodes[0]):
        served.finish()
    served.cluster.wait_for_states(submitted.jobs[0].job_id, "PREEMPTED", "COMPLETED")
    first, second = read_attempts(served.folder)
    assert (first.end, first.reason) == ("drained", "SIGTERM")
    assert (second.end, second.restart_count) == ("done", 1)
    assert 4 <= first.units == 24 - second.units


def test_a_cancelled_job_is_never_revived(make_run: Callable[[], Run]) -> None:
    """Plain scancel, also of a job that drains for its time limit: drained, ended, not requeued."""
    runs = [make_run(), make_run()]
    jobs = [run.submit().jobs[0].job_id for run in runs]
    for run in runs:
        run.worker()
    cluster = runs[0].cluster
    (runs[1].folder.root / "stubborn").touch()
    cluster.run("scancel", "--signal", "USR2", jobs[1])
    cluster.wait_for("it drains", lambda: runs[1].drains() == ["SIGUSR2"])
    cluster.run("scancel", *jobs)
    cluster.wait_for("it makes haste", lambda: runs[1].drains() == ["SIGUSR2", "SIGTERM"])
    (runs[1].folder.root / "stubborn").unlink()
    for run, job in zip(runs, jobs, strict=True):
        cluster.wait_for(
            "it is over", lambda job=job: cluster.job_states(job) == ["CANCELLED by 0"]
        )
        assert view(run, job).restarts == 0
        assert no_failed_result(run)
    assert runs[0].drains() == ["SIGTERM"]


def test_a_container_without_slurm_is_requeued_from_outside(make_run: Callable[[], Run]) -> None:
    """A worker that does not see Slurm's commands leaves the requeue to the batch script."""
    run = make_run()
    hidden = f"env PATH=/nonexistent {sys.executable}"
    job = run.submit(replicas=2, python=hidden).jobs[0].job_id
    run.worker("r1")
    run.cluster.run("scancel", "--signal", "USR2", f"{job}_1")
    again = run.worker("r1", 1)
    assert (again["restart_count"], again["job_id"]) == (1, f"{job}_1")
    assert "asks its batch script for a requeue: SIGUSR2" in log_of(run)


def test_a_killed_worker_is_tried_on_another_node(make_run: Callable[[], Run]) -> None:
    """A worker that the kernel kills leaves nothing: its batch script has the job decided about, the
    attempt is on record with node and signal, and the next one is elsewhere."""
    run = make_run()
    job = run.submit(replicas=2).jobs[0].job_id
    first = run.worker("r1")
    os.kill(first["pid"], signal.SIGKILL)
    again = run.worker("r1", 1)
    assert (again["restart_count"], again["job_id"]) == (1, f"{job}_1")
    assert again["nodes"] != first["nodes"]
    (failed,) = read_attempts(run.folder)
    assert (failed.id, failed.end, failed.nodes) == ("r1.a1", "failed", tuple(first["nodes"]))
    assert failed.failure is not None
    assert "killed without a word (SIGKILL)" in failed.failure.reason
    assert failed.failure.log == f"cluster/{job}_1_0_log.out"
    (shown,) = run.status().attempts
    assert shown.failure == failed.failure
    run.cluster.wait_for_states(f"{job}_1", "REQUEUED", of=FIRST)


def test_a_node_without_python_does_not_end_a_job(
    make_run: Callable[[], Run], tmp_path: Path
) -> None:
    """Where nothing of evalkit starts the batch script goes on alone, so often as failures are allowed,
    and what it leaves is an attempt for status, and for the choice of nodes."""
    run = make_run()
    broken = tmp_path / "python"
    broken.write_text(
        f'#!/bin/sh\n[ "$SLURM_RESTART_COUNT" ] && exec {sys.executable} "$@"\nexit 127\n'
    )
    broken.chmod(0o755)
    job = run.submit(python=str(broken), max_failures=1).jobs[0].job_id
    died = run.cluster.wait_for("it died", lambda: read_attempts(run.folder))
    assert deaths_file(run.folder, job).exists()
    (shown,) = run.status().attempts
    assert shown.failure is not None
    assert "exit code 127" in shown.failure.reason
    assert shown.failure.node in run.cluster.nodes
    assert run.worker()["restart_count"] == 1
    assert not deaths_file(run.folder, job).exists()
    assert read_attempts(run.folder) == died


def test_a_node_without_python_is_not_tried_for_ever(make_run: Callable[[], Run]) -> None:
    """After `max_failures` such attempts the job ends, and each of them is shown."""
    run = make_run()
    job = run.submit(python="/nonexistent/python", max_failures=1).jobs[0].job_id
    run.cluster.wait_for("it ends", lambda: run.cluster.job_states(job) == ["REQUEUED", "FAILED"])
    assert [a.restart_count for a in read_attempts(run.folder)] == [0, 1]


@pytest.mark.long
def test_a_container_at_its_time_limit_is_requeued(make_run: Callable[[], Run]) -> None:
    """Bash outlives the TERM at the limit, waits for the drain, and means the requeue of an ended job."""
    run = make_run()
    hidden = f"env PATH=/nonexistent {sys.executable}"
    (run.folder.root / "stubborn").touch()
    job = run.submit(python=hidden, time_min=1, signal_delay_s=10).jobs[0].job_id
    run.worker()
    both = ["SIGUSR2", "SIGTERM"]
    run.cluster.wait_for("Slurm ends it", lambda: run.drains() == both, limit_s=180)
    assert view(run, job).has_timed_out
    (run.folder.root / "stubborn").unlink()
    assert run.worker("r0", 1)["restart_count"] == 1
    assert "asks its batch script for a requeue: SIGUSR2, SIGTERM" in log_of(run)


def test_a_partition_that_cancels_what_it_preempts(make_run: Callable[[], Run]) -> None:
    """Slurm requeues nothing there: the job ends as preempted, for status too, and a submit goes on."""
    run = make_run()
    cluster = run.cluster
    cluster.run("scontrol", "update", "PartitionName=low", "PreemptMode=CANCEL")
    try:
        job = run.submit(partition="low").jobs[0].job_id
        first = run.worker()
        record_running(run, job, first)
        with cluster.urgent_job(first["nodes"][0]):
            pass
        cluster.wait_for("it is over", lambda: cluster.job_states(job) == ["PREEMPTED"])
        assert [a.cause for a in read_attempts(run.folder)] == ["preempted"]
        (shown,) = run.status().attempts
        assert shown.failure is not None
        assert shown.failure.kind is FailureKind.PREEMPTED
        cluster.wait_for("all is over", lambda: run.status().is_over)
        assert run.submit().kind == "submitted"
    finally:
        cluster.run("scontrol", "update", "PartitionName=low", "PreemptMode=REQUEUE")


def record_running(run: Run, job: str, info: dict[str, Any]) -> None:
    """The record that a real worker leaves when it drains on a TERM."""
    now = SYSTEM_CLOCK.wall()
    record = AttemptRecord(
        replica="r0",
        attempt=begin_attempt(run.folder, "r0").number,
        executor="slurm",
        job_id=job,
        restart_count=0,
        host=info["host"],
        nodes=tuple(info["nodes"]),
        gpus=1,
        started=now,
        last=now,
        ended=now,
        end="drained",
        reason="SIGTERM",
        units=1,
    )
    write_attempt(run.folder, record)


def test_a_lost_nodes_attempt_leaves_the_new_one_alone(make_run: Callable[[], Run]) -> None:
    """The second attempt runs elsewhere while the first lives; what ends the first is not requeued."""
    run = make_run()
    cluster = run.cluster
    job = run.submit().jobs[0].job_id
    first = run.worker()
    node = first["nodes"][0]
    old = psutil.Process(first["pid"])
    cluster.script("kill-node", node)
    cluster.script("node-down", node)  # Slurm would find out by itself, in a minute
    try:
        second = run.worker("r0", 1)
        assert (second["restart_count"], second["job_id"]) == (1, job)
        assert second["nodes"] != first["nodes"]
        assert old.is_running()
        assert old.environ()["SLURM_JOB_ID"] == job
        old.send_signal(signal.SIGTERM)
        assert not psutil.wait_procs([old], timeout=WAIT_S)[1]
        assert "SIGTERM; Slurm has requeued it" in log_of(run)
        assert view(run, job)[:3] == ("RUNNING", "", 1)
        assert psutil.Process(second["pid"]).is_running()
    finally:
        if psutil.pid_exists(first["pid"]):
            os.kill(first["pid"], signal.SIGKILL)
        cluster.script("start-node", node)


def test_a_failed_attempt_goes_to_another_node(make_run: Callable[[], Run]) -> None:
    """The job is requeued without the node it failed on; what the recipe excludes stays excluded."""
    run = make_run()
    given = run.cluster.nodes[3]
    for replica in ("r0", "r1"):
        (run.folder.root / f"release-{replica}-0").write_text("fail")
    job = run.submit(replicas=2, exclude=given).jobs[0].job_id
    failed_on = run.worker()["nodes"][0]
    run.cluster.wait_for("both are requeued", lambda: log_of(run).count("goes back") == 2)
    again = run.worker("r0", 1)
    assert again["nodes"][0] not in (given, failed_on)
    commands = SlurmCommands(run.env)
    assert set(commands.host_names(view(run, f"{job}_0").excluded)) == {given, failed_on}
    assert "server_crash; without" in log_of(run)
    assert no_failed_result(run)


def test_a_job_over_its_budget_is_not_requeued(make_run: Callable[[], Run]) -> None:
    """With `max_hours` spent a warned job ends, and log, record and Slurm say so; a submit goes on."""
    run = make_run()
    job = run.submit(max_hours=1.0).jobs[0].job_id
    info = run.worker()
    now = SYSTEM_CLOCK.wall()
    record = AttemptRecord(
        replica="r0",
        attempt=begin_attempt(run.folder, "r0").number,
        executor="slurm",
        job_id=job,
        restart_count=0,
        host=info["host"],
        nodes=tuple(info["nodes"]),
        gpus=1,
        started=now - 4000,
        last=now,
        ended=now,
        end="drained",
    )
    write_attempt(run.folder, record)
    run.cluster.run("scancel", "--signal", "USR2", job)
    run.cluster.wait_for("it ends", lambda: run.cluster.job_states(job) == ["FAILED"])
    assert "r0 is not requeued: its 1 attempt took 1.11 h, and cluster.max_hours is 1" in log_of(
        run
    )
    assert [attempt.end for attempt in read_attempts(run.folder)] == ["over_budget"]
    run.cluster.wait_for("all is over", lambda: run.status().is_over)
    assert run.submit().kind == "submitted"
