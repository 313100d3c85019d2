"""How much of each task is done, without reading what need not be read.

A finished shard has a marker that names its journals and their sizes; while those are as large as it
says (journals only grow), its counts hold and the journals stay closed: this is what makes the status
of a thousand shards instant. Shards without a valid marker are read in full. Nothing is written.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evalkit.benchmarks.registry import benchmark_class
from evalkit.store.markers import read_marker
from evalkit.store.union import ShardUnion

if TYPE_CHECKING:
    from evalkit.plan.model import Plan, Shard, TaskPlan
    from evalkit.store.layout import RunFolder


@dataclass(slots=True)
class TaskProgress:
    """Counts of one task over all its shards."""

    done: int = 0
    """Units with an outcome of the model's own."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Units by outcome; failures of ours are those that are still owed."""
    scored: int = 0
    """Units of finished shards whose score the worker wrote down."""
    score_sum: float = 0.0
    shards_done: int = 0


def read_progress(folder: RunFolder, plan: Plan, task: TaskPlan) -> TaskProgress:
    """Progress of one task. Raises StoreError when a journal cannot be read."""
    progress = TaskProgress()
    for shard in task.shards():
        marker = read_marker(folder, shard)
        if marker is not None and isinstance(marker.get("units"), int):
            _add_marker(progress, marker)
        elif folder.journals(shard).is_dir():
            _add_journals(progress, folder, plan, shard)
    return progress


def _add_marker(progress: TaskProgress, marker: dict[str, Any]) -> None:
    progress.shards_done += 1
    progress.done += marker["units"]
    progress.outcomes.update(marker.get("outcomes", {}))
    progress.scored += marker.get("scored", 0)
    progress.score_sum += marker.get("score_sum", 0.0)


def _add_journals(progress: TaskProgress, folder: RunFolder, plan: Plan, shard: Shard) -> None:
    task = plan.task(shard.task)
    single_call = benchmark_class(task.benchmark).single_call
    union = ShardUnion.read(folder, plan, shard, single_call=single_call)
    progress.done += len(union.finished)
    progress.outcomes.update(str(unit.outcome) for unit in union.finished.values())
    progress.outcomes.update(str(outcome) for outcome, _ in union.errors.values())
    progress.shards_done += len(union.finished) == len(list(task.units(shard)))
