"""Status: counts from markers and journals, replicas from their reports, jobs from Slurm."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.clock import Clock
from evalkit.cluster.attempts import write_attempt
from evalkit.cluster.cancel import cancel_run
from evalkit.cluster.failures import Failure, FailureKind
from evalkit.cluster.here import slurm_note
from evalkit.cluster.jobs import JobRecord, append_job
from evalkit.cluster.status import RunStatus, StatusReader, run_status
from evalkit.errors import ClusterError, UsageError
from evalkit.plan.model import Shard
from evalkit.store.journal import JournalSet
from evalkit.store.layout import RunFolder
from evalkit.store.records import Outcome, UnitRecord
from evalkit.store.run import load_plan
from tests.unit.cluster.builders import make_plan, make_task, write_json, write_marker, write_run
from tests.unit.cluster.test_accounting import stamp
from tests.unit.cluster.test_attempts import make_record

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


def test_a_suspended_job_is_neither_lost_nor_held(
    run_folder: RunFolder, fake_slurm: FakeSlurm
) -> None:
    """Its attempt lives on in silence; the run waits, with advice that helps."""
    record(run_folder)
    job(fake_slurm, state="SUSPENDED")
    attempt(run_folder, end=None, ended=None)
    report(run_folder, heartbeat=NOW - 3600)
    status = look(run_folder, fake_slurm.env)
    assert (status.phase, status.jobs[0].state) == ("waiting", "suspended")
    assert (status.replicas[0].state, status.attempts[0].is_alive) == ("suspended", True)
    assert "scontrol resume 100" in status.message
    assert status.failures == ()


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


def attempt(folder: RunFolder, replica: str = "r0", number: int = 1, **changes: Any) -> None:
    """A record as a worker leaves it: it began an hour ago and did something."""
    values = {
        "job_id": "100",
        "started": NOW - 3600,
        "last": NOW - 1800,
        "units": 3,
        "server_starts": 1,
        "deployments": 1,
        "nodes": ("n1",),
        "host": "host1",
        "gpus": 4,
    }
    write_attempt(folder, make_record(replica, number, **{**values, **changes}))


def ran(slurm: FakeSlurm, *rows: tuple[str, float, float], state: str | None = None) -> None:
    """A job with these executions in accounting (state, start, end), which has ended or waits."""
    history = [
        {"State": raw, "Submit": stamp(NOW - 9000), "Start": stamp(begin), "End": stamp(end)}
        for raw, begin, end in rows
    ]
    job(slurm, state=state)
    path = slurm.dir / "job-100.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "history": [{"JobID": "100", **row} for row in history]}))


def test_attempts_and_their_failures(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """Each attempt that did not end as done has its kind; equal kinds are counted, the last shown."""
    record(run_folder)
    attempt(run_folder, number=1, started=NOW - 9000, last=NOW - 8000)
    attempt(run_folder, number=2, started=NOW - 7000, last=NOW - 6000)
    oom = Failure(FailureKind.OOM, "no memory", "n2", "logs/r0/attempt-3/server.log", ("CUDA",))
    ended = {"ended": NOW - 3000, "end": "failed", "server_starts": 3, "units": 0}
    attempt(run_folder, number=3, started=NOW - 5000, last=NOW - 3000, failure=oom, **ended)
    attempt(run_folder, number=4, started=NOW - 2000, last=NOW - 1, units=0)
    ran(
        fake_slurm,
        ("PREEMPTED", NOW - 9010, NOW - 7990),
        ("PREEMPTED", NOW - 7010, NOW - 5990),
        ("REQUEUED", NOW - 5010, NOW - 2990),
    )
    report(run_folder, attempt=4)
    status = look(run_folder, fake_slurm.env)
    assert [(a.id, a.failure and str(a.failure.kind), a.is_alive) for a in status.attempts] == [
        ("r0.a1", "preempted", False),
        ("r0.a2", "preempted", False),
        ("r0.a3", "oom", False),
        ("r0.a4", None, True),
    ]
    assert [(g.kind, g.of, g.count, g.where, g.node) for g in status.failures] == [
        ("oom", "attempt", 1, "r0.a3", "n2"),
        ("preempted", "attempt", 2, "r0.a2", "n1"),
    ]
    assert status.failures[0].log == str(run_folder.server_log("r0", 3))
    assert status.failures[0].lines == ("CUDA",)
    assert (status.replicas[0].attempts, status.replicas[0].restarts) == (4, 2)
    assert status.usage is not None
    assert status.usage.used_h == pytest.approx(4 * (1000 + 1000 + 2000 + 1999) / 3600)
    assert status.usage.wasted_h == pytest.approx(4 * 2000 / 3600)
    assert status.usage.left_h == pytest.approx(4 * 4.0 / 3600)
    json.dumps(status.to_json())


def test_an_attempt_is_alive_while_its_job_runs(
    run_folder: RunFolder, fake_slurm: FakeSlurm
) -> None:
    """A worker that is not heard is silent as long as Slurm runs its job, and lost after that."""
    record(run_folder)
    attempt(run_folder)
    report(run_folder, heartbeat=NOW - 1800)
    job(fake_slurm, state="RUNNING")
    status = look(run_folder, fake_slurm.env)
    assert status.attempts[0].is_alive
    assert status.failures == ()
    assert status.replicas[0].state == "silent"
    fake_slurm.switch("broken")
    assert look(run_folder, fake_slurm.env).failures == (), "no answer is no verdict"


def test_a_node_that_failed_twice_is_named(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """Nodes that requeued jobs stay off are shown."""
    crash = Failure(FailureKind.SERVER_CRASH, "exit code 1", "n9")
    for number in (1, 2):
        attempt(
            run_folder, number=number, nodes=("n9",), ended=NOW - 9, end="failed", failure=crash
        )
    attempt(run_folder, "r1")
    assert look(run_folder, fake_slurm.env).bad_nodes == ("n9",)


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("JobHeldAdmin", "an administrator holds it"),
        ("JobHeldUser", "scontrol release 100"),
        ("DependencyNeverSatisfied", "evalkit cancel"),
        ("JobHoldMaxRequeue", "requeued too often"),
        ("(launch_failed_requeued_held)", "a node could not start it"),
    ],
)
def test_held_jobs_are_failures(
    run_folder: RunFolder, fake_slurm: FakeSlurm, reason: str, advice: str
) -> None:
    """A job that never starts by itself is said to be held, with the reason and what to do."""
    record(run_folder)
    job(fake_slurm)
    fake_slurm.switch("reason", reason)
    status = look(run_folder, fake_slurm.env)
    assert status.phase == "waiting"
    [group] = status.failures
    assert (group.kind, group.of, group.where) == ("held", "job", "100")
    for text in (status.message, group.reason, status.jobs[0].advice or ""):
        assert advice in text
    assert reason in status.message


def test_a_waiting_run_says_what_was_before(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """A requeued run waits; its message tells what ended its last attempt."""
    record(run_folder)
    attempt(run_folder)
    ran(fake_slurm, ("PREEMPTED", NOW - 3610, NOW - 1790))
    status = look(run_folder, fake_slurm.env)
    assert status.phase == "waiting"
    assert status.message == (
        "1 job waits for Slurm (Priority), 8 units owed; last: r0.a1 preempted by Slurm"
    )


async def test_units_that_failed(run_folder: RunFolder, no_slurm: dict[str, str]) -> None:
    """Units whose failure is ours are counted by kind, with the last reason."""
    plan = load_plan(run_folder)
    task = plan.tasks[0]
    shard = next(iter(task.shards()))
    keys = list(task.units(shard))[:3]
    details = ["429 too often", "judge is down", "judge is still down"]
    outcomes = [Outcome.INFRA_ERROR, Outcome.JUDGE_ERROR, Outcome.JUDGE_ERROR]
    journals = JournalSet()
    writer = journals.open(run_folder.journal(shard, "r0.a1"), plan, shard, "r0.a1")
    for key, outcome, detail in zip(keys, outcomes, details, strict=True):
        writer.append(UnitRecord(key.sample, key.repeat, outcome, "", detail=detail))
    await journals.close()
    found = {
        g.kind: (g.of, g.count, g.where, g.reason) for g in look(run_folder, no_slurm).failures
    }
    assert found == {
        FailureKind.ENDPOINT: ("unit", 1, "sums", "429 too often"),
        FailureKind.JUDGE: ("unit", 2, "sums", "judge is still down"),
    }


@pytest.mark.parametrize("content", [None, b"{", b"[]", b'{"missing": {"by_reason": {"x": 1}}}'])
def test_units_that_a_gather_could_not_score(
    run_folder: RunFolder, no_slurm: dict[str, str], content: bytes | None
) -> None:
    """A judge is asked when a run is gathered: what failed there is shown; a torn result is none."""
    reasons = {
        "judge_error": {"count": 3, "message": "429 too often\nmore"},
        "no_record": {"count": 1, "message": None},
        "infra_error": {"count": 2, "message": "old"},
    }
    path = run_folder.results("sums")
    write_json(path, {"missing": {"by_reason": reasons}})
    if content is not None:
        path.write_bytes(content)
    found = [(g.kind, g.of, g.count, g.reason) for g in look(run_folder, no_slurm).failures]
    assert found == ([] if content else [(FailureKind.JUDGE, "unit", 3, "429 too often")])
    write_json(run_folder.summary, {"complete": True})
    assert look(run_folder, no_slurm).failures == ()


def test_a_copied_run_is_blind(run_folder: RunFolder, no_slurm: dict[str, str]) -> None:
    """Without Slurm and without a heartbeat nobody can tell whether a run is over, and it says so."""
    record(run_folder)
    attempt(run_folder)
    status = look(run_folder, no_slurm)
    assert (status.is_blind, status.is_over) == (True, False)
    assert [group.kind for group in status.failures] == ["lost"]
    report(run_folder)
    assert not look(run_folder, no_slurm).is_blind


def test_processes_of_another_machine(run_folder: RunFolder, no_slurm: dict[str, str]) -> None:
    """Background processes that were started elsewhere are not called gone."""
    record(run_folder, "7", executor="local", host="elsewhere", started=1.0)
    status = look(run_folder, no_slurm)
    assert (status.phase, status.is_over, status.is_blind) == ("unknown", False, True)
    assert "only on elsewhere" in status.message
    report(run_folder, job_id="7")
    assert look(run_folder, no_slurm).phase == "running"


def test_a_refresh_asks_slurm_only_now_and_then(
    run_folder: RunFolder, fake_slurm: FakeSlurm
) -> None:
    """While a run is watched, files are read each time and Slurm is not."""
    record(run_folder)
    job(fake_slurm)
    now = [0.0]
    clock = Clock(wall=lambda: NOW + now[0], monotonic=lambda: now[0])
    reader = StatusReader(run_folder, clock=clock, env=fake_slurm.env)
    for _ in range(10):
        assert reader.read().phase == "waiting"
        now[0] += 2
    assert len(fake_slurm.calls("squeue")) == 1
