"""The phase of a run where it is not plain: nobody answers, nobody is heard, a state is new."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.cluster.answered_phase import stage_of
from evalkit.cluster.live import ELSEWHERE, FORGOTTEN, NO_ANSWER, NO_SLURM, NOT_VISIBLE
from evalkit.cluster.phase import describe_phase
from evalkit.cluster.status_values import GradingStatus, JobStatus, ReplicaStatus, TaskStatus

if TYPE_CHECKING:
    from evalkit.cluster.phase_parts import Phase

EXPECTED = 10


def task(done: int) -> TaskStatus:
    return TaskStatus("sums", EXPECTED, done, {}, 1, 0, None, 0, None, None)


def job(state: str, reason: str = "", raw: str = "", role: str = "replicas") -> JobStatus:
    is_worker = role == "replicas"
    number, replica = ("4_0", "r0") if is_worker else ("5", None)
    return JobStatus(number, role, replica, state, raw, reason, "", None)


def gather(state: str, reason: str = "", raw: str = "") -> JobStatus:
    return job(state, reason, raw, "gather")


def replica(state: str, **changes: Any) -> ReplicaStatus:
    values = {"name": "r0", "state": state, "job_id": "4_0", "node": "n1", "log": "/run/worker.log"}
    return ReplicaStatus(**{**values, **changes})


def phase(done: int, one: ReplicaStatus, *jobs: JobStatus, is_gathered: bool = False) -> Phase:
    return describe_phase([task(done)], [one], jobs, is_gathered=is_gathered)


@pytest.mark.parametrize("reason", [NO_ANSWER, NOT_VISIBLE])
@pytest.mark.parametrize("word", ["done", "silent"])
def test_every_unit_done_while_slurm_is_mute(reason: str, word: str) -> None:
    """A gather of which nothing is said may still write: the run is not over."""
    found = phase(EXPECTED, replica(word), job("done"), gather("unknown", reason))
    assert (found.word, found.is_over, found.is_blind) == ("unknown", False, False)
    found = phase(EXPECTED, replica(word), job("unknown", reason), gather("done"))
    assert (found.word, found.is_over) == ("unknown", False)


@pytest.mark.parametrize("reason", [NO_SLURM, f"{ELSEWHERE} login1"])
def test_every_unit_done_where_nobody_can_be_asked(reason: str) -> None:
    """A copied run is blind; its results can be gathered here."""
    found = phase(EXPECTED, replica("done"), job("unknown", reason), gather("unknown", reason))
    assert (found.word, found.is_over, found.is_blind) == ("unknown", False, True)
    assert reason in found.message
    assert "evalkit gather" in found.message


def test_complete_results_need_no_answer() -> None:
    """What is gathered is complete, whether Slurm answers or not."""
    mute = (job("unknown", NO_ANSWER), gather("unknown", NO_ANSWER))
    found = phase(EXPECTED, replica("done"), *mute, is_gathered=True)
    assert (found.word, found.is_over) == ("complete", True)


@pytest.mark.parametrize(
    ("last", "is_over", "is_blind"),
    [
        (gather("unknown", NO_ANSWER), False, False),
        (gather("unknown", "", "NEW_STATE"), False, False),
        (gather("running"), False, False),
        (gather("unknown", NO_SLURM), False, True),
        (gather("unknown", FORGOTTEN), True, False),
        (gather("cancelled"), True, False),
    ],
)
def test_a_stopped_run_with_a_gather(last: JobStatus, is_over: bool, is_blind: bool) -> None:
    """A run whose replicas have stopped is over only when its gather is known not to live."""
    found = phase(3, replica("ended"), job("cancelled"), last)
    assert found.word == "stopped"
    assert (found.is_over, found.is_blind) == (is_over, is_blind)


@pytest.mark.parametrize("done", [3, EXPECTED])
def test_a_state_that_is_not_in_our_table(done: int) -> None:
    """A job that Slurm has under an unknown word may live."""
    found = phase(done, replica("silent"), job("unknown", "", "NEW_STATE"))
    assert (found.word, found.is_over) == ("unknown", False)
    assert "NEW_STATE" in found.message


def test_a_forgotten_job_has_stopped() -> None:
    """What Slurm no longer knows does not run."""
    found = phase(3, replica("silent"), job("unknown", FORGOTTEN))
    assert (found.word, found.is_over) == ("stopped", True)


def test_a_silent_replica_whose_job_runs() -> None:
    """It is called silent, with how long and the log, and not a worker that has yet to start."""
    mute = replica("silent", attempt=1, heartbeat_age_s=7200.0)
    found = phase(3, mute, job("running"))
    assert (found.word, found.is_over) == ("silent", False)
    said = "r0 has not been heard for 2 h although its job runs (log: /run/worker.log)"
    assert said in found.message
    others = [replica("ready", name="r1", job_id="4_1"), replica("silent", name="r2"), mute]
    found = describe_phase([task(3)], others, [job("running")], is_gathered=False)
    assert found.word == "running"
    assert "r2 has not been heard although its job runs (log: /run/worker.log), and 1 more" in (
        found.message
    )


def test_a_suspended_job() -> None:
    """The run waits, and its message says what lets it go on; a replica that works comes first."""
    stopped = replace(job("suspended", raw="SUSPENDED"), advice="`scontrol resume 4_0`")
    found = phase(3, replica("suspended"), stopped)
    assert (found.word, found.is_over) == ("waiting", False)
    assert found.message == "job 4_0 is suspended: `scontrol resume 4_0`; 7 units owed"
    assert phase(3, replica("ready"), stopped).word == "running"
    assert phase(EXPECTED, replica("suspended"), stopped).word == "gathering"


def test_a_worker_that_has_yet_to_speak() -> None:
    """A job that runs without a first word of its worker is starting."""
    found = phase(3, replica("waiting"), job("running"))
    assert (found.word, found.is_over) == ("starting", False)


def graded(owed: int, graders: int = 0, error: str | None = None) -> TaskStatus:
    """A task whose answers are there, of which `owed` are not graded."""
    grading = GradingStatus(
        grader="judge",
        folder="/run/gradings",
        expected=EXPECTED,
        graded=EXPECTED - owed,
        ungraded=owed,
        judge_error=0,
        scorer_error=0,
        graders=graders,
        rate_per_s=None,
        eta_s=None,
        state=None,
        detail=None,
        error=error,
        log=None,
    )
    return replace(task(EXPECTED), grading=grading)


@pytest.mark.parametrize(
    ("status", "jobs", "word", "said", "is_over"),
    [
        (graded(4, graders=1), [], "grading", "6 of 10 answers are graded", False),
        (graded(4), [gather("running")], "grading", "job 5, which grades, is running", False),
        (graded(4), [gather("requeued")], "grading", "job 5, which grades, is requeued", False),
        (graded(4), [job("running")], "grading", "replicas stop and the grading follows", False),
        (graded(4), [gather("held")], "grading", "job 5 is held: release it", False),
        (graded(4), [gather("timeout")], "stopped", "time limit and was not requeued", True),
        (graded(4, error="no key"), [gather("failed")], "failed", "no key", True),
        (graded(4), [], "stopped", "`evalkit submit` sends a job that grades", True),
        (graded(4), [gather("unknown", NO_ANSWER)], "unknown", "Slurm does not show", False),
        (graded(0), [gather("running")], "gathering", "every unit is done", False),
        (graded(0), [], "gathering", "`evalkit gather` writes the results", True),
    ],
)
def test_answers_that_are_to_be_graded(
    status: TaskStatus, jobs: list[JobStatus], word: str, said: str, is_over: bool
) -> None:
    """Somebody grades them, will, or nobody does: then it says what to type."""
    jobs = [replace(each, advice="release it") for each in jobs]
    found = describe_phase([status], [], jobs, is_gathered=False)
    assert (found.word, found.is_over) == (word, is_over)
    assert said in found.message


def test_stage() -> None:
    """What is to be done next, whoever is at it."""
    for tasks, is_gathered, stage in (
        ([task(3), graded(4)], False, "generating"),
        ([task(EXPECTED), graded(4)], False, "grading"),
        ([task(EXPECTED), graded(0)], False, "gathering"),
        ([task(EXPECTED), graded(0)], True, "done"),
        ([graded(4)], True, "done"),
        ([graded(4, graders=1)], True, "grading"),
    ):
        assert stage_of(tasks, is_gathered=is_gathered) == stage
