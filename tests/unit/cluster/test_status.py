"""Status: counts from markers and journals, replicas from their reports, jobs from Slurm."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.clock import Clock
from evalkit.cluster.cancel import cancel_run
from evalkit.cluster.here import slurm_note
from evalkit.cluster.jobs import JobRecord, append_job
from evalkit.cluster.status import RunStatus, run_status
from evalkit.errors import ClusterError, UsageError
from evalkit.plan.model import Shard
from evalkit.store.layout import RunFolder
from tests.unit.cluster.builders import make_plan, make_task, write_json, write_marker, write_run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.cluster.conftest import FakeSlurm

NOW = 1_800_000_000.0


def look(folder: RunFolder, env: dict[str, str], now: float = NOW) -> RunStatus:
    return run_status(folder, clock=Clock(wall=lambda: now), env=env)


def report(folder: RunFolder, replica: str = "r0", **changes: Any) -> None:
    """A replica's status file as its worker writes it."""
    values = {
        "replica": replica,
        "attempt": 1,
        "state": "ready",
        "host": "n1",
        "pid": 1,
        "job_id": "100",
        "heartbeat": NOW - 1,
        "started": NOW - 60,
        "phase": 0,
        "server": {"state": "healthy"},
        "tasks": {"sums": {"done": 4, "rate_per_s": 2.0, "scored": 4, "score_sum": 3.0}},
        "in_flight": 8,
        "tokens_per_s": 500.0,
        "error": None,
    }
    write_json(folder.replica(replica), {**values, **changes})


def record(folder: RunFolder, job_id: str = "100", role: str = "replicas", **changes: Any) -> None:
    """A submitted job of one replica, long ago unless changed."""
    values = {
        "submission": 1,
        "time": NOW - 10_000,
        "host": "login",
        "executor": "slurm",
        "name": "evalkit-demo-808d8c9a",
        "job_id": job_id,
        "role": role,
        "replicas": ("r0",) if role == "replicas" else (),
        "is_array": False,
        "script": None,
    }
    append_job(folder, JobRecord(**{**values, **changes}))


def job(slurm: FakeSlurm, number: int = 100, state: str | None = None) -> None:
    """A job of the pretended Slurm: pending, or in a terminal state."""
    element = str(number)
    values = {"id": number, "elements": [element], "name": "evalkit-demo-808d8c9a", "pids": {}}
    ended = {element: state} if state else {}
    (slurm.dir / f"job-{number}.json").write_text(json.dumps({**values, "ended": ended}))


def test_counts_come_from_markers(run_folder: RunFolder, no_slurm: dict[str, str]) -> None:
    """A believed marker counts its shard without a look into the journals."""
    task = make_task()
    write_marker(run_folder, task, 0)
    (found,) = look(run_folder, no_slurm).tasks
    assert (found.done, found.expected, found.shards_done) == (4, 8, 1)
    assert found.outcomes == {"ok": 4}
    assert (found.score, found.scored) == (0.5, 4)


@pytest.mark.parametrize(
    "changes",
    [{"journals": {"r0.a1.jsonl": 101}}, {"journals": {"gone.jsonl": 1}}, {"units": None}],
)
def test_a_marker_that_journals_contradict_is_not_believed(
    run_folder: RunFolder, no_slurm: dict[str, str], changes: dict[str, Any]
) -> None:
    """A marker over shorter or absent journals counts nothing; the journals are read instead."""
    write_marker(run_folder, make_task(), 0, **changes)
    run_folder.journal(Shard("sums", 0), "r0.a1").write_bytes(b"")
    (found,) = look(run_folder, no_slurm).tasks
    assert (found.done, found.shards_done, found.score) == (0, 0, None)


def test_nothing_known_is_not_zero(run_folder: RunFolder, no_slurm: dict[str, str]) -> None:
    """A run without workers has no rate, no time left and no score."""
    status = look(run_folder, no_slurm)
    assert (status.phase, status.is_over) == ("not_submitted", True)
    assert (status.rate_per_s, status.eta_s) == (None, None)
    assert (status.tasks[0].score, status.tasks[0].rate_per_s, status.tasks[0].eta_s) == (
        None,
        None,
        None,
    )


def test_rates_are_summed_over_living_replicas(
    run_folder: RunFolder, fake_slurm: FakeSlurm
) -> None:
    """Two replicas at 2 units per second finish 8 units in 2 seconds; a silent one does not help."""
    report(run_folder, "r0")
    report(run_folder, "r1")
    report(run_folder, "r2", heartbeat=NOW - 1000)
    status = look(run_folder, fake_slurm.env)
    assert (status.rate_per_s, status.eta_s) == (4.0, 2.0)
    assert [r.state for r in status.replicas] == ["ready", "ready", "silent"]
    assert status.replicas[2].tokens_per_s == 0.0
    assert (status.phase, status.tasks[0].score) == ("running", 0.75)
    assert json.loads(json.dumps(status.to_json()))["tasks"][0]["eta_s"] == 2.0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"replica": "r0"}', b'{"tasks": 3}'])
def test_a_torn_report_is_no_report(
    run_folder: RunFolder, no_slurm: dict[str, str], content: bytes
) -> None:
    """Whatever is in a status file, status does not fail."""
    run_folder.replicas.mkdir()
    run_folder.replica("r0").write_bytes(content)
    assert look(run_folder, no_slurm).replicas == ()


def test_waiting_shows_slurms_reason(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """A pending job gives its reason."""
    record(run_folder)
    job(fake_slurm)
    status = look(run_folder, fake_slurm.env)
    assert (status.phase, status.is_over) == ("waiting", False)
    assert "(Priority)" in status.message
    assert (status.jobs[0].state, status.replicas[0].state) == ("pending", "waiting")


@pytest.mark.parametrize(
    ("state", "word"),
    [
        ("CANCELLED by 0", "was cancelled"),
        ("TIMEOUT", "reached its time limit"),
        ("OUT_OF_MEMORY", "killed for its memory"),
        ("NODE_FAIL", "lost its node"),
        ("FAILED", "failed"),
    ],
)
def test_a_stopped_run_says_why(
    run_folder: RunFolder, fake_slurm: FakeSlurm, state: str, word: str
) -> None:
    """A job that ended too early names what became of it, its log, and the next command."""
    record(run_folder)
    job(fake_slurm, state=state)
    log = run_folder.cluster / "100_0_log.out"
    log.write_text("ImportError\n")
    status = look(run_folder, fake_slurm.env)
    assert (status.phase, status.is_over) == ("stopped", True)
    assert word in status.message
    assert str(log) in status.message
    assert "evalkit submit" in status.message


def test_a_failed_worker_is_the_reason(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """What the worker said wins over Slurm's exit state."""
    record(run_folder)
    job(fake_slurm, state="FAILED")
    report(run_folder, state="failed", error="the server died: CUDA out of memory")
    run_folder.worker_log("r0", 1).parent.mkdir(parents=True)
    run_folder.worker_log("r0", 1).write_text("x\n")
    status = look(run_folder, fake_slurm.env)
    assert status.phase == "failed"
    assert "CUDA out of memory" in status.message
    assert str(run_folder.worker_log("r0", 1)) in status.message


def test_a_heartbeat_of_an_ended_job_is_silence(
    run_folder: RunFolder, fake_slurm: FakeSlurm
) -> None:
    """A replica whose job has ended has ended, whatever its last report says."""
    record(run_folder)
    job(fake_slurm, state="CANCELLED by 0")
    report(run_folder)
    status = look(run_folder, fake_slurm.env)
    assert (status.replicas[0].state, status.phase) == ("ended", "stopped")


def test_unknown_is_never_success(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """A job that Slurm has forgotten is unknown, and the run is stopped, not complete."""
    record(run_folder)
    status = look(run_folder, fake_slurm.env)
    assert (status.jobs[0].state, status.jobs[0].reason) == ("unknown", "Slurm no longer knows it")
    assert status.phase == "stopped"


def test_a_job_may_be_invisible_at_first(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """Within two minutes a job that nobody shows is waited for."""
    record(run_folder, time=NOW - 5)
    status = look(run_folder, fake_slurm.env)
    assert (status.phase, status.is_over) == ("unknown", False)


def test_slurm_that_does_not_answer_hides_no_progress(
    run_folder: RunFolder, fake_slurm: FakeSlurm
) -> None:
    """Counts hold without Slurm; the error stands beside them."""
    record(run_folder)
    write_marker(run_folder, make_task(), 0)
    fake_slurm.switch("broken")
    status = look(run_folder, fake_slurm.env)
    assert status.done == 4
    assert "Unable to contact" in (status.slurm_error or "")
    assert status.jobs[0].state == "unknown"
    assert not status.is_over


def test_complete_needs_every_unit_and_a_gather(
    run_folder: RunFolder, no_slurm: dict[str, str]
) -> None:
    """All units done is gathering; a summary that says complete makes it complete."""
    for index in (0, 1):
        write_marker(run_folder, make_task(), index)
    status = look(run_folder, no_slurm)
    assert (status.phase, status.done) == ("gathering", 8)
    assert "evalkit gather" in status.message
    write_json(run_folder.summary, {"complete": False})
    assert look(run_folder, no_slurm).phase == "gathering"
    write_json(run_folder.summary, {"complete": True})
    status = look(run_folder, no_slurm)
    assert (status.phase, status.is_over) == ("complete", True)


def test_a_failed_gather_is_said(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """When all units are done and the gather job failed, that is the state of the run."""
    for index in (0, 1):
        write_marker(run_folder, make_task(), index)
    record(run_folder)
    record(run_folder, "101", "gather")
    job(fake_slurm, 100, "COMPLETED")
    job(fake_slurm, 101, "FAILED")
    status = look(run_folder, fake_slurm.env)
    assert (status.phase, status.is_over) == ("failed", True)
    assert "gather job 101 ended as failed" in status.message


def test_a_held_job_says_that_it_never_starts(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """A job on hold names what to type."""
    record(run_folder)
    job(fake_slurm, state="REQUEUE_HOLD")
    status = look(run_folder, fake_slurm.env)
    assert (status.phase, status.jobs[0].state) == ("waiting", "held")
    assert "scontrol release" in status.message


def test_a_busy_run_shows_its_trouble(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """A replica that loads says so; the error of one that works is not hidden."""
    report(run_folder, state="loading")
    assert look(run_folder, fake_slurm.env).phase == "starting"
    report(run_folder, error="the server died and was started again")
    status = look(run_folder, fake_slurm.env)
    assert status.phase == "running"
    assert "the server died and was started again" in status.message


def test_one_query_for_all_jobs(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """Slurm is asked once by squeue and once by sacct, whatever the number of jobs."""
    for number in (100, 101, 102):
        record(run_folder, str(number))
        job(fake_slurm, number)
    record(run_folder, "103", "gather")
    job(fake_slurm, 103, "COMPLETED")
    look(run_folder, fake_slurm.env)
    assert [len(fake_slurm.calls(name)) for name in ("squeue", "sacct")] == [1, 1]
    assert "100,101,102,103" in fake_slurm.calls("squeue")[0]
    assert fake_slurm.calls("sacct")[0][-2] == "103"


def test_a_thousand_shards_open_no_journal(
    tmp_path: Path, no_slurm: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With valid markers the status of a large run reads no journal at all."""
    task = make_task(n_samples=1000, n_shards=1000)
    folder = write_run(tmp_path / "demo", make_plan(task))
    for index in range(1000):
        write_marker(folder, task, index)
    monkeypatch.setattr("evalkit.cluster.progress.OpenShard", None)
    assert look(folder, no_slurm).done == 1000


def test_a_folder_that_is_no_run(tmp_path: Path, no_slurm: dict[str, str]) -> None:
    """Without a plan there is nothing to show, and the error says so."""
    with pytest.raises(UsageError, match="is not a run"):
        look(RunFolder(tmp_path), no_slurm)


def test_a_long_error_is_shown_in_one_line(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """The first line, the cause that was seen, what to do and the log; not the log's text."""
    error = (
        "the server for 'm' died before it was ready (9 s, exit code 1); last lines of its log:\n"
        "line one\nline two\n"
        "Lower serving.max_model_len.\nSeen: KV cache is too small\nWhole log: /logs/server.log"
    )
    record(run_folder)
    job(fake_slurm, state="FAILED")
    report(run_folder, state="failed", error=error)
    status = look(run_folder, fake_slurm.env)
    assert status.message == (
        "r0 failed: the server for 'm' died before it was ready (9 s, exit code 1). "
        "Seen: KV cache is too small. Lower serving.max_model_len. Whole log: /logs/server.log; "
        "8 units owed"
    )
    assert status.replicas[0].error == error


def test_where_slurm_is_absent_its_jobs_are_unknown(
    run_folder: RunFolder, no_slurm: dict[str, str]
) -> None:
    """A run that was copied from a cluster has no state, and says what continues it."""
    record(run_folder)
    status = look(run_folder, no_slurm)
    assert (status.phase, status.jobs[0].state) == ("unknown", "unknown")
    assert "no Slurm on this machine" in (status.slurm_error or "")
    assert "evalkit resume --here" in status.message
    assert "jobs 100" in (slurm_note(run_folder, no_slurm) or "")
    report(run_folder)
    assert look(run_folder, no_slurm).phase == "running"
    assert look(run_folder, no_slurm).jobs[0].state == "running"


def test_a_run_of_slurm_is_not_cancelled_without_it(
    run_folder: RunFolder, no_slurm: dict[str, str]
) -> None:
    """Where Slurm cannot be asked, nothing is claimed to be stopped."""
    record(run_folder)
    with pytest.raises(ClusterError, match="no Slurm on this machine"):
        cancel_run(run_folder, clock=Clock(wall=lambda: NOW), env=no_slurm)


def test_no_note_without_jobs_of_slurm(
    run_folder: RunFolder, fake_slurm: FakeSlurm, no_slurm: dict[str, str]
) -> None:
    """A run that never met Slurm, and one where Slurm answers, need no note."""
    assert slurm_note(run_folder, no_slurm) is None
    record(run_folder)
    assert slurm_note(run_folder, fake_slurm.env) is None
