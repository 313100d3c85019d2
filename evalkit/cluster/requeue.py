"""Whether a replica's job goes back into the queue when an attempt ends, and off which nodes it stays.

All of it is pure: attempt records, the limits of `cluster` and what the controller says of the job go
in, a verdict comes out; `evalkit.cluster.job` carries it out. submitit's own way is not used: it calls
every signal in a job of ten minutes or less a time-out and counts those, and takes a job that Slurm
requeued first for a failure.

Attempts that were preempted, reached their time limit or lost their node are continued without end,
within `max_hours`; failed ones `max_failures` times in a row. And because nothing else would end a job
that is requeued for ever before it gets anywhere, `STUCK_AFTER` attempts in a row that kept nothing are
the last ones. What is counted are attempts of one job: another submit is a person's decision to go on,
and starts from zero.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from evalkit.cluster.failures import FailureKind, is_retryable
from evalkit.cluster.states import JobState, job_state

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from evalkit.cluster.attempts import AttemptRecord, Cause
    from evalkit.cluster.slurm import JobView
    from evalkit.recipe.schema import Cluster

STUCK_AFTER = 8
"""Attempts in a row that kept no unit and no token. Where nodes are preempted, on average, as often as
a model needs to load, an attempt gets nowhere with probability 0.63, and eight in a row with 0.025; with
nodes that last twice as long it is 0.0006. So a job that could get somewhere is rarely given up, and one
that cannot costs eight model loads."""
UNRECORDED_AFTER = 16
"""Requeues of a job that left no record, after which one more attempt that can leave none is the last."""
REPEATED = 2
"""Failures after which a node is bad for every replica: one may be anything."""
NODES_FAULT = frozenset(
    {
        FailureKind.SERVER_START,
        FailureKind.SERVER_CRASH,
        FailureKind.SERVER_HANG,
        FailureKind.GPU_PREFLIGHT,
        FailureKind.OOM,
        FailureKind.STORAGE,
        FailureKind.NODE_FAILURE,
        FailureKind.LOST,
        FailureKind.UNKNOWN,
    }
)
"""Failures that may be different on another node."""


class Action(StrEnum):
    """What becomes of the job."""

    REQUEUE = "requeue"
    LEAVE = "leave"
    """Slurm has put it back already."""
    END = "end"


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt came to its end."""

    restart_count: int
    """Requeues before this attempt."""
    signals: tuple[str, ...] = ()
    """In the order in which they came: SIGUSR2, SIGTERM."""
    failure: FailureKind | None = None
    """None: it was told to stop."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with the job, and why, in words."""

    action: Action
    reason: str
    even_ended: bool = False
    """Slurm is ending the job (time limit), so a requeue has to say that it means it."""
    is_refusal: bool = False
    """It would go on, but for a limit of the site or of the recipe."""


def decide(ending: Ending, view: JobView | None, refusal: str | None) -> Verdict:
    """What becomes of the job. `view` is None when Slurm gave no answer; `refusal` from `refuse`.

    A job that was cancelled is never revived, one that runs elsewhere by now (this attempt's node was
    lost, and came back) is never touched, and who sent a TERM does not matter: Slurm says whether the
    job was ended. Where it says nothing, or what nobody knows, the job is requeued in words that Slurm
    itself refuses for a cancelled one.
    """
    why = ", ".join(ending.signals) or str(ending.failure or "drained")
    over = _already_decided(ending, view)
    if over is not None:
        return Verdict(over.action, f"{why}{over.reason}")
    if refusal is not None:
        return Verdict(Action.END, refusal, is_refusal=True)
    if view is not None and not view.may_requeue:
        return Verdict(Action.END, "its settings or the site's forbid requeue", is_refusal=True)
    if not ending.signals and ending.failure is None:
        return Verdict(Action.END, why)
    timed_out = view is not None and view.has_timed_out
    return Verdict(Action.REQUEUE, why, even_ended=timed_out)


def _already_decided(ending: Ending, view: JobView | None) -> Verdict | None:
    """What the failure itself or Slurm leaves no choice about; the reason continues a sentence."""
    if ending.failure is not None and not ending.signals and not is_retryable(ending.failure):
        return Verdict(Action.END, "")
    if view is None:
        return None
    if view.restarts > ending.restart_count:
        return Verdict(Action.LEAVE, "; Slurm has requeued it")
    if _is_cancelled(view):
        # a cancel in the grace time of a preemption looks the same, so neither is revived
        how = "preempted, and Slurm does not requeue it" if view.is_preempted else "cancelled"
        return Verdict(Action.END, f"; the job was {how}")
    state = job_state(view.state)
    if state.is_over and state is not JobState.PREEMPTED and not view.has_timed_out:
        return Verdict(Action.END, f"; the job is over ({view.state})")
    return None


def _is_cancelled(view: JobView) -> bool:
    """Whether somebody ended the job. States that evalkit does not know are not taken for that."""
    state = job_state(view.state)
    return state in (JobState.FINISHING, JobState.CANCELLED) and not view.has_timed_out


def find_cause(ending: Ending, view: JobView | None, *, is_near_limit: bool) -> Cause | None:
    """Why Slurm told a job to stop; None where that is not known, or nobody told it.

    `is_near_limit`: the warning before the time limit was due when the attempt ended.
    """
    if view is None or not ending.signals:
        return None
    if view.is_preempted or job_state(view.state) is JobState.PREEMPTED:
        return "preempted"
    if view.has_timed_out:
        return "time_limit"
    if view.restarts > ending.restart_count:
        return None
    if _is_cancelled(view):
        return "cancelled"
    return "time_limit" if is_near_limit and "SIGUSR2" in ending.signals else None


def attempts_of_job(records: Iterable[AttemptRecord], job_id: str) -> list[AttemptRecord]:
    """Records of one job's attempts, in the order given."""
    return [record for record in records if record.job_id == job_id]


def refuse(history: Sequence[AttemptRecord], cluster: Cluster) -> str | None:
    """Why a job with these attempts gets no further one; None when it may."""
    spent_s = sum(record.wall_s for record in history)
    if cluster.max_hours is not None and spent_s >= cluster.max_hours * 3600:
        attempts = "1 attempt" if len(history) == 1 else f"{len(history)} attempts"
        return (
            f"its {attempts} took {spent_s / 3600:.2f} h, and cluster.max_hours is "
            f"{cluster.max_hours:g}"
        )
    failed = failures_in_a_row(history)
    if failed > cluster.max_failures:
        return (
            f"{failed} attempts in a row failed, and cluster.max_failures is {cluster.max_failures}"
        )
    fruitless = fruitless_in_a_row(history)
    if fruitless >= STUCK_AFTER:
        return (
            f"{fruitless} attempts in a row ended before one unit or token was kept; it needs a "
            "longer cluster.time_min, a server that is ready sooner, or nodes that last longer"
        )
    return None


def seconds_left(history: Sequence[AttemptRecord], cluster: Cluster) -> float | None:
    """Wall-clock time (s) that `max_hours` leaves to the job's next attempt; None: no limit."""
    if cluster.max_hours is None:
        return None
    return max(0.0, cluster.max_hours * 3600 - sum(record.wall_s for record in history))


def failures_in_a_row(history: Sequence[AttemptRecord]) -> int:
    """Failed attempts since the last one that got somewhere and did not fail."""
    count = 0
    for record in reversed(history):
        if record.end == "failed":
            count += 1
        elif record.has_kept:
            break
    return count


def fruitless_in_a_row(history: Sequence[AttemptRecord]) -> int:
    """Latest attempts that kept nothing, though something was owed."""
    count = 0
    for record in reversed(history):
        if record.has_kept:
            break
        count += record.end != "done"
    return count


def bad_nodes(records: Sequence[AttemptRecord]) -> tuple[str, ...]:
    """Nodes that failed attempts repeatedly, worst first. `records`: of the whole run, in order.

    An attempt that kept something there and did not fail clears a node of what was before. When no
    attempt got anywhere on any node, it is not the nodes, and none is named.
    """
    if not any(record.has_kept for record in records):
        return ()
    faults = _faults(records)
    return tuple(node for node, count in faults.most_common() if count >= REPEATED)


def nodes_to_avoid(
    history: Sequence[AttemptRecord], records: Sequence[AttemptRecord]
) -> tuple[str, ...]:
    """Nodes for the next attempt to stay off, most important first.

    Where attempts of this job (`history`) failed, the latest first, then those that are bad for the
    whole run (`records`).
    """
    failed = [r for r in reversed(history) if r.end == "failed" and _is_nodes_fault(r)]
    return tuple(dict.fromkeys([*map(_node, failed), *bad_nodes(records)]))


def given_exclude(cluster: Cluster) -> str:
    """The nodes that the user excludes, as written (`n[1-2]`); an option in `cluster.sbatch` wins."""
    for key, value in cluster.sbatch.items():
        if key.strip("-") == "exclude":
            return str(value) if value else ""
    return cluster.exclude or ""


def choose_excluded(
    avoid: Sequence[str],
    excluded: Sequence[str],
    fixed: Collection[str],
    *,
    size: int | None,
    nodes: int,
) -> tuple[str, ...] | None:
    """The job's new list of excluded nodes; None to leave it as it is.

    `avoid` is from `nodes_to_avoid`, `excluded` the job's list now. What the user excludes (`fixed`)
    stays in it, whatever failed there, and so does what is not in `avoid`: that is the site's. Of the
    rest of a partition of `size` nodes no more than half is excluded, and `nodes` stay: a job whose
    nodes are all excluded is held by Slurm for ever (BadConstraints). Where the size is unknown, one
    node.
    """
    given = [node for node in excluded if node in fixed or node not in avoid]
    more = [node for node in avoid if node not in given]
    usable = None if size is None else size - len(given)
    most = 1 if usable is None else max(0, min(usable // 2, usable - nodes))
    chosen = (*given, *more[:most])
    return None if set(chosen) == set(excluded) else chosen


def _faults(records: Sequence[AttemptRecord]) -> Counter[str]:
    latest = {record.replica: record.attempt for record in records}
    faults: Counter[str] = Counter()
    for record in records:
        is_lost = _is_lost(record) and record.attempt < latest[record.replica]
        if is_lost or (record.end == "failed" and _is_nodes_fault(record)):
            faults[_node(record)] += 1
        elif record.has_kept:
            faults.pop(_node(record), None)
    return faults


def _is_lost(record: AttemptRecord) -> bool:
    """Killed without a word before it got anywhere. One that was told to stop was no victim of its
    node, and one that had kept something may have been preempted in less time than its record needs."""
    said = record.end is not None or record.reason is not None
    return record.executor == "slurm" and not said and not record.has_kept


def _is_nodes_fault(record: AttemptRecord) -> bool:
    return record.failure is None or record.failure.kind in NODES_FAULT


def _node(record: AttemptRecord) -> str:
    """The node to blame, as Slurm calls it, which is not always its host name."""
    named = None if record.failure is None else record.failure.node
    if named in record.nodes:
        return str(named)
    return record.nodes[0] if record.nodes else record.host
