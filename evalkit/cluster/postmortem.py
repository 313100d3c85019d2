"""How every attempt ended that did not end as done: the worker's own word, or else Slurm's.

A worker that is killed, or whose node dies, says nothing; one that drains on a signal cannot know who
sent it. Slurm's accounting does: the execution that held the attempt is found by job and time. Where
nobody knows, the attempt is `lost`: that is never taken for a good end.

Pure, but for the last lines of logs, which are read where they are the only witness.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from evalkit import errors
from evalkit.cluster.failures import Failure, FailureKind
from evalkit.cluster.slurm_times import parse_log_time
from evalkit.cluster.states import LIVE, JobState
from evalkit.serving import logs

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.cluster.accounting import Execution, History
    from evalkit.cluster.attempts import AttemptRecord
    from evalkit.cluster.slurm import JobRow
    from evalkit.store.layout import RunFolder

CLOCK_MARGIN_S = 120.0
"""A node's clock may be off against the controller's, and a worker starts a while after its job."""
NEAR_END_S = 60.0
"""A TERM so close to the time limit is of the limit: Slurm's times are whole minutes."""
DEFAULT_WARNING_S = 180.0
"""How long before the time limit a job is warned (cluster.signal_delay_s), where nobody says."""
KINDS = {
    JobState.PREEMPTED: FailureKind.PREEMPTED,
    JobState.NODE_FAIL: FailureKind.NODE_FAILURE,
    JobState.TIMEOUT: FailureKind.TIME_LIMIT,
    JobState.OOM: FailureKind.OOM,
    JobState.CANCELLED: FailureKind.CANCELLED,
}
SAID = {
    FailureKind.PREEMPTED: "preempted by Slurm",
    FailureKind.NODE_FAILURE: "its node failed",
    FailureKind.TIME_LIMIT: "its job reached the time limit",
    FailureKind.OOM: "its job used more memory than it had (cluster.mem)",
    FailureKind.CANCELLED: "cancelled",
}
MEMORY_KINDS = frozenset({FailureKind.SERVER_CRASH, FailureKind.UNKNOWN, FailureKind.SERVER_START})
"""What memory that ran out looks like to a worker whose server was killed for it."""
OUR_ERROR = re.compile(r"^(?:evalkit\.errors\.)(\w+Error): (.*)$")
STEP_OOM = re.compile(r"oom.kill event|Out Of Memory", re.IGNORECASE)
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
SLURM_SAID = re.compile(
    r"CANCELLED AT|DUE TO|oom.kill event|Out Of Memory|slurmstepd: error|srun: error"
)


class Scene(NamedTuple):
    """What is known around attempts."""

    history: History
    alive: frozenset[str]
    """Attempts whose worker is heard, or whose job may run them still (`r0.a1`)."""
    cancelled: frozenset[str]
    """Jobs (without an array index) that `evalkit cancel` stopped."""
    folder: RunFolder
    warning_s: float = DEFAULT_WARNING_S
    """Jobs are warned so long before their time limit (s)."""
    undecided: frozenset[str] = frozenset()
    """Attempts that are not heard, of which Slurm says nothing at the moment."""


class Postmortem:
    """Explains attempts again and again; logs are read once for what does not change any more."""

    def __init__(self) -> None:
        self._known: dict[tuple[AttemptRecord, Execution | None, bool], Failure | None] = {}

    def explain(self, attempt: AttemptRecord, scene: Scene) -> Failure | None:
        """See `explain`."""
        if attempt.id in scene.alive | scene.undecided:
            return explain(attempt, scene)
        cancelled = attempt.job_id.partition("_")[0] in scene.cancelled
        key = (attempt, find_execution(attempt, scene.history), cancelled)
        if key not in self._known:
            self._known[key] = explain(attempt, scene)
        return self._known[key]


def explain(attempt: AttemptRecord, scene: Scene) -> Failure | None:
    """Why an attempt ended; None when it ended as done, may still run, or nobody can be asked."""
    is_open = attempt.id in scene.alive | scene.undecided
    if attempt.end == "done" or (attempt.ended is None and is_open):
        return None
    row = find_execution(attempt, scene.history)
    if attempt.failure is not None:
        return _corrected(attempt.failure, row)
    kind, reason = _verdict(attempt, row, scene)
    log, lines = _witness(attempt, kind, scene.folder)
    return Failure(kind, reason, attempt.node, log, lines)


def find_execution(attempt: AttemptRecord, history: History) -> Execution | None:
    """The job's execution that held an attempt.

    The one of its number of requeues, where accounting has them all; else the one that had started
    right before, as far as clocks agree. One that had ended by then is of another attempt: some sites
    keep a single row of a requeued job, the oldest, for ever.
    """
    rows = [
        row
        for row in history.of(attempt.job_id)
        if row.started is not None and row.started <= attempt.started + CLOCK_MARGIN_S
    ]
    counted = rows[attempt.restart_count : attempt.restart_count + 1]
    if counted and not _had_ended(counted[0], attempt):
        return counted[0]
    rows = [row for row in rows if not _had_ended(row, attempt)]
    return min(rows, key=lambda row: abs(attempt.started - (row.started or 0.0)), default=None)


def _had_ended(row: Execution, attempt: AttemptRecord) -> bool:
    """Whether an execution was over when the attempt began, whatever the clocks say."""
    return row.ended is not None and row.ended < attempt.started - CLOCK_MARGIN_S


def is_past(attempt: AttemptRecord, history: History) -> bool:
    """Whether accounting knows that the execution which held an attempt is over.

    A job that runs may run its next execution, of which there is no attempt yet.
    """
    row = find_execution(attempt, history)
    if row is None:
        return False
    if row is not history.of(attempt.job_id)[-1]:
        return True
    has_ended = row.state.is_over or row.state is JobState.REQUEUED
    return has_ended and row.ended is not None and attempt.started < row.ended


def _corrected(failure: Failure, row: Execution | None) -> Failure:
    """A worker sees its server killed; Slurm knows that memory was the reason."""
    if row is not None and row.state is JobState.OOM and failure.kind in MEMORY_KINDS:
        reason = f"{SAID[FailureKind.OOM]}: {failure.reason}"
        return replace(failure, kind=FailureKind.OOM, reason=reason)
    return failure


def _verdict(
    attempt: AttemptRecord, row: Execution | None, scene: Scene
) -> tuple[FailureKind, str]:
    if (told := _told(attempt, row)) is not None:
        return told
    if attempt.job_id.partition("_")[0] in scene.cancelled:
        return FailureKind.CANCELLED, SAID[FailureKind.CANCELLED]
    if attempt.end == "over_budget":
        return FailureKind.OVER_BUDGET, attempt.reason or "the run's limits are reached"
    if attempt.end is not None:
        return _signalled(attempt, row, scene.warning_s)
    if row is None or row.state in LIVE:
        return FailureKind.LOST, "it was not heard any more, and nobody says why"
    return FailureKind.LOST, f"it ended without a word (exit code {row.exit_code}, {row.raw})"


def _told(attempt: AttemptRecord, row: Execution | None) -> tuple[FailureKind, str] | None:
    """What Slurm said: to the worker while it ended, or else in its accounts."""
    if attempt.cause is not None:
        kind = FailureKind(attempt.cause)
        return kind, f"{SAID[kind]} ({attempt.reason or 'no reason given'})"
    if row is not None and row.state in KINDS:
        kind = KINDS[row.state]
        return kind, SAID[kind] + (f" ({row.raw.lower()})" if " by " in row.raw else "")
    return None


def _signalled(
    attempt: AttemptRecord, row: Execution | None, warning_s: float
) -> tuple[FailureKind, str]:
    """A drained attempt of which Slurm says no more than that it was requeued, or nothing."""
    why = f"told to stop ({attempt.reason or 'no reason given'})"
    if _is_near_end(attempt, warning_s):
        return FailureKind.TIME_LIMIT, f"{why} before its time limit"
    if attempt.executor != "slurm" or attempt.reason == "SIGINT":
        return FailureKind.CANCELLED, why
    if row is not None and row.state is JobState.REQUEUED:
        return FailureKind.PREEMPTED, f"{why} and requeued"
    return FailureKind.PREEMPTED, f"{why} by Slurm, which does not say why"


def _is_near_end(attempt: AttemptRecord, warning_s: float) -> bool:
    """Whether a signal came when that of the time limit comes: a warning, or a TERM at the very end.

    Never in the first half of a job, or whatever ends a short one would look like its time limit.
    """
    if attempt.ends is None:
        return False
    warned_s = 0.0 if attempt.reason == "SIGTERM" else warning_s
    most_s = min(warned_s + NEAR_END_S, (attempt.ends - attempt.started) / 2)
    return attempt.ends - attempt.last < most_s


def _witness(
    attempt: AttemptRecord, kind: FailureKind, folder: RunFolder
) -> tuple[str | None, tuple[str, ...]]:
    """The log that tells most of an end without words, and its last lines.

    Slurm writes why it ended a job into the job's own output, which all its executions share.
    """
    output = folder.job_log(attempt.job_id)
    said = [line for line in logs.readable_end(output) if _is_about(line, attempt, kind)]
    if said:
        return _within(output, folder), tuple(said[-logs.LAST :])
    worker = folder.worker_log(attempt.replica, attempt.attempt)
    lines = tuple(logs.last_lines(logs.readable_end(worker)))
    return (_within(worker, folder) if worker.exists() else None), lines


def _is_about(line: str, attempt: AttemptRecord, kind: FailureKind) -> bool:
    """Whether Slurm says this of the attempt: by the line's time, or by what it is about."""
    if not SLURM_SAID.search(line):
        return False
    stamp = STAMP.search(line)
    when = parse_log_time(stamp[0]) if stamp else None
    if when is None:
        return kind is FailureKind.OOM and STEP_OOM.search(line) is not None
    return attempt.started - CLOCK_MARGIN_S <= when <= attempt.last + CLOCK_MARGIN_S


def explain_job(row: JobRow, folder: RunFolder) -> Failure | None:
    """Why a job is over of which no attempt tells; None when it is not, or ended well.

    A worker that never started says why in the job's own log.
    """
    if row.state is JobState.DONE or not row.state.is_over:
        return None
    output = folder.job_log(row.job_id)
    lines = logs.readable_end(output)
    log = _within(output, folder) if lines else None
    killed = [line for line in lines if STEP_OOM.search(line)]
    if row.state in KINDS or killed:
        kind = KINDS.get(row.state, FailureKind.OOM)
        said = [line for line in lines if SLURM_SAID.search(line)] or logs.last_lines(lines)
        return Failure(kind, SAID[kind], row.nodes or None, log, tuple(said[-logs.LAST :]))
    code = f" (exit code {row.exit_code})" if row.exit_code else ""
    reason = row.reason or f"the job failed before its worker said anything{code}"
    return _failed_job(reason, row.nodes or None, log, lines)


def _failed_job(reason: str, node: str | None, log: str | None, lines: list[str]) -> Failure:
    """From the last error of ours in the job's log, which Python writes with its class."""
    for index in range(len(lines) - 1, -1, -1):
        found = OUR_ERROR.match(lines[index])
        known = getattr(errors, found[1], None) if found else None
        if found and isinstance(known, type) and issubclass(known, errors.EvalkitError):
            shown = logs.last_lines(lines[index : index + logs.LAST])
            return Failure(known.kind, found[2], node, log, tuple(shown))
    cause = logs.find_cause(lines)
    if cause is not None:
        return Failure(cause.kind, reason, node, log, cause.lines)
    return Failure(FailureKind.UNKNOWN, reason, node, log, tuple(logs.find_errors(lines)))


def _within(path: Path, folder: RunFolder) -> str:
    return str(path.relative_to(folder.root))
