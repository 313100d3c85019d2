"""The tasks of a run for its status: what is done and graded, how fast, and the score so far. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

from evalkit.cluster.status_values import GradingStatus, TaskStatus
from evalkit.store.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from evalkit.cluster.grading_progress import GradingCounts
    from evalkit.cluster.progress import TaskProgress
    from evalkit.cluster.replica_report import ReplicaReport
    from evalkit.plan.model import TaskPlan

AFTER = "graded after generation"


class _Score(NamedTuple):
    """Scores so far: of how many units, their sum, and what that is a share of."""

    scored: int = 0
    total: float = 0.0
    weight: float = 0.0

    @property
    def mean(self) -> float | None:
        return self.total / self.weight if self.weight else None


def task_status(
    task: TaskPlan,
    progress: TaskProgress,
    grading: GradingCounts | None,
    reports: Mapping[str, ReplicaReport],
    alive: frozenset[str],
    now: float,
) -> TaskStatus:
    """One task as of `now` (Unix time, s); `alive` are the replicas that work."""
    seen = [report for report in reports.values() if task.name in report.tasks]
    rate = total(r.tasks[task.name].rate_per_s or None for r in seen if r.replica in alive)
    # markers count finished shards, reports count what each last attempt did: the larger is better
    marked = _Score(progress.scored, progress.score_sum, progress.score_weight)
    answers = max(marked, _reported(task.name, seen), key=lambda score: score.scored)
    found = None if grading is None else grading_status(task, grading, progress.done, now)
    score, note = _score(answers, _graded(task.name, grading, now), progress, found)
    owed = task.n_units - progress.done
    return TaskStatus(
        name=task.name,
        expected=task.n_units,
        done=progress.done,
        outcomes=dict(sorted(progress.outcomes.items())),
        shards=task.n_shards,
        shards_done=progress.shards_done,
        score=score.mean,
        scored=score.scored,
        rate_per_s=rate,
        eta_s=owed / rate if rate else None,
        grading=found,
        score_note=note,
    )


def with_result(status: TaskStatus, result: str | None) -> TaskStatus:
    """A task whose result was gathered: nothing is to be said of a score on the way there."""
    return status if result is None else replace(status, result=result, score_note=None)


def grading_status(task: TaskPlan, counts: GradingCounts, done: int, now: float) -> GradingStatus:
    """How far a task's grading is, `done` of its answers being there."""
    live = [report for report in counts.reports if report.is_fresh(now)]
    tallies = [r.tasks[task.name] for r in live if task.name in r.tasks]
    rate = total(tally.rate_per_s or None for tally in tallies)
    judge, scorer = (counts.errors.get(o, 0) for o in (Outcome.JUDGE_ERROR, Outcome.SCORER_ERROR))
    ungraded = max(0, done - counts.graded - judge - scorer)
    latest = next(iter(counts.reports), None)
    log = latest and counts.place.worker_log(latest.replica, latest.attempt)
    return GradingStatus(
        grader=cast("Literal['sandbox', 'judge']", counts.grader),
        folder=str(counts.place.root),
        expected=task.n_units,
        graded=counts.graded,
        ungraded=ungraded,
        judge_error=judge,
        scorer_error=scorer,
        graders=len(live),
        rate_per_s=rate,
        eta_s=max(0, done - counts.graded) / rate if rate else None,
        state=latest.state if latest else None,
        detail=next((report.detail for report in live if report.detail), None),
        error=latest.error if latest and not live else None,
        log=str(log) if log and log.exists() else None,
    )


def total(rates: Iterable[float | None]) -> float | None:
    """The sum of those that are known; null when none is."""
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known else None


def _reported(task: str, reports: Iterable[ReplicaReport]) -> _Score:
    tallies = [report.tasks[task] for report in reports if task in report.tasks]
    return _Score(
        sum(tally.scored for tally in tallies),
        sum(tally.score_sum for tally in tallies),
        sum(tally.score_weight or tally.scored for tally in tallies),
    )


def _graded(task: str, counts: GradingCounts | None, now: float) -> _Score:
    """Scores of graded units: of shards with a marker, or as far as one living grader has come."""
    if counts is None:
        return _Score()
    marked = _Score(counts.scored, counts.score_sum, counts.score_weight)
    told = [_reported(task, [report]) for report in counts.reports if report.is_fresh(now)]
    return max(marked, *told, key=lambda score: score.scored) if told else marked


def _score(
    answers: _Score, graded: _Score, progress: TaskProgress, grading: GradingStatus | None
) -> tuple[_Score, str | None]:
    """The score to show, and what to say of it."""
    if grading is None:
        is_late = progress.done and not answers.scored
        return answers, "scored when the run is gathered" if is_late else None
    if graded.scored:
        is_part = graded.scored < grading.expected
        return graded, f"of the {graded.scored:,} graded answers" if is_part else None
    if answers.scored:
        return answers, f"of {answers.scored:,} answers that need no grading; the others: {AFTER}"
    return _Score(), AFTER if progress.done < grading.expected else "not graded yet"
