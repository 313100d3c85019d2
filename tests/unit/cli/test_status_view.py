"""How a run's status looks: everything is there, nothing is cut, no line is wider than the terminal."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from rich.console import Console

from evalkit.cli.status_view import duration, status_line, status_view
from evalkit.cli.watch import BLIND_FOR_S, Patience
from evalkit.cluster.failures import FailureKind
from evalkit.cluster.phase_parts import age
from evalkit.cluster.status_values import (
    AttemptStatus,
    FailureGroup,
    GradingStatus,
    JobStatus,
    ReplicaStatus,
    RunStatus,
    TaskStatus,
)
from evalkit.cluster.usage import Usage

PLACE: dict[str, Any] = {"job_id": "1234567_0", "node": "node-0123", "log": None, "attempt": 2}
LOADING = ReplicaStatus(
    name="r0",
    state="loading",
    is_alive=True,
    server={"state": "loading"},
    restarts=2,
    detail="server is not ready after 60 s",
    heartbeat_age_s=3.0,
    **PLACE,
)
BROKEN = ReplicaStatus(
    name="r1", state="failed", error="no memory\nlong log", server={"state": "x"}, **PLACE
)
READY = ReplicaStatus(
    name="r2",
    state="ready",
    is_alive=True,
    server={"state": "ready"},
    in_flight=512,
    tokens_per_s=123_456.7,
    heartbeat_age_s=1.0,
    **PLACE,
)
TASK = TaskStatus("livecodebench", 100_000, 99_000, {"ok": 99_000}, 9, 8, 0.5, 1, 12.5, 80_000.0)
FAILURE = FailureGroup(
    kind=FailureKind.NODE_FAILURE,
    of="attempt",
    count=3,
    where="r10.a12",
    time=1.0,
    reason="its node failed",
    node="node-0123",
    log="/runs/demo/logs/r10/attempt-12/worker.log",
    lines=("line 1", "line 2", "line 3", "slurmstepd: error: *** JOB 7 DUE TO NODE FAILURE ***"),
)
ATTEMPT = AttemptStatus(
    id="r0.a1",
    replica="r0",
    attempt=1,
    job_id="1234567_0",
    node="node-0123",
    gpus=4,
    started=0.0,
    ended=1.0,
    is_alive=True,
    end=None,
    units=1,
    completion_tokens=1,
    server_starts=3,
    failure=None,
)
JOB = JobStatus(
    job_id="1234567_0",
    role="replicas",
    replica="r0",
    state="pending",
    raw="PENDING",
    reason="Priority",
    nodes="",
    log=None,
    excluded="node-[0123-0124]",
)
STATUS = RunStatus(
    run="demo",
    run_id="01234567",
    folder="/runs/demo",
    time=0.0,
    phase="starting",
    message="1 of 2 replicas load the model",
    is_over=False,
    is_blind=False,
    expected=100_000,
    done=99_000,
    rate_per_s=12.5,
    eta_s=80.0,
    tasks=(TASK,),
    replicas=(LOADING, BROKEN, READY),
    jobs=(JOB, JOB),
    attempts=(ATTEMPT, ATTEMPT),
    failures=(FAILURE,),
    usage=Usage("gpu", 1234.5, 12.34, None),
    bad_nodes=("node-0123", "node-0124"),
)


def render(status: RunStatus, width: int, height: int | None = None) -> str:
    """The view as a terminal of that size shows it."""
    console = Console(width=width)
    with console.capture() as printed:
        console.print(status_view(status, height=height))
    return printed.get()


def words(text: str) -> str:
    """What is shown, however it is folded."""
    return "".join(text.split())


@pytest.mark.parametrize("width", [80, 100, 120])
def test_everything_fits(width: int) -> None:
    """Tasks, replicas, costs and failures are all there, folded where they must be."""
    text = render(STATUS, width)
    assert max(map(len, text.splitlines())) <= width
    for part in (
        "r0.a2: server is not ready after 60 s",
        "r1.a2: no memory",
        "livecodebench",
        "99,000/100,000",
        "22:13:20",
        "123,457",
        "GPU-hours: 1234.50 used, 12.34 wasted (1 %), - left",
        "2 attempts, 2 server restarts",
        "nodes that failed repeatedly: node-0123, node-0124",
        "jobs stay off: node-[0123-0124]",
        "node_failure",
        "r10.a12",
        "its node failed",
        "/runs/demo/logs/r10/attempt-12/worker.log",
        "*** JOB 7 DUE TO NODE FAILURE ***",
        "1234567_0",
        "node-0123",
    ):
        assert words(part) in words(text), part
    assert "long log" not in text
    assert "line 1" not in text, "the last three lines of the evidence are enough here"


def test_what_costs_nothing_is_not_shown() -> None:
    """Before the first attempt there are no hours and no failures."""
    bare = dataclasses.replace(STATUS, usage=None, failures=(), attempts=(), bad_nodes=())
    text = render(bare, 100)
    assert "hours" not in text
    assert "failure" not in text


def test_hours_of_nodes_and_what_is_left() -> None:
    """A run without GPUs counts node-hours; what is left is an estimate."""
    cheap = dataclasses.replace(STATUS, usage=Usage("node", 0.0, 0.0, 1.5))
    assert "node-hours: 0.00 used, 0.00 wasted, about 1.50 left" in render(cheap, 100)


def test_many_replicas_on_a_small_terminal() -> None:
    """While watching, replicas in trouble are shown first, and the others counted."""
    replicas = [dataclasses.replace(READY, name=f"r{n}") for n in range(60)]
    replicas[50] = dataclasses.replace(BROKEN, name="r50")
    many = dataclasses.replace(STATUS, replicas=tuple(replicas))
    text = render(many, 120, height=40)
    assert len(text.splitlines()) <= 40
    assert "r50.a2" in text
    assert "more replicas" in text
    assert "more replicas" not in render(many, 120)


def test_long_reasons_on_a_small_terminal() -> None:
    """Reasons fold; what is watched is no taller than the screen all the same."""
    reason = "the server for 'nvidia/Nemotron' died before it was ready (83 s, exit code 1) " * 2
    long = dataclasses.replace(FAILURE, reason=reason)
    replicas = tuple(dataclasses.replace(READY, name=f"r{n}") for n in range(50))
    many = dataclasses.replace(STATUS, replicas=replicas, failures=(long, long))
    for height in (45, 60):
        lines = render(many, 80, height=height).splitlines()
        assert len(lines) <= height
        assert "exitcode1" in words("".join(lines))
        assert any("more replica" in line for line in lines)


def test_one_replica_that_is_left_out() -> None:
    """One is one replica."""
    two = dataclasses.replace(STATUS, replicas=(READY, dataclasses.replace(READY, name="r3")))
    text = render(two, 120, height=10)
    assert "and 1 more replica" in text
    assert "1 more replicas" not in text


def test_log_lines_carry_no_control_characters() -> None:
    """Evidence is shown without what a terminal would obey."""
    loud = dataclasses.replace(FAILURE, lines=("\x1b[31mred\x1b]0;title\x07",))
    text = render(dataclasses.replace(STATUS, failures=(loud,)), 120)
    assert "red" in text
    assert "\x1b" not in text
    assert "title" not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.2, "3 s"), (119, "119 s"), (600, "10 min"), (9000, "2 h"), (2e5, "2 d")],
)
def test_age(seconds: float, text: str) -> None:
    """How long ago, in a unit that is short enough."""
    assert age(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.4, "0:00"), (61, "1:01"), (3661, "1:01:01")]
)
def test_duration(seconds: float | None, text: str) -> None:
    """Hours only where there are some."""
    assert duration(seconds) == text


def test_a_watch_ends_where_nobody_can_tell() -> None:
    """A copied run, without Slurm and without a heartbeat, is watched for a while and no longer."""
    now = [0.0]
    patience = Patience(lambda: now[0])
    blind = dataclasses.replace(STATUS, is_blind=True)
    assert not patience.is_over(blind)
    now[0] = BLIND_FOR_S - 1
    assert not patience.is_over(blind)
    assert not patience.is_over(STATUS), "a heartbeat came"
    now[0] = BLIND_FOR_S + 1
    assert not patience.is_over(blind)
    now[0] = 2 * BLIND_FOR_S + 1
    assert patience.is_over(blind)
    assert patience.is_over(dataclasses.replace(STATUS, is_over=True))


GRADING = GradingStatus(
    grader="judge",
    folder="/runs/demo/gradings/hle/0123",
    expected=2158,
    graded=1000,
    ungraded=1100,
    judge_error=57,
    scorer_error=1,
    graders=2,
    rate_per_s=4.0,
    eta_s=289.5,
    state="ready",
    detail="server is not ready after 60 s",
    error=None,
    log=None,
)


@pytest.mark.parametrize("width", [80, 120])
def test_gradings_fit(width: int) -> None:
    """What is graded, at what rate, what is not and why, and what the scores are of."""
    judged = dataclasses.replace(
        TASK, name="hle", grading=GRADING, score_note="of the 1,000 graded answers"
    )
    status = dataclasses.replace(STATUS, tasks=(TASK, judged), phase="running", stage="grading")
    text = render(status, width)
    assert max(map(len, text.splitlines())) <= width
    for part in (
        "running (grading)",
        "score of hle: of the 1,000 graded answers",
        "1,000/2,158",
        "4:50",
        "1,100",
        "57",
        "2 x judge ready",
        "hle: server is not ready after 60 s",
    ):
        assert words(part) in words(text), part
    line = status_line(status)
    assert "hle 99000/100000 (graded 1000)" in line
    assert "grading" not in render(dataclasses.replace(STATUS, stage="done"), width)
