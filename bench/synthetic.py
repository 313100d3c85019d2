"""A large run as if it had been worked on: real plan and frozen requests, made-up replies.

The journals hold one record of every unit but the last one, which is still owed. Records are as large
as those of short answers (about half a kilobyte); longer answers cost reading, not more records.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from bench.nginx import MODEL
from bench.runs import addition_recipe, prepare
from bench.sides import GENERATION
from evalkit.store.codec import encode, header, seal
from evalkit.store.layout import attempt_id
from evalkit.store.markers import remove_marker, write_marker
from evalkit.store.records import CallRecord, Outcome, Reply, Timing, Usage

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.plan.model import Plan, Shard, TaskPlan, UnitKey
    from evalkit.store.layout import RunFolder

OLD = attempt_id("r0", 0)
"""The attempt that did all the work."""
_TEXT = "Adding the ones, then the tens and then the hundreds gives the result. " * 3


def make_large_run(url: str, samples: int, repeats: int, folder: Path) -> tuple[RunFolder, Plan]:
    """A run of samples x repeats units with all but the last one journaled. Takes 20 s a million."""
    recipe = addition_recipe(f"{url}/checked/v1", MODEL, samples, 64, GENERATION)
    recipe["tasks"]["addition"]["repeats"] = repeats
    run = prepare(recipe, folder)
    [task] = run.plan.tasks
    for shard in task.shards():
        owed = last_unit(task) if shard.index == last_shard(task).index else None
        lines = [seal(header(run.plan.fingerprint, task.name, shard.index, OLD))]
        lines += [seal(encode(_record(key))) for key in task.units(shard) if key != owed]
        path = run.folder.journal(shard, OLD)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"".join(lines))
    return run.folder, run.plan


def last_unit(task: TaskPlan) -> UnitKey:
    """The unit that is still owed."""
    return task.unit(task.n_units - 1)


def last_shard(task: TaskPlan) -> Shard:
    """The shard of that unit."""
    return task.shards()[task.shard_of(last_unit(task))]


def mark_done(folder: RunFolder, task: TaskPlan) -> None:
    """Write the markers a worker leaves for finished shards."""
    for shard in task.shards():
        if shard.index != last_shard(task).index:
            units = len(range(shard.index, task.n_units, task.n_shards))
            counters = {"units": units, "outcomes": {"ok": units}, "scored": units}
            write_marker(folder, shard, {**counters, "score_sum": units / 2})


def undo(folder: RunFolder, task: TaskPlan) -> None:
    """Take back what a resume did, and all markers."""
    for shard in task.shards():
        remove_marker(folder, shard)
    for path in folder.journals(last_shard(task)).iterdir():
        if path != folder.journal(last_shard(task), OLD):
            path.unlink()
    shutil.rmtree(folder.replica_logs("r0"))


def _record(key: UnitKey) -> CallRecord:
    return CallRecord(
        sample=key.sample,
        repeat=key.repeat,
        call=0,
        request=f"{key.sample:032x}",
        reply=Reply(
            outcome=Outcome.OK,
            content=f"{_TEXT}So the answer is \\boxed{{{(key.sample + key.repeat) % 1999}}}.",
            finish_reason="stop",
            usage=Usage(26, 62, None),
        ),
        timing=Timing(1760000000.0 + key.sample / 1000, 1.25),
    )
