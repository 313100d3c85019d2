"""Accounting: every execution of a job, and only of ours."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from evalkit.cluster.accounting import (
    NO_ACCOUNTS,
    Accounts,
    History,
    parse_history,
    read_accounts,
)
from evalkit.cluster.jobs import JobRecord
from evalkit.cluster.slurm import SlurmCommands
from evalkit.cluster.states import JobState

if TYPE_CHECKING:
    from tests.unit.cluster.conftest import FakeSlurm

NAME = "evalkit-demo-808d8c9a"


def stamp(when: float) -> str:
    """As sacct writes a time."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when))


def make_job(job_id: str = "7", submitted: float = 100_000.0, n: int = 1) -> JobRecord:
    """A submitted array of `n` replicas."""
    return JobRecord(
        submission=1,
        time=submitted,
        host="login",
        executor="slurm",
        name=NAME,
        job_id=job_id,
        role="replicas",
        replicas=tuple(f"r{index}" for index in range(n)),
        is_array=n > 1,
        script=None,
    )


def row(job_id: str, state: str, submitted: float, started: float | None, name: str = NAME) -> str:
    """A row of sacct."""
    begin = "Unknown" if started is None else stamp(started)
    return f"{job_id}|{state}|0:0|{stamp(submitted)}|{begin}|Unknown|n1|{name}"


def test_executions_in_their_order() -> None:
    """The attempts of a requeued element, oldest first; the one that waits comes last."""
    text = "\n".join(
        [
            row("7_1", "PENDING", 300_000, None),
            row("7_1", "PREEMPTED", 100_000, 100_010),
            row("7_1", "NODE_FAIL", 200_000, 200_010),
            row("7_[0,2-3%4]", "PENDING", 100_000, None),
        ]
    )
    found = parse_history(text, [make_job(n=4)])
    assert [each.state for each in found["7_1"]] == [
        JobState.PREEMPTED,
        JobState.NODE_FAIL,
        JobState.PENDING,
    ]
    assert found["7_1"][0].started == 100_010
    assert found["7_1"][-1].started is None
    assert sorted(found) == ["7_0", "7_1", "7_2", "7_3"]
    assert History(found).of("9") == ()


def test_rows_of_other_jobs() -> None:
    """Another name, another id, a job of the same id before a reset of the controller: not ours."""
    text = "\n".join(
        [
            row("7", "FAILED", 10_000, 10_010),
            row("7", "FAILED", 100_000, 100_010, name="other"),
            row("8", "FAILED", 100_000, 100_010),
            "7|FAILED|0:0",
            row("7", "RUNNING", 99_000, 100_010),
        ]
    )
    found = parse_history(text, [make_job()])
    assert [each.raw for each in found["7"]] == ["RUNNING"], "clocks may be off by minutes"
    assert list(found) == ["7"]


@given(st.text(alphabet="7_[0-9%4]|:TFAILED \nNone", max_size=200))
def test_any_text(text: str) -> None:
    """Whatever sacct prints, only rows of our jobs come out."""
    assert set(parse_history(text, [make_job()])) <= {"7"}


def test_asking(fake_slurm: FakeSlurm) -> None:
    """One query for all jobs, with duplicates, from before the first submit on; each id once."""
    commands = SlurmCommands(fake_slurm.env)
    jobs = [make_job("7", 100_000.0), make_job("8", 50_000.0), make_job("8", 60_000.0)]
    assert read_accounts(commands, jobs).of(jobs) == History({})
    [call] = fake_slurm.calls("sacct")
    assert {"-X", "--duplicates", "--parsable2", f"--starttime={stamp(46_400.0)}"} <= set(call)
    assert call[call.index("-j") + 1] == "7,8"
    assert read_accounts(commands, []) == Accounts()
    assert len(fake_slurm.calls("sacct")) == 1, "nothing to ask about is not asked"


def test_no_accounting_and_no_answer(fake_slurm: FakeSlurm, no_slurm: dict[str, str]) -> None:
    """Accounting that is off is no error of anybody; one that is down is said."""
    commands = SlurmCommands(fake_slurm.env)
    fake_slurm.switch("no_accounting")
    assert read_accounts(commands, [make_job()]) == Accounts(error=NO_ACCOUNTS)
    fake_slurm.switch("broken")
    found = read_accounts(commands, [make_job()])
    assert found.error == "sacct failed: sacct: error: Unable to contact slurm controller"
    assert read_accounts(SlurmCommands(no_slurm), [make_job()]).error == NO_ACCOUNTS
