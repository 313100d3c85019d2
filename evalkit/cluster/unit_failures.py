"""Units whose failure is ours, for the failure table: which attempt had it, where, and what its log says.

A journal is an attempt's own, so it tells whose failure a unit's is. Its words lead to the lines: an
endpoint's are searched for in the logs of that attempt, and a benchmark that failed left its traceback
there. A grading has attempts and logs of its own; what only `score` finds, when a run is gathered, is
in its job's own output. Text only chooses what is shown. Nothing is read where no unit failed, and of a log only its end.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from evalkit.cluster.failures import Failure, FailureKind
from evalkit.cluster.progress import is_gathered, read_missing
from evalkit.serving import logs
from evalkit.store.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from evalkit.cluster.grading_progress import GradingCounts
    from evalkit.cluster.progress import TaskProgress, UnitDetail
    from evalkit.cluster.status_values import AttemptStatus, JobStatus
    from evalkit.store.layout import RunFolder

KINDS = {
    Outcome.INFRA_ERROR: FailureKind.ENDPOINT,
    Outcome.SCORER_ERROR: FailureKind.SCORER,
    Outcome.JUDGE_ERROR: FailureKind.JUDGE,
}
GRADERS = frozenset({FailureKind.SCORER, FailureKind.JUDGE})
LEAST_CHARS = 6
"""Words shorter than this are in any log."""
OURS = re.compile(r"^.*\bstatus \d{3}: | \(after \d+ retries\)$")
"""What the client puts around an endpoint's own words."""
NEW_RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
"""How a line of a worker's log begins that is not of a traceback."""
NOT_SAID = "see the worker's log"


NO_GRADINGS: Mapping[str, GradingCounts] = MappingProxyType({})


class UnitSources(NamedTuple):
    """What was counted of a run's units."""

    progress: Mapping[str, TaskProgress]
    gradings: Mapping[str, GradingCounts] = NO_GRADINGS
    """Of tasks that a sandbox or a judge grades."""
    attempts: Sequence[AttemptStatus] = ()
    jobs: Sequence[JobStatus] = ()


class UnitFailures(NamedTuple):
    """Failures of one kind of a task's units."""

    task: str
    n: int
    failure: Failure


class Place(NamedTuple):
    """Where a failure was: a node, and the log that shows it."""

    node: str | None = None
    log: Path | None = None
    lines: tuple[str, ...] = ()


def unit_failures(folder: RunFolder, sources: UnitSources) -> Iterable[UnitFailures]:
    """Units that are owed because of us, by task and kind, with the last failure of each."""
    is_complete = is_gathered(folder)
    for task, counts in sources.progress.items():
        grading = sources.gradings.get(task)
        missing = {} if is_complete else read_missing(folder, task)
        for outcome, kind in KINDS.items():
            if grading is not None and (n := grading.errors.get(outcome, 0)):
                yield _of_grading(folder, task, n, outcome, grading)
                missing.pop(outcome, None)
            journaled = counts.outcomes.get(outcome, 0)
            # what only calls can tell is old in a gather's result; what only graders tell is not
            gathered, said = missing.get(outcome, (0, "")) if kind in GRADERS else (0, "")
            if not (n := max(journaled, gathered)):
                continue
            detail = counts.details.get(outcome)
            if journaled and detail is not None:
                words, kind = detail.text, _said(detail.kind) or kind
                place = _in_attempt(folder, task, kind, detail, sources.attempts)
            else:
                words = said.partition("\n")[0]
                place = _in_gather(folder, task, words, sources.jobs)
            log = None if place.log is None else str(place.log.relative_to(folder.root))
            yield UnitFailures(
                task, n, Failure(kind, words or NOT_SAID, place.node, log, place.lines)
            )


def _of_grading(
    folder: RunFolder, task: str, n: int, outcome: Outcome, counts: GradingCounts
) -> UnitFailures:
    """Units that a grader failed on, with the node and the log of the last one that did."""
    detail = counts.details[outcome]
    replica, _, numbers = detail.attempt.rpartition(".a")
    number = numbers.partition(".")[0]  # `r900.a2.0`: of the judge's server, too
    node: str | None = None
    log: str | None = None
    lines: tuple[str, ...] = ()
    if number.isdecimal():
        node = next((r.host for r in counts.reports if r.attempt == int(number)), None)
        worker = counts.place.worker_log(replica, int(number))
        text = logs.readable_end(worker)
        lines = _traceback(text, "grade of ") or _naming(text, detail.text)
        log = str(worker.relative_to(folder.root)) if worker.exists() else None
    return UnitFailures(task, n, Failure(KINDS[outcome], detail.text or NOT_SAID, node, log, lines))


def _said(kind: str | None) -> FailureKind | None:
    """The kind that a worker wrote down, maybe one of a newer version."""
    return FailureKind(kind) if kind in set(FailureKind) else None


def _in_attempt(
    folder: RunFolder,
    task: str,
    kind: FailureKind,
    detail: UnitDetail,
    attempts: Iterable[AttemptStatus],
) -> Place:
    """The node of the attempt, and the first of its logs that has the words; else the worker's."""
    replica, _, number = detail.attempt.rpartition(".a")
    node = next((attempt.node for attempt in attempts if attempt.id == detail.attempt), None)
    if not number.isdecimal():
        return Place(node)
    worker = folder.worker_log(replica, int(number))
    lines = _traceback(logs.readable_end(worker), f"of {task} failed on sample ")
    if lines and kind is FailureKind.SCORER:
        return Place(node, worker, lines)
    for log in (worker, folder.server_log(replica, int(number))):
        if lines := _naming(logs.readable_end(log), detail.text):
            return Place(node, log, lines)
    return Place(node, worker if worker.exists() else None)


def _in_gather(folder: RunFolder, task: str, words: str, jobs: Iterable[JobStatus]) -> Place:
    """The output of the gather's job where it has the words; else the result that does."""
    for job in jobs:
        log = folder.job_log(job.job_id)
        if job.role == "gather" and (lines := _naming(logs.readable_end(log), words)):
            return Place(job.nodes or None, log, lines)
    result = folder.results(task)
    return Place(None, result if result.exists() else None)


def _naming(lines: Sequence[str], words: str) -> tuple[str, ...]:
    """The last lines that hold an endpoint's, a judge's or a grader's own words."""
    own = OURS.sub("", words).strip()
    if len(own) < LEAST_CHARS:
        return ()
    return tuple(line.rstrip() for line in lines if own in line)[-logs.LAST :]


def _traceback(lines: Sequence[str], words: str) -> tuple[str, ...]:
    """The last record that has these words, and how the traceback below it ends."""
    starts = [index for index, line in enumerate(lines) if words in line]
    if not starts:
        return ()
    first, *rest = lines[starts[-1] :]
    ends = (index for index, line in enumerate(rest) if NEW_RECORD.match(line))
    below = rest[: next(ends, len(rest))]
    return (first.rstrip(), *logs.last_lines(below)[1 - logs.LAST :])
