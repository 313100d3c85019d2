"""What a report is made of: the artifacts of a run's tasks, its plan, and what its attempts left.

Read once, into values. A task that was not gathered has no results; nothing is scored here, and no
journal is read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import orjson
from pydantic import ValidationError

from evalkit.benchmarks.registry import installed_class
from evalkit.errors import StoreError, UsageError
from evalkit.report.artifacts import read_results
from evalkit.report.steps import find_step
from evalkit.report.traffic import Traffic
from evalkit.serving.telemetry import read_telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from evalkit.plan.model import Plan, TaskPlan
    from evalkit.report.results import Results
    from evalkit.store.layout import RunFolder


@dataclass(frozen=True, slots=True)
class GpuUse:
    """What the GPUs of an attempt's first node did at one time."""

    time: float
    """Unix time (s)."""
    busy: tuple[float, ...]
    """Share of the time since the last look in which each one computed (fraction)."""
    memory: tuple[float, ...]
    """Share of each one's memory in use (fraction)."""


@dataclass(frozen=True, slots=True)
class Held:
    """One attempt: what it held, and how long. Times are Unix times (s)."""

    replica: str
    attempt: int
    host: str
    gpus: int
    nodes: int
    started: float
    ended: float
    """When it was last heard, where its end is not known."""
    end: str | None
    use: tuple[GpuUse, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskReport:
    """One task of a run; null is not there."""

    plan: TaskPlan
    results: Results | None = None
    traffic: Traffic | None = None
    title: str = ""
    """Title of its benchmark."""
    is_restricted: bool = True
    """Its data may not be republished."""
    weight: str | None = None
    """Score that says what the task's own score may reach for a sample; 1 without."""


@dataclass(frozen=True)
class RunReport:
    """One run."""

    folder: RunFolder
    plan: Plan
    tasks: tuple[TaskReport, ...]
    attempts: tuple[Held, ...]

    @cached_property
    def step(self) -> int | None:
        """Training step of its model."""
        return find_step(self.plan.model)

    @property
    def complete(self) -> bool:
        """Every task has complete results."""
        return all(task.results is not None and task.results.complete for task in self.tasks)

    def task(self, name: str) -> TaskReport | None:
        """The task of that name."""
        return next((task for task in self.tasks if task.plan.name == name), None)


def read_run(folder: RunFolder, plan: Plan, tasks: Sequence[str] = ()) -> RunReport:
    """A run as its artifacts tell it; `tasks` names some of the plan's (all by default).

    Raises StoreError for damaged artifacts, UsageError for an unknown task and where nothing was
    gathered, RecipeError for a benchmark that is not installed; a harness need not be.
    """
    known = [task.name for task in plan.tasks]
    for name in tasks:
        if name not in known:
            raise UsageError(f"no task {name!r} in this run", hint=f"Tasks: {', '.join(known)}.")
    chosen = [task for task in plan.tasks if not tasks or task.name in tasks]
    found = tuple(_read_task(folder, task) for task in chosen)
    if all(task.results is None for task in found):
        raise UsageError(
            f"{folder.root} has no results yet: there is no {folder.artifacts()}/<task>/results.json",
            hint="Make them with `evalkit gather RUN --allow-partial`, also while the run goes on.",
        )
    return RunReport(folder, plan, found, tuple(_read_attempts(folder)))


def run_labels(runs: Sequence[RunReport]) -> list[str]:
    """A name for each run: its model's, and its own too where several have the same model."""
    models = [run.plan.model.name for run in runs]
    return [
        model if models.count(model) == 1 else f"{model} ({run.plan.run})"
        for model, run in zip(models, runs, strict=True)
    ]


def _read_task(folder: RunFolder, task: TaskPlan) -> TaskReport:
    results = read_results(folder.results(task.name))
    if results is None:
        return TaskReport(task)
    found = TaskReport(task, results, _read_traffic(folder.traffic(task.name)), task.benchmark)
    if (native := results.native) is not None:
        title = native.title or task.benchmark
        return replace(found, title=title, is_restricted=not native.publishable)
    benchmark = installed_class(task.benchmark)
    if (
        benchmark is None
    ):  # an unfinished task of a harness that is gone: nobody knows what may be shown
        return found
    return replace(
        found,
        title=benchmark.title,
        is_restricted=not benchmark.publishable,
        weight=benchmark.score_weights.get(task.metric),
    )


def _read_traffic(path: Path) -> Traffic | None:
    """A `traffic.json`; null where a gather of an older version made none."""
    try:
        return Traffic.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error


def _read_attempts(folder: RunFolder) -> Iterator[Held]:
    """The attempts that left a record, by replica, then number. Records are hints: one that cannot be
    read is left out."""
    paths = folder.stdout.parent.glob(f"*/attempt-*/{folder.attempt_record('', 0).name}")
    found = [held for path in paths if (held := _read_attempt(folder, path)) is not None]
    yield from sorted(found, key=lambda held: (len(held.replica), held.replica, held.attempt))


def _read_attempt(folder: RunFolder, path: Path) -> Held | None:
    try:
        row = orjson.loads(path.read_bytes())
        last = row["last"] if row.get("ended") is None else row["ended"]
        replica, attempt = str(row["replica"]), int(row["attempt"])
        return Held(
            replica=replica,
            attempt=attempt,
            host=str(row["host"]),
            gpus=int(row["gpus"]),
            nodes=len(row["nodes"]),
            started=float(row["started"]),
            ended=max(float(row["started"]), float(last)),
            end=row.get("end"),
            use=tuple(_read_use(folder.telemetry(replica, attempt))),
        )
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _read_use(path: Path) -> Iterator[GpuUse]:
    """What an attempt's telemetry says of its GPUs; a line without them is left out."""
    try:
        lines = read_telemetry(path)
    except OSError:
        return
    for line in lines:
        gpus = line.get("gpus") or ()
        busy = tuple(float(gpu["busy"]) for gpu in gpus if "busy" in gpu)
        memory = tuple(
            gpu["memory_mib"] / gpu["memory_total_mib"]
            for gpu in gpus
            if "memory_mib" in gpu and gpu.get("memory_total_mib")
        )
        if busy or memory:
            yield GpuUse(float(line["time"]), busy, memory)
