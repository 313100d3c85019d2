"""Whether a job goes on, with which nodes, and how the time after a TERM is divided: pure decisions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.cluster.attempts import AttemptRecord
from evalkit.cluster.drain import FLUSH_S, fit_drain
from evalkit.cluster.failures import Failure, FailureKind
from evalkit.cluster.requeue import (
    STUCK_AFTER,
    Action,
    Ending,
    attempts_of_job,
    bad_nodes,
    choose_excluded,
    decide,
    failures_in_a_row,
    find_cause,
    given_exclude,
    nodes_to_avoid,
    refuse,
    seconds_left,
)
from evalkit.cluster.slurm import JobView
from tests.unit.cluster.builders import make_cluster

RUNNING = JobView(
    state="RUNNING",
    reason="None",
    restarts=1,
    may_requeue=True,
    is_preempted=False,
    excluded="",
    partition="low",
)
COMPLETING = RUNNING._replace(state="COMPLETING")
WARNED = Ending(1, ("SIGUSR2",))
TERMINATED = Ending(1, ("SIGTERM",))
CRASHED = Ending(1, failure=FailureKind.SERVER_CRASH)


def attempt(number: int = 1, node: str = "n1", **changes: Any) -> AttemptRecord:
    """An attempt of half an hour that was preempted after it did something."""
    fields: dict[str, Any] = {
        "replica": "r0",
        "attempt": number,
        "executor": "slurm",
        "job_id": "7_0",
        "restart_count": number - 1,
        "host": node,
        "nodes": (node,),
        "gpus": 1,
        "started": 1000.0,
        "last": 2800.0,
        "ended": 2800.0,
        "end": "drained",
        "units": 3,
    }
    return AttemptRecord(**{**fields, **changes})


def failed(
    number: int = 1,
    node: str = "n1",
    kind: FailureKind = FailureKind.SERVER_START,
    **changes: Any,
) -> AttemptRecord:
    """An attempt that failed before it did anything."""
    failure = Failure(kind, "it died", changes.pop("blamed", node))
    return attempt(number, node, **{"units": 0, "end": "failed", "failure": failure, **changes})


def barren(number: int = 1, **changes: Any) -> AttemptRecord:
    """An attempt that was preempted before it did anything."""
    return attempt(number, **{"units": 0, **changes})


@pytest.mark.parametrize(
    ("ending", "view", "action"),
    [
        pytest.param(WARNED, RUNNING, Action.REQUEUE, id="warned of the time limit"),
        pytest.param(WARNED, None, Action.REQUEUE, id="warned, Slurm is silent"),
        pytest.param(
            WARNED, RUNNING._replace(is_preempted=True), Action.REQUEUE, id="warned in grace"
        ),
        pytest.param(
            TERMINATED, RUNNING._replace(is_preempted=True), Action.REQUEUE, id="TERM in grace"
        ),
        pytest.param(TERMINATED, RUNNING, Action.REQUEUE, id="TERM of nobody knows whom"),
        pytest.param(
            TERMINATED, COMPLETING._replace(restarts=2), Action.LEAVE, id="preempted, no grace"
        ),
        pytest.param(
            Ending(1, ("SIGUSR2", "SIGTERM")),
            COMPLETING._replace(restarts=2),
            Action.LEAVE,
            id="preempted, both signals",
        ),
        pytest.param(
            CRASHED, RUNNING._replace(restarts=2), Action.LEAVE, id="old attempt of a lost node"
        ),
        pytest.param(TERMINATED, COMPLETING, Action.END, id="cancelled"),
        pytest.param(
            Ending(1, ("SIGUSR2", "SIGTERM")), COMPLETING, Action.END, id="cancelled in a drain"
        ),
        pytest.param(CRASHED, COMPLETING, Action.END, id="cancelled and crashed"),
        pytest.param(TERMINATED, None, Action.REQUEUE, id="TERM, Slurm is silent"),
        *(
            pytest.param(TERMINATED, RUNNING._replace(state=state), action, id=state)
            for state, action in (
                ("SIGNALING", Action.REQUEUE),
                ("RESIZING", Action.REQUEUE),
                ("STOPPED", Action.REQUEUE),
                ("SUSPENDED", Action.REQUEUE),
                ("PREEMPTED", Action.REQUEUE),
                ("A_NEW_STATE", Action.REQUEUE),
                ("CANCELLED", Action.END),
                ("COMPLETED", Action.END),
                ("FAILED", Action.END),
            )
        ),
        pytest.param(
            TERMINATED, COMPLETING._replace(reason="TimeLimit"), Action.REQUEUE, id="too slow"
        ),
        pytest.param(CRASHED, RUNNING, Action.REQUEUE, id="crashed"),
        pytest.param(
            Ending(1, failure=FailureKind.CONFIG), RUNNING, Action.END, id="the recipe is wrong"
        ),
        pytest.param(
            Ending(1, ("SIGTERM",), FailureKind.CONFIG), RUNNING, Action.REQUEUE, id="told to stop"
        ),
        pytest.param(WARNED, RUNNING._replace(may_requeue=False), Action.END, id="no requeue"),
        pytest.param(Ending(1), RUNNING, Action.END, id="nothing happened"),
    ],
)
def test_what_becomes_of_the_job(ending: Ending, view: JobView | None, action: Action) -> None:
    """The job goes on unless it was cancelled, may not, or cannot; Slurm says what the signal was."""
    assert decide(ending, view, None).action is action


def test_a_job_at_its_limit_is_requeued_though_it_ends() -> None:
    """Slurm ends it already: only then the requeue says that it means an ended job."""
    late = COMPLETING._replace(reason="TimeLimit")
    assert decide(TERMINATED, late, None).even_ended
    assert not decide(TERMINATED, RUNNING, None).even_ended


def test_a_refusal_counts_only_where_the_job_would_go_on() -> None:
    """A spent budget ends a job that was warned, and is no reason where it was cancelled or requeued."""
    verdict = decide(WARNED, RUNNING, "it is spent")
    assert (verdict.action, verdict.reason, verdict.is_refusal) == (Action.END, "it is spent", True)
    assert not decide(TERMINATED, COMPLETING, "it is spent").is_refusal
    assert decide(WARNED, RUNNING._replace(restarts=2), "it is spent").action is Action.LEAVE


def test_a_site_that_forbids_requeue_is_the_reason() -> None:
    """Where the job may not be requeued the verdict says so, as a refusal."""
    verdict = decide(WARNED, RUNNING._replace(may_requeue=False), None)
    assert verdict.is_refusal
    assert "forbid requeue" in verdict.reason


def test_hours_are_a_jobs_attempts_together() -> None:
    """Attempts of other jobs are not counted; the last attempt is the one that goes over the limit."""
    cluster = make_cluster(max_hours=1.0)
    records = [attempt(1, job_id="3"), attempt(2), attempt(3)]
    history = attempts_of_job(records, "7_0")
    assert [record.attempt for record in history] == [2, 3]
    assert refuse(history[:1], cluster) is None
    assert seconds_left(history[:1], cluster) == 1800
    assert "cluster.max_hours is 1" in (refuse(history, cluster) or "")
    assert seconds_left(history, cluster) == 0


def test_without_a_limit_hours_are_not_counted() -> None:
    """null is no limit."""
    history = [attempt(number) for number in range(1, 200)]
    assert refuse(history, make_cluster()) is None
    assert seconds_left(history, make_cluster()) is None


def test_time_of_a_killed_attempt_counts_until_it_was_last_heard() -> None:
    """An attempt without an end took the time up to its last sign of life."""
    killed = attempt(1, ended=None, end=None, last=1000.0 + 3600)
    assert refuse([killed], make_cluster(max_hours=1)) is not None


@pytest.mark.parametrize(("max_failures", "tried_again"), [(0, 0), (1, 1), (3, 3)])
def test_failures_in_a_row_are_tried_again_so_often(max_failures: int, tried_again: int) -> None:
    """So many failed attempts are tried again; the next failure is the last."""
    cluster = make_cluster(max_failures=max_failures)
    for count in range(1, 5):
        history = [failed(number) for number in range(1, count + 1)]
        assert (refuse(history, cluster) is None) == (count <= tried_again)


def test_work_between_failures_starts_their_count_again() -> None:
    """A preempted attempt that did something ends a row of failures; one that did nothing does not."""
    assert failures_in_a_row([failed(1), attempt(2), failed(3)]) == 1
    assert failures_in_a_row([failed(1), barren(2), failed(3)]) == 2
    assert failures_in_a_row([failed(1, units=9), failed(2, units=9)]) == 2


def test_a_job_that_gets_nowhere_is_given_up() -> None:
    """So many attempts in a row that kept no unit and no token are the last; one that did breaks it."""
    cluster = make_cluster()
    nowhere = [barren(number) for number in range(1, STUCK_AFTER + 1)]
    assert refuse(nowhere[1:], cluster) is None
    assert "before one unit or token was kept" in (refuse(nowhere, cluster) or "")
    assert refuse([*nowhere[1:], attempt(9)], cluster) is None
    assert refuse([*nowhere[1:], barren(9, completion_tokens=1)], cluster) is None
    assert refuse([*nowhere[:4], attempt(5), *nowhere[5:]], cluster) is None


def test_a_node_that_fails_twice_is_bad() -> None:
    """One failure may be anything; two without success between them are the node's."""
    good = attempt(1, "n0", replica="r9")
    assert bad_nodes([good, failed(1, "n1")]) == ()
    assert bad_nodes([good, failed(1, "n1"), failed(1, "n1", replica="r1")]) == ("n1",)
    assert bad_nodes([good, failed(1, "n1"), attempt(2, "n1"), failed(3, "n1")]) == ()
    thrice = [failed(number, "n2") for number in (1, 2, 3)]
    twice = [failed(number, "n1", replica="r1") for number in (1, 2)]
    assert bad_nodes([good, *twice, *thrice]) == ("n2", "n1")


def test_failures_that_are_not_the_nodes_name_none() -> None:
    """An endpoint that refuses, or a recipe that is wrong, is so on every node; so is what always fails."""
    good = attempt(1, "n0", replica="r9")
    kinds = (FailureKind.ENDPOINT, FailureKind.CONFIG)
    assert bad_nodes([good, *(failed(i, "n1", kind) for i, kind in enumerate(kinds))]) == ()
    assert bad_nodes([failed(number, "n1") for number in range(1, 5)]) == ()


def test_a_node_that_loses_attempts_is_bad() -> None:
    """An attempt without an end that kept nothing and was followed by another was lost with its node."""
    good = attempt(1, "n0", replica="r9")
    lost = [attempt(number, "n1", end=None, ended=None, units=0) for number in (1, 2)]
    assert bad_nodes([good, *lost, attempt(3, "n2")]) == ("n1",)
    assert bad_nodes([good, *lost]) == (), "the second one may still run"


@pytest.mark.parametrize(
    "changes",
    [{"units": 500}, {"reason": "SIGTERM", "units": 0}, {"executor": "local", "units": 0}],
    ids=["worked", "told to stop", "no node of a cluster"],
)
def test_a_killed_attempt_blames_no_node(changes: dict[str, Any]) -> None:
    """One that overran KillWait in its drain, or that was preempted, was no victim of its node."""
    good = attempt(1, "n0", replica="r9")
    killed = [attempt(n, "n1", end=None, ended=None, **changes) for n in (1, 2)]
    records = [good, *killed, attempt(3, "n2")]
    assert bad_nodes(records) == ()
    assert nodes_to_avoid(records, records) == ()


@pytest.mark.parametrize(
    ("ending", "view", "is_near", "cause"),
    [
        pytest.param(WARNED, RUNNING._replace(is_preempted=True), True, "preempted", id="grace"),
        pytest.param(
            TERMINATED,
            COMPLETING._replace(restarts=2, is_preempted=True),
            False,
            "preempted",
            id="at once",
        ),
        pytest.param(WARNED, RUNNING, True, "time_limit", id="warned"),
        pytest.param(WARNED, RUNNING, False, None, id="warned long before"),
        pytest.param(TERMINATED, RUNNING, True, None, id="TERM of nobody knows whom"),
        pytest.param(
            TERMINATED, COMPLETING._replace(reason="TimeLimit"), True, "time_limit", id="late"
        ),
        pytest.param(TERMINATED, COMPLETING, False, "cancelled", id="cancelled"),
        pytest.param(TERMINATED, COMPLETING._replace(restarts=2), False, None, id="requeued"),
        pytest.param(TERMINATED, None, True, None, id="Slurm is silent"),
        pytest.param(CRASHED, COMPLETING, True, None, id="not told"),
    ],
)
def test_why_a_job_was_told_to_stop(
    ending: Ending, view: JobView | None, is_near: bool, cause: str | None
) -> None:
    """What Slurm says decides; a warning is the time limit's only where that was near."""
    assert find_cause(ending, view, is_near_limit=is_near) == cause


def test_one_attempt_is_counted_in_the_singular() -> None:
    """The reason is a sentence for people."""
    assert "its 1 attempt took 0.50 h" in (refuse([attempt()], make_cluster(max_hours=0.5)) or "")


def test_the_next_attempt_avoids_where_the_job_failed() -> None:
    """The latest failing node first, then what other replicas found out; another node's fault is its."""
    history = [failed(1, "n1"), failed(2, "n2")]
    others = [failed(n, "n3", replica="r1") for n in (1, 2)]
    records = [attempt(1, "n0", replica="r9"), *history, *others]
    assert nodes_to_avoid(history, records) == ("n2", "n1", "n3")
    wide = failed(1, "n1", nodes=("n1", "n5"), blamed="n5")
    assert nodes_to_avoid([wide], [wide]) == ("n5",)
    assert nodes_to_avoid([failed(1, kind=FailureKind.ENDPOINT)], []) == ()


@pytest.mark.parametrize(
    ("avoid", "excluded", "fixed", "size", "nodes", "chosen"),
    [
        pytest.param(["n1"], [], [], 8, 1, ("n1",), id="one of many"),
        pytest.param(["n1"], ["n7"], ["n7"], 8, 1, ("n7", "n1"), id="beside the site's"),
        pytest.param(
            ["n2"], ["n7", "n1"], ["n7"], 8, 1, ("n7", "n1", "n2"), id="beside earlier ones"
        ),
        pytest.param(["n1"], ["n1"], [], 8, 1, None, id="known"),
        pytest.param(["n1"], [], [], 1, 1, None, id="the only one"),
        pytest.param(["n2", "n1"], ["n1"], [], 3, 1, ("n2",), id="half at most, latest first"),
        pytest.param(["n1"], ["n2", "n3"], [], 4, 1, ("n2", "n3", "n1"), id="of what is usable"),
        pytest.param(["n1"], ["n2", "n3"], ["n2", "n3"], 3, 1, None, id="what is left stays"),
        pytest.param(["n1", "n2"], [], [], 4, 3, ("n1",), id="as many as the replica needs"),
        pytest.param(["n1", "n2"], [], [], None, 1, ("n1",), id="size unknown"),
        pytest.param(["n1", "n2"], ["n1", "n2"], ["n1", "n2"], None, 1, None, id="all the user's"),
        pytest.param(["n1", "n3"], ["n1"], ["n1"], 8, 1, ("n1", "n3"), id="beside the user's"),
        pytest.param(
            ["n1", "n2", "n3"], ["n1", "n2", "n3"], ["n1", "n2", "n3"], 4, 1, None, id="most of it"
        ),
    ],
)
def test_excluded_nodes_leave_room(
    avoid: list[str],
    excluded: list[str],
    fixed: list[str],
    size: int | None,
    nodes: int,
    chosen: Any,
) -> None:
    """What the user or the site excludes stays excluded, and at most half of the rest joins it."""
    assert choose_excluded(avoid, excluded, fixed, size=size, nodes=nodes) == chosen


NAMES = st.sampled_from([f"n{i}" for i in range(8)])


@given(
    st.lists(NAMES, unique=True),
    st.lists(NAMES, unique=True, max_size=7),
    st.sets(NAMES),
    st.sampled_from([None, 8]),
    st.integers(1, 4),
)
def test_a_job_can_always_start(
    avoid: list[str], excluded: list[str], user: set[str], size: int | None, nodes: int
) -> None:
    """Exclusion never takes a node that is needed, and never frees one of the user's or the site's,
    whatever failed there."""
    fixed = user & set(excluded)
    chosen = choose_excluded(avoid, excluded, fixed, size=size, nodes=nodes)
    if chosen is not None:
        others = fixed | (set(excluded) - set(avoid))
        assert others <= set(chosen)
        assert len(set(chosen)) == len(chosen)
        assert 8 - len(chosen) >= min(nodes, 8 - len(others)) or size is None
        assert len(chosen) <= len(others) + 1 or size is not None


def test_the_users_list_may_be_a_free_option() -> None:
    """`sbatch: {exclude: ...}` wins over `exclude`, as it does in the script; null leaves it out."""
    assert given_exclude(make_cluster(exclude="n[1-2]")) == "n[1-2]"
    assert given_exclude(make_cluster(exclude="n1", sbatch={"--exclude": "n2"})) == "n2"
    assert given_exclude(make_cluster(exclude="n1", sbatch={"exclude": None})) == ""
    assert given_exclude(make_cluster()) == ""


def test_a_preempted_job_that_slurm_cancels_is_not_called_cancelled() -> None:
    """Where a partition cancels what it preempts the job ends, for that reason: nobody cancelled it."""
    view = COMPLETING._replace(is_preempted=True)
    verdict = decide(TERMINATED, view, None)
    assert verdict.action is Action.END
    assert "preempted" in verdict.reason
    assert find_cause(TERMINATED, view, is_near_limit=False) == "preempted"


@pytest.mark.parametrize(
    ("kill_wait_s", "grace_s", "salvage_s", "stop_s"),
    [
        (30, 8, 3, 16),
        (60, 8, 3, 46),
        (10, 2, 3, 2),
        (5, 1 / 3, 3, 0),
        (2, 0, 1, 0),
        (0, 0, 0, 0),
    ],
)
def test_kill_wait_is_divided(
    kill_wait_s: float, grace_s: float, salvage_s: float, stop_s: float
) -> None:
    """Grace, salvage, flush and stop fit into KillWait; what is saved comes before what may finish."""
    times = fit_drain(kill_wait_s)
    assert times.grace_s == pytest.approx(grace_s)
    assert times.salvage_s == pytest.approx(salvage_s)
    assert times.stop_s == pytest.approx(stop_s)


@given(st.floats(0, 600))
def test_a_drain_ends_before_the_kill(kill_wait_s: float) -> None:
    """Whatever a site's KillWait is, nothing is planned behind it."""
    times = fit_drain(kill_wait_s)
    assert min(times.grace_s, times.salvage_s, times.stop_s) >= 0
    parts_s = times.grace_s + times.salvage_s + times.stop_s
    assert parts_s + min(FLUSH_S, kill_wait_s) <= kill_wait_s + 1e-9
