"""What there is to grade of one task, by whom, and where what is found goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from evalkit.benchmarks.frozen import load_frozen
from evalkit.errors import StoreError
from evalkit.store.gradings import (
    ShardGradings,
    grader_identity,
    grading_plan,
    scored_as,
)
from evalkit.store.publish import publish_once
from evalkit.store.run import load_plan
from evalkit.store.union import ShardUnion

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from evalkit.benchmarks.contract import Benchmark, Sample
    from evalkit.cluster.drain import Drain
    from evalkit.plan.model import Plan, Shard, TaskPlan
    from evalkit.store.layout import RunFolder


@dataclass(frozen=True, slots=True)
class GradingProgress:
    """How far the grading of one task is."""

    task: str
    graded: int
    """Units that something was found about, by any grader so far."""
    failed: int
    """Units on which this grader failed."""
    expected: int
    """Planned units."""
    message: str = ""
    """Of the last failure."""
    now: int = 0
    """Those of `graded` that this grader found something about."""
    score: float | None = None
    """Mean of those that were scored so far."""


@dataclass(frozen=True, slots=True)
class Watching:
    """Who is told how a grading goes."""

    on_progress: Callable[[GradingProgress], None]
    """After each unit."""
    tell: Callable[[str], None]
    """Says what is waited for, in a few words."""
    drain: Drain | None = None
    """Where a request to stop comes from; null: nobody asks."""


@dataclass(frozen=True, slots=True)
class GradingTask:
    """A task, its grader, and where the findings go."""

    folder: RunFolder
    """Of the run."""
    plan: Plan
    task: TaskPlan
    benchmark: Benchmark[Any]
    samples: Sequence[Sample]
    place: RunFolder
    """Of the grading."""
    journal_plan: Plan
    """What its journals are of."""
    is_shown: bool = True
    """Its scores are those that the run's status shows: they are not another profile's."""

    @classmethod
    def load(
        cls, folder: RunFolder, plan: Plan, task: TaskPlan, benchmark: Benchmark[Any]
    ) -> GradingTask:
        """Read the frozen samples. Raises StoreError."""
        own = grading_plan(plan, task, benchmark.grading_params)
        place = folder.grading(task.name, own.fingerprint)
        samples = load_frozen(folder, task)
        is_shown = scored_as(task) == scored_as(load_plan(folder).task(task.name))
        return cls(folder, plan, task, benchmark, samples, place, own, is_shown)

    def describe(self) -> dict[str, Any]:
        """What the grader is, for people who find the folder."""
        identity = grader_identity(self.task, self.benchmark.grading_params)
        return {"fingerprint": self.journal_plan.fingerprint, **identity}

    def read(self, shard: Shard) -> tuple[ShardUnion, ShardGradings]:
        """Finished units of a shard, and what was found about them. Raises StoreError."""
        union = ShardUnion.read(
            self.folder, self.plan, shard, single_call=self.benchmark.single_call
        )
        return union, self.read_findings(shard)

    def read_findings(self, shard: Shard) -> ShardGradings:
        """What was found about a shard's units. Raises StoreError."""
        return ShardGradings.read(self.place, self.journal_plan, shard, self.benchmark.suffices)

    def is_done(self) -> bool:
        """Whether no finished unit is left without a finding. Raises StoreError."""
        for shard in self.task.shards():
            union, gradings = self.read(shard)
            if gradings.owed(union.finished):
                return False
        return True


def describe_place(task: GradingTask) -> None:
    """Say in the grading's folder what its grader is. Raises StoreError."""
    try:
        task.place.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"cannot create {task.place.root}: {error.strerror or error}",
            hint="Check free space, quota and permissions of the run folder; nothing was changed.",
        ) from error
    content = orjson.dumps(task.describe(), option=orjson.OPT_INDENT_2)
    publish_once(task.place.grader, content + b"\n")
