"""What the scheduler says, asked seldom: one query of each kind, with pauses between."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.cluster.accounting import NO_ACCOUNTS
from evalkit.cluster.live import (
    FORGOTTEN,
    NO_ANSWER,
    NOT_VISIBLE,
    Answer,
    live_elements,
)
from evalkit.cluster.replica_report import ReplicaReport
from evalkit.cluster.scheduler import (
    ASK_AT_MOST_EVERY_S,
    ASK_EVERY_S,
    ASK_SOON_S,
    Scheduler,
)
from evalkit.cluster.slurm import SlurmCommands
from evalkit.cluster.states import JobState
from tests.unit.cluster.test_accounting import NAME, make_job, stamp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.cluster.conftest import FakeSlurm

NOW = 200_000.0


class Looking:
    """A scheduler that is looked at again and again, as time goes by."""

    def __init__(self, slurm: FakeSlurm) -> None:
        self.slurm = slurm
        self.scheduler = Scheduler(SlurmCommands(slurm.env))
        self.at = 0.0
        self.records = [make_job("7")]
        self.unexplained: list[Any] = []
        self.reports: dict[str, ReplicaReport] = {}

    def look(self, after_s: float = 0.0) -> Answer:
        """One look, so long after the last."""
        self.at += after_s
        return self.scheduler.look(
            self.records,
            self.unexplained,
            now=NOW + self.at,
            monotonic=self.at,
            reports=self.reports,
        )

    @property
    def asked(self) -> int:
        """Queries so far."""
        return len(self.slurm.calls("squeue"))


@pytest.fixture
def looking(fake_slurm: FakeSlurm) -> Iterator[Looking]:
    """One job that waits."""
    write_job(fake_slurm)
    return Looking(fake_slurm)


def write_job(slurm: FakeSlurm, number: int = 7, **changes: Any) -> None:
    """A job of the pretended Slurm."""
    values = {"id": number, "elements": [str(number)], "name": NAME, "pids": {}, "ended": {}}
    (slurm.dir / f"job-{number}.json").write_text(json.dumps({**values, **changes}))


def test_pauses_between_queries(looking: Looking) -> None:
    """30 s at first, longer while nothing changes, three minutes at most."""
    looking.look()
    looking.look(ASK_EVERY_S - 1)
    assert looking.asked == 1
    looking.look(1)
    assert looking.asked == 2
    waits = []
    for _ in range(4):
        before, waited = looking.asked, 0.0
        while looking.asked == before:
            looking.look(5)
            waited += 5
        waits.append(waited)
    assert waits == [60, 120, ASK_AT_MOST_EVERY_S, ASK_AT_MOST_EVERY_S]


def test_a_change_shortens_the_pause(looking: Looking) -> None:
    """News on disk are followed by a query soon, not at once; news of Slurm's by the short pause."""
    looking.look()
    looking.look(ASK_EVERY_S)
    assert looking.scheduler.wait_s == 2 * ASK_EVERY_S
    looking.reports = {"r0": ReplicaReport("r0", 1, "n1", 1, "7", NOW, heartbeat=NOW + 31)}
    looking.look(ASK_SOON_S - 1)
    assert looking.asked == 2
    looking.look(1)
    assert looking.asked == 3
    assert looking.scheduler.wait_s == ASK_EVERY_S
    looking.look(ASK_EVERY_S)
    write_job(looking.slurm, ended={"7": "COMPLETED"})
    looking.look(2 * ASK_EVERY_S)
    assert looking.scheduler.wait_s == ASK_EVERY_S


def test_a_heartbeat_alone_is_no_news(looking: Looking) -> None:
    """A worker that goes on speaking does not make us ask."""
    report = ReplicaReport("r0", 1, "n1", 1, "7", NOW, state="ready", heartbeat=NOW)
    looking.reports = {"r0": report}
    looking.look()
    for _ in range(10):
        report.heartbeat += 2
        report.in_flight += 1
        looking.look(2)
    assert looking.asked == 1


def test_no_answer(looking: Looking) -> None:
    """Rows that are not known any more are none; what accounting told stays; nothing is raised."""
    write_job(looking.slurm, ended={"7": "NODE_FAIL"}, history=[execution("NODE_FAIL")])
    assert looking.look().rows["7"].state is JobState.NODE_FAIL
    looking.slurm.switch("broken")
    found = looking.look(ASK_EVERY_S)
    assert found.rows == {}
    assert found.error is not None
    assert "Unable to contact" in found.error
    assert len(found.history.of("7")) == 1


def execution(state: str, **changes: str) -> dict[str, str]:
    """A row of accounting."""
    return {
        "JobID": "7",
        "State": state,
        "Submit": stamp(100_000),
        "Start": stamp(100_010),
        **changes,
    }


def test_one_sacct_for_states_and_histories(looking: Looking) -> None:
    """Jobs that left the queue, and jobs whose attempts need explaining, are asked for together."""
    write_job(looking.slurm, ended={"7": "PREEMPTED"})
    write_job(looking.slurm, 8, history=[execution("PREEMPTED", JobID="8")])
    looking.records = [make_job("7"), make_job("8")]
    looking.unexplained = [make_job("8"), make_job("6")]
    found = looking.look()
    [squeue], [sacct] = looking.slurm.calls("squeue"), looking.slurm.calls("sacct")
    assert squeue[squeue.index("-j") + 1] == "7,8"
    assert sacct[sacct.index("-j") + 1] == "7,8,6"
    assert found.rows["8"].state is JobState.PENDING, "it was requeued and waits"
    assert [each.state for each in found.history.of("8")] == [JobState.PREEMPTED]


@pytest.mark.parametrize(
    ("age_s", "switch", "reason", "state"),
    [
        (5.0, None, NOT_VISIBLE, "unknown"),
        (50_000.0, None, FORGOTTEN, "unknown"),
        (5.0, "no_accounting", NOT_VISIBLE, "unknown"),
        (50_000.0, "no_accounting", NO_ACCOUNTS, "unknown"),
    ],
)
def test_a_job_in_neither_place(
    looking: Looking, age_s: float, switch: str | None, reason: str, state: str
) -> None:
    """A young job is behind; an old one is forgotten, or there are no accounts. Never more than that."""
    looking.records = [make_job("9", NOW - age_s)]
    if switch:
        looking.slurm.switch(switch)
    found = looking.look()
    assert (found.rows["9"].reason, found.rows["9"].state) == (reason, state)
    assert found.error is None


def test_accounting_that_fails_is_no_verdict(
    looking: Looking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When sacct alone does not answer, a job that left the queue is not called forgotten."""
    sacct = looking.slurm.dir.parent / "bin" / "sacct"
    sacct.write_text("#!/bin/sh\necho 'slurmdbd is down' >&2\nexit 1\n")
    looking.records = [make_job("9", NOW - 50_000.0)]
    found = looking.look()
    assert found.rows["9"].reason == NO_ANSWER
    assert found.error == "sacct failed: slurmdbd is down"


def test_accounting_that_is_behind_for_ever(looking: Looking) -> None:
    """A job that was requeued hours ago, and is not in the queue, is not live; a running one is."""
    old = execution("REQUEUED", End=stamp(100_020))
    write_job(looking.slurm, ended={"7": "COMPLETED"}, history=[old])
    assert looking.look().rows["7"].state is JobState.UNKNOWN
    new = execution("REQUEUED", End=stamp(NOW))
    write_job(looking.slurm, ended={"7": "COMPLETED"}, history=[old, new])
    assert looking.look(ASK_EVERY_S).rows["7"].state is JobState.REQUEUED
    hidden = execution("RUNNING")
    write_job(looking.slurm, ended={"7": "COMPLETED"}, history=[hidden])
    assert looking.look(ASK_AT_MOST_EVERY_S).rows["7"].state is JobState.RUNNING


def test_a_state_that_is_not_known_here(looking: Looking) -> None:
    """What the queue shows is live under whatever word; what has ended under one is not."""
    commands = SlurmCommands(looking.slurm.env)
    (looking.slurm.dir.parent / "bin" / "squeue").write_text(
        f"#!/bin/sh\necho '7|NEW_STATE|None|n1||N/A|{NAME}'\n"
    )
    assert live_elements(looking.records, commands, now=NOW + 1e6) == {"7"}
    row = looking.look().rows["7"]
    assert (row.state, row.raw) == (JobState.UNKNOWN, "NEW_STATE")


def test_an_end_that_is_not_known_here(looking: Looking) -> None:
    """An execution that accounting calls ended does not live, and its word is the reason."""
    write_job(
        looking.slurm,
        ended={"7": "COMPLETED"},
        history=[execution("NEW_END", End=stamp(NOW - 50.0))],
    )
    commands = SlurmCommands(looking.slurm.env)
    assert live_elements(looking.records, commands, now=NOW + 1e6) == set()
    row = looking.look().rows["7"]
    assert (row.state, row.raw, row.reason) == (JobState.UNKNOWN, "", "ended as NEW_END")
