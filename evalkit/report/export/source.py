"""What every export is made of: the published results of a run's tasks, and nothing that is not published.

Incomplete results are refused here, once for all kinds, unless they were asked for. So are results of
another plan: a folder that was copied together would export one run's scores under another's name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from evalkit.errors import IncompleteError, StoreError
from evalkit.report.artifacts import read_results, render_metrics
from evalkit.report.frames import iter_samples
from evalkit.report.gather import choose_tasks
from evalkit.report.rescore import rescored

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evalkit.plan.model import Plan, TaskPlan
    from evalkit.recipe.schema import Profile
    from evalkit.report.results import Results
    from evalkit.store.layout import RunFolder

PARTIAL = "partial"


def export_id(folder: RunFolder, name: str) -> str:
    """A name by which others know results: those of another profile than the run's are others."""
    return name if folder.profile is None else f"{name}-{folder.profile}"


@dataclass(frozen=True, slots=True)
class ExportedTask:
    """One task: its plan and its `results.json`."""

    folder: RunFolder
    plan: TaskPlan
    results: Results

    @property
    def name(self) -> str:
        """Name in the recipe."""
        return self.plan.name

    @property
    def is_partial(self) -> bool:
        """Whether units are missing; then there is no headline and there are no metrics."""
        return not self.results.complete

    @property
    def mark(self) -> str | None:
        """What is missing, in words; null for a complete task."""
        counts = self.results.counts
        if not self.is_partial:
            return None
        return f"{PARTIAL}: {counts.missing:,} of {counts.expected:,} units are missing"

    @property
    def note(self) -> str | None:
        """The mark, and what the score may still become; null for a complete task."""
        bounds = self.results.headline.bounds
        if self.mark is None or bounds is None:
            return self.mark
        return f"between {100 * bounds.low:.2f} and {100 * bounds.high:.2f} % ({self.mark})"

    def metrics(self) -> dict[str, float]:
        """Every metric by the name that other tools know it by; fractions. Empty while units are
        missing."""
        metrics: dict[str, float] | None = render_metrics(self.results)["metrics"]
        return metrics or {}

    def samples(self) -> Iterator[dict[str, Any]]:
        """The lines of the samples artifact. Raises StoreError."""
        return iter_samples(self.folder, self.name)


@dataclass(frozen=True, slots=True)
class ExportedRun:
    """The chosen tasks of one run."""

    folder: RunFolder
    plan: Plan
    tasks: tuple[ExportedTask, ...]

    @property
    def run_id(self) -> str:
        """Id by which an earlier export is found again; one of another profile's has its own."""
        return export_id(self.folder, self.plan.run_id)

    @property
    def title(self) -> str:
        """Name for a person."""
        return export_id(self.folder, self.plan.run)

    @property
    def is_partial(self) -> bool:
        """Whether a task has missing units."""
        return any(task.is_partial for task in self.tasks)

    @property
    def created(self) -> datetime:
        """When the plan was made; of a run that does not say it, when its file was written. The same
        for every export of the run."""
        made_by = self.tasks[0].results.provenance.made_by or {}
        try:
            return datetime.fromisoformat(made_by["created"])
        except (KeyError, TypeError, ValueError):
            return datetime.fromtimestamp(int(self.folder.plan.stat().st_mtime), UTC)


def load_export(
    folder: RunFolder,
    plan: Plan,
    tasks: Sequence[str] = (),
    *,
    profile: Profile | None = None,
    allow_partial: bool = False,
) -> ExportedRun:
    """The published results of these tasks, or of all; with a `profile` those that `evalkit score --profile`
    made of the same answers.

    Raises UsageError for an unknown task, StoreError for results that are not there or not this run's,
    IncompleteError for incomplete ones that nobody allowed.
    """
    if profile is not None:
        folder, plan = replace(folder, profile=profile), rescored(plan, profile)
    chosen = choose_tasks(plan, list(tasks) or None)
    found = tuple(_load_task(folder, plan, task) for task in chosen)
    partial = [task for task in found if task.is_partial]
    if partial and not allow_partial:
        raise IncompleteError(
            "\n".join(f"{task.name}: {task.mark}" for task in partial),
            hint="Nothing was exported. Finish the run (`evalkit resume`), choose complete tasks with "
            "-t, or give --allow-partial: counts and bounds are exported then, marked as partial.",
        )
    return ExportedRun(folder, plan, found)


def _load_task(folder: RunFolder, plan: Plan, task: TaskPlan) -> ExportedTask:
    path = folder.results(task.name)
    results = read_results(path)
    if results is None:
        raise StoreError(
            f"{task.name}: there are no results in {path}",
            hint=f"`{_maker(folder)}` makes them.",
        )
    found = (results.settings.fingerprint, results.settings.plan_fingerprint)
    if found != (task.fingerprint, plan.fingerprint):
        raise StoreError(
            f"{path} is of another plan than {folder.plan}",
            hint=f"`{_maker(folder)}` makes it again from this run's journals.",
        )
    return ExportedTask(folder, task, results)


def _maker(folder: RunFolder) -> str:
    """The command that makes the results."""
    if folder.profile is None:
        return f"evalkit gather {folder.root}"
    return f"evalkit score {folder.root} --profile {folder.profile}"
