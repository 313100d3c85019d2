"""How attempts ended: the worker's word, Slurm's, or neither's."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.cluster.accounting import Execution, History
from evalkit.cluster.failures import Failure, FailureKind
from evalkit.cluster.postmortem import (
    Postmortem,
    Scene,
    explain,
    explain_job,
    find_execution,
    is_past,
)
from evalkit.cluster.slurm import JobRow
from evalkit.cluster.states import JobState, job_state
from tests.unit.cluster.test_attempts import make_record

if TYPE_CHECKING:
    from evalkit.cluster.attempts import AttemptRecord
    from evalkit.store.layout import RunFolder

JOB = "7_0"


def execution(raw: str, started: float | None = 995.0, **changes: Any) -> Execution:
    """A row of accounting for the job of `make_record`, which starts at 1000."""
    row = Execution(JOB, job_state(raw), raw, "0:0", 990.0, started, None, "n1")
    return row._replace(**changes)


def scene(folder: RunFolder, *rows: Execution, **changes: Any) -> Scene:
    """What is known: these executions, and nobody alive."""
    return Scene(History({JOB: rows}), frozenset(), frozenset(), folder)._replace(**changes)


def verdict(attempt: AttemptRecord, known: Scene) -> tuple[FailureKind, str] | None:
    found = explain(attempt, known)
    return None if found is None else (found.kind, found.reason)


@pytest.mark.parametrize(
    ("raw", "kind", "words"),
    [
        ("PREEMPTED", FailureKind.PREEMPTED, "preempted by Slurm"),
        ("NODE_FAIL", FailureKind.NODE_FAILURE, "its node failed"),
        ("BOOT_FAIL", FailureKind.NODE_FAILURE, "its node failed"),
        ("TIMEOUT", FailureKind.TIME_LIMIT, "time limit"),
        ("DEADLINE", FailureKind.TIME_LIMIT, "time limit"),
        ("OUT_OF_MEMORY", FailureKind.OOM, "cluster.mem"),
        ("CANCELLED by 1000", FailureKind.CANCELLED, "cancelled (cancelled by 1000)"),
    ],
)
@pytest.mark.parametrize("end", [None, "drained"])
def test_slurm_knows(
    run_folder: RunFolder, raw: str, kind: FailureKind, words: str, end: str | None
) -> None:
    """Of an attempt that was killed or told to stop, accounting says by whom."""
    found = explain(make_record(end=end, reason="SIGTERM"), scene(run_folder, execution(raw)))
    assert found is not None
    assert found.kind is kind
    assert words in found.reason
    assert found.node == "n1"


def test_good_ends(run_folder: RunFolder) -> None:
    """An attempt that is done, or may still run, has no failure."""
    known = scene(run_folder, execution("FAILED"), alive=frozenset({"r0.a1"}))
    assert explain(make_record(end="done", ended=1100.0), known) is None
    assert explain(make_record(), known) is None
    assert explain(make_record(end="drained", ended=1100.0), known) is not None


def test_the_workers_word_counts(run_folder: RunFolder) -> None:
    """What a worker said of itself stays; only for memory Slurm knows better."""
    crash = Failure(FailureKind.SERVER_CRASH, "exit code 137", "n1", "logs/x", ("line",))
    attempt = make_record(end="failed", ended=1100.0, failure=crash)
    assert explain(attempt, scene(run_folder, execution("FAILED"))) == crash
    found = explain(attempt, scene(run_folder, execution("OUT_OF_MEMORY")))
    assert found is not None
    assert found.kind is FailureKind.OOM
    assert found.reason.endswith("(cluster.mem): exit code 137")
    assert found.lines == ("line",)
    config = Failure(FailureKind.CONFIG, "no such option")
    attempt = make_record(end="failed", ended=1100.0, failure=config)
    assert explain(attempt, scene(run_folder, execution("OUT_OF_MEMORY"))) == config


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"reason": "SIGUSR2", "ends": 1280.0, "started": 0.0}, FailureKind.TIME_LIMIT),
        ({"reason": "SIGUSR2", "ends": 1500.0, "started": 0.0}, FailureKind.PREEMPTED),
        ({"reason": "SIGUSR2", "ends": 90_000.0}, FailureKind.PREEMPTED),
        ({"reason": "SIGTERM", "ends": 1130.0, "started": 0.0}, FailureKind.TIME_LIMIT),
        ({"reason": "SIGTERM", "ends": 1280.0, "started": 0.0}, FailureKind.PREEMPTED),
        ({"reason": "SIGUSR2", "ends": 1240.0}, FailureKind.PREEMPTED),
        ({"reason": "SIGTERM"}, FailureKind.PREEMPTED),
        ({"reason": "SIGINT"}, FailureKind.CANCELLED),
        ({"reason": "SIGTERM", "executor": "local"}, FailureKind.CANCELLED),
        ({"reason": "8 hours are over", "end": "over_budget"}, FailureKind.OVER_BUDGET),
    ],
)
@pytest.mark.parametrize("rows", [(), (execution("REQUEUED"),)])
def test_signals_without_an_explanation(
    run_folder: RunFolder, changes: dict[str, Any], kind: FailureKind, rows: tuple[Execution, ...]
) -> None:
    """Where Slurm only requeued, or says nothing, the signal and the clock tell."""
    attempt = make_record(**{"end": "drained", "ended": 1100.0, "last": 1100.0, **changes})
    found = explain(attempt, scene(run_folder, *rows))
    assert found is not None
    assert found.kind is kind
    assert str(changes["reason"]) in found.reason


@pytest.mark.parametrize("minutes", [1, 5, 10, 15])
def test_a_short_job_that_is_preempted(run_folder: RunFolder, minutes: int) -> None:
    """A preemption early in a short job is not taken for the time limit, however short the job."""
    limit = 60.0 * minutes
    attempt = make_record(
        end="drained", reason="SIGTERM", ended=1000.0 + limit / 3, last=1000.0 + limit / 3,
        ends=1000.0 + limit,
    )  # fmt: skip
    for rows in ((), (execution("REQUEUED"),)):
        found = explain(attempt, scene(run_folder, *rows))
        assert found is not None
        assert found.kind is FailureKind.PREEMPTED


@pytest.mark.parametrize("cause", ["preempted", "time_limit", "cancelled"])
def test_what_slurm_told_the_worker(run_folder: RunFolder, cause: str) -> None:
    """The cause that a worker was told stands, whatever the clock and the accounts make of it."""
    attempt = make_record(end="drained", ended=1100.0, reason="SIGTERM", cause=cause, ends=1101.0)
    for rows in ((), (execution("REQUEUED"),), (execution("TIMEOUT"),)):
        found = explain(attempt, scene(run_folder, *rows))
        assert found is not None
        assert found.kind == cause
        assert "(SIGTERM)" in found.reason


def test_the_warning_is_the_sites(run_folder: RunFolder) -> None:
    """A site that warns long before the limit has time limits that come early."""
    attempt = make_record(
        end="drained", reason="SIGUSR2", ended=5000.0, last=5000.0, ends=5900.0, started=0.0
    )
    kinds = [verdict(attempt, scene(run_folder, warning_s=s)) for s in (180.0, 900.0)]
    assert [kind and kind[0] for kind in kinds] == [FailureKind.PREEMPTED, FailureKind.TIME_LIMIT]


def test_nothing_is_concluded_from_silence(run_folder: RunFolder) -> None:
    """While Slurm says nothing, an attempt without an end has not failed; later it may have."""
    known = scene(run_folder, undecided=frozenset({"r0.a1"}))
    postmortem = Postmortem()
    assert postmortem.explain(make_record(), known) is None
    found = postmortem.explain(make_record(), scene(run_folder, execution("NODE_FAIL")))
    assert found is not None
    assert found.kind is FailureKind.NODE_FAILURE


def test_attempts_of_past_executions() -> None:
    """An execution is past when another has begun, or it is over; accounting that lags says nothing."""
    first = execution("NODE_FAIL", 995.0, ended=1500.0)
    second = execution("RUNNING", 2000.0)
    assert is_past(make_record(), History({JOB: (first, second)}))
    assert not is_past(
        make_record(started=2010.0, restart_count=1), History({JOB: (first, second)})
    )
    assert is_past(make_record(), History({JOB: (first,)}))
    assert not is_past(make_record(started=2010.0, restart_count=1), History({JOB: (first,)}))
    assert not is_past(make_record(), History({}))


def test_cancelled_by_us(run_folder: RunFolder) -> None:
    """A job that `evalkit cancel` stopped was cancelled, also where nobody keeps accounts."""
    attempt = make_record(end="drained", ended=1100.0, reason="SIGTERM")
    known = scene(run_folder, cancelled=frozenset({"7"}))
    assert verdict(attempt, known) == (FailureKind.CANCELLED, "cancelled")


def test_lost(run_folder: RunFolder) -> None:
    """An end that nobody saw is lost, never fine."""
    for raw, words in (("COMPLETED", "COMPLETED"), ("FAILED", "exit code 0:9, FAILED")):
        found = explain(make_record(), scene(run_folder, execution(raw, exit_code="0:9")))
        assert found is not None
        assert found.kind is FailureKind.LOST
        assert words in found.reason
    assert verdict(make_record(), scene(run_folder)) == (
        FailureKind.LOST,
        "it was not heard any more, and nobody says why",
    )


def test_execution_of_an_attempt() -> None:
    """Of several executions of a job, an attempt belongs to the one of its number of requeues."""
    first, second = execution("PREEMPTED", 995.0), execution("NODE_FAIL", 1010.0)
    history = History({JOB: (first, second, execution("PENDING", None))})
    assert find_execution(make_record(started=1000.0), history) == first, "requeued within seconds"
    assert find_execution(make_record(started=1015.0, restart_count=1), history) == second
    assert find_execution(make_record(started=100.0), history) is None, "of a job with the same id"


def test_execution_where_accounting_has_forgotten_some() -> None:
    """Where the first executions are missing, the nearest one counts."""
    history = History({JOB: (execution("PREEMPTED", 5000.0), execution("NODE_FAIL", 9000.0))})
    assert (
        find_execution(make_record(started=5020.0, restart_count=7), history) == history.of(JOB)[0]
    )
    assert (
        find_execution(make_record(started=8990.0, restart_count=8), history) == history.of(JOB)[1]
    )


@pytest.mark.parametrize("n", [0, 1])
def test_a_row_that_was_over_before_the_attempt_began(n: int) -> None:
    """Where a site keeps a job's first row alone, and for ever, it tells nothing of later attempts."""
    stale = execution("PREEMPTED", 500.0, ended=1000.0)
    later = make_record(started=48_000.0, restart_count=n)
    assert find_execution(later, History({JOB: (stale,)})) is None
    own = execution("NODE_FAIL", 47_990.0, ended=50_000.0)
    assert find_execution(later, History({JOB: (stale, own)})) == own


def test_the_kind_of_an_attempt_without_a_row(run_folder: RunFolder) -> None:
    """It is lost, and not preempted because an earlier one was."""
    stale = execution("PREEMPTED", 500.0, ended=1000.0)
    later = make_record(started=48_000.0, last=49_000.0, restart_count=1)
    assert verdict(later, scene(run_folder, stale)) == (
        FailureKind.LOST,
        "it was not heard any more, and nobody says why",
    )


def at(when: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(when))


def test_what_slurm_wrote_into_the_jobs_log(run_folder: RunFolder) -> None:
    """All executions of a job share its log: the lines of an attempt are those of its time."""
    path = run_folder.job_log(JOB)
    path.parent.mkdir(parents=True)
    kills = [f"slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT {at(t)} DUE TO PREEMPTION ***"
             for t in (1050.0, 9000.0)]  # fmt: skip
    path.write_text("\n".join(["hello", *kills, "slurmstepd: error: Detected 1 oom_kill event"]))
    attempt = make_record(last=1040.0)
    found = explain(attempt, scene(run_folder, execution("PREEMPTED")))
    assert found is not None
    assert found.lines == (kills[0],)
    assert found.log == "cluster/7_0_0_log.out"
    found = explain(attempt, scene(run_folder, execution("OUT_OF_MEMORY")))
    assert found is not None
    assert found.lines == (kills[0], "slurmstepd: error: Detected 1 oom_kill event")


def test_the_workers_last_lines(run_folder: RunFolder) -> None:
    """Without a word of Slurm's the worker's last lines are what there is."""
    path = run_folder.worker_log("r0", 1)
    path.parent.mkdir(parents=True)
    path.write_text("1\n2\n3\n\n4\n")
    found = explain(make_record(), scene(run_folder))
    assert found is not None
    assert (found.log, found.lines) == ("logs/r0/attempt-1/worker.log", ("2", "3", "4"))


@pytest.mark.parametrize(
    ("raw", "output", "kind", "reason", "lines"),
    [
        ("NODE_FAIL", "", "node_failure", "its node failed", ()),
        ("FAILED", "srun: error: Detected 1 oom_kill event in StepId=7.0\n", "oom",
         "its job used more memory than it had (cluster.mem)",
         ("srun: error: Detected 1 oom_kill event in StepId=7.0",)),
        ("FAILED", "Traceback\nevalkit.errors.StoreError: cannot create logs\nFree space.\n",
         "storage", "cannot create logs",
         ("evalkit.errors.StoreError: cannot create logs", "Free space.")),
        ("FAILED", "evalkit.errors.NoSuchError: x\nModuleNotFoundError: No module named 'evalkit'\n",
         "config", "the job failed before its worker said anything (exit code 1:0)",
         ("evalkit.errors.NoSuchError: x", "ModuleNotFoundError: No module named 'evalkit'")),
        ("FAILED", "bash: line 3: module: command not found\n", "unknown",
         "the job failed before its worker said anything (exit code 1:0)",
         ("bash: line 3: module: command not found",)),
        ("COMPLETED", "x", None, "", ()),
        ("PENDING", "x", None, "", ()),
        ("A_NEW_STATE", "x", None, "", ()),
    ],
)  # fmt: skip
def test_jobs_that_no_attempt_tells_of(
    run_folder: RunFolder,
    raw: str,
    output: str,
    kind: str | None,
    reason: str,
    lines: tuple[str, ...],
) -> None:
    """A worker that never started says why in the job's log; only an end is a failure."""
    path = run_folder.job_log("7")
    path.parent.mkdir(parents=True)
    path.write_text(output)
    found = explain_job(JobRow("7", job_state(raw), raw, "", "n1", "1:0"), run_folder)
    if kind is None:
        assert found is None
    else:
        log = "cluster/7_0_log.out" if output else None
        assert found == Failure(FailureKind(kind), reason, "n1", log, lines)


def test_a_job_without_a_log(run_folder: RunFolder) -> None:
    """A log that is not there is none."""
    found = explain_job(JobRow("7", JobState.FAILED, "FAILED", "its process ended"), run_folder)
    assert found == Failure(FailureKind.UNKNOWN, "its process ended")
