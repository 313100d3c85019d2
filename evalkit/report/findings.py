"""What a sandbox or a judge found about a task's answers, for the scorer; nothing where none is needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evalkit.benchmarks.contract import Solution
from evalkit.store.gradings import JudgeUsage, ShardGradings, grading_plan, solution_hash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalkit.benchmarks.contract import Benchmark
    from evalkit.plan.model import Plan, Shard, TaskPlan
    from evalkit.report.results import Reason
    from evalkit.store.layout import RunFolder
    from evalkit.store.reading import JournalProblem
    from evalkit.store.union import FinishedUnit


@dataclass(frozen=True, slots=True)
class ShardFindings:
    """Findings about the units of one shard."""

    gradings: ShardGradings | None
    """Null for a benchmark without a grader."""

    @property
    def problems(self) -> Sequence[JournalProblem]:
        """Damage in their journals."""
        return () if self.gradings is None else self.gradings.problems

    def solution(self, unit: FinishedUnit) -> Solution | tuple[Reason, str]:
        """What the scorer reads of a unit, or why it cannot be scored."""
        if self.gradings is None:
            return Solution(unit.text, unit.outcome, unit.data, unit.detail)
        name = (unit.key, solution_hash(unit))
        if name in self.gradings.found:
            found = self.gradings.found[name]
            return Solution(unit.text, unit.outcome, unit.data, unit.detail, found)
        if name in self.gradings.failures:
            outcome, message = self.gradings.failures[name]
            return ("judge_error" if outcome == "judge_error" else "scorer_error"), message
        return "ungraded", "its answer was not graded yet: `evalkit score` does that"


@dataclass(frozen=True, slots=True)
class Findings:
    """Findings about a task."""

    place: RunFolder
    plan: Plan | None
    """What the gradings' journals are of; null for a benchmark without a grader."""
    benchmark: Benchmark[Any]
    usage: JudgeUsage = field(default_factory=JudgeUsage)
    """What the judge's calls of the shards that were read have cost."""

    @classmethod
    def of(
        cls, folder: RunFolder, plan: Plan, task: TaskPlan, benchmark: Benchmark[Any]
    ) -> Findings:
        """Where those of a task are."""
        if benchmark.grader is None:
            return cls(folder, None, benchmark)
        own = grading_plan(plan, task, benchmark.grading_params)
        return cls(folder.grading(task.name, own.fingerprint), own, benchmark)

    def read(self, shard: Shard) -> ShardFindings:
        """Those of one shard. Raises StoreError."""
        if self.plan is None:
            return ShardFindings(None)
        found = ShardGradings.read(self.place, self.plan, shard, self.benchmark.suffices)
        self.usage.take(found.usage)
        return ShardFindings(found)
