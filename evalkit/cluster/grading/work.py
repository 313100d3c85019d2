"""What there is to grade of one task: finished units without a finding, shard by shard.

Graders of one task share its shards by leases, as workers do, and a lease is only a hint here too: two
graders of one shard find the same twice.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from evalkit.benchmarks.frozen import load_frozen
from evalkit.errors import StoreError
from evalkit.store.gradings import ShardGradings, grader_identity, grading_plan
from evalkit.store.leases import Leases
from evalkit.store.publish import publish_once
from evalkit.store.queue import OpenShard, WorkItem
from evalkit.store.union import ShardUnion

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from evalkit.benchmarks.contract import Benchmark, Sample
    from evalkit.plan.model import Plan, Shard, TaskPlan
    from evalkit.store.journal import JournalSet
    from evalkit.store.layout import RunFolder
    from evalkit.store.union import FinishedUnit

FOREIGN_POLL_S = 5.0


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


@dataclass(frozen=True, slots=True)
class Watching:
    """Who is told how a grading goes."""

    on_progress: Callable[[GradingProgress], None]
    """After each unit."""
    tell: Callable[[str], None]
    """Says what is waited for, in a few words."""


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

    @classmethod
    def load(
        cls, folder: RunFolder, plan: Plan, task: TaskPlan, benchmark: Benchmark[Any]
    ) -> GradingTask:
        """Read the frozen samples. Raises StoreError."""
        own = grading_plan(plan, task, benchmark.grading_params)
        place = folder.grading(task.name, own.fingerprint)
        samples = load_frozen(folder, task)
        return cls(folder, plan, task, benchmark, samples, place, own)

    def describe(self) -> dict[str, Any]:
        """What the grader is, for people who find the folder."""
        identity = grader_identity(self.task, self.benchmark.grading_params)
        return {"fingerprint": self.journal_plan.fingerprint, **identity}

    def read(self, shard: Shard) -> tuple[ShardUnion, ShardGradings]:
        """Finished units of a shard, and what was found about them. Raises StoreError."""
        union = ShardUnion.read(
            self.folder, self.plan, shard, single_call=self.benchmark.single_call
        )
        return union, ShardGradings.read(self.place, self.journal_plan, shard)

    def is_done(self) -> bool:
        """Whether no finished unit is left without a finding. Raises StoreError."""
        for shard in self.task.shards():
            union, gradings = self.read(shard)
            if gradings.owed(union.finished):
                return False
        return True


@dataclass(frozen=True, slots=True)
class GradingItem:
    """One unit to grade."""

    unit: FinishedUnit
    solution: str
    """Hash of its answer."""
    work: WorkItem
    """Its journal, with the judge's calls that are there."""


@dataclass(slots=True)
class GradingQueue:
    """Owed units of one task for one grader. Used from one event loop."""

    task: GradingTask
    attempt: str
    journals: JournalSet
    on_progress: Callable[[GradingProgress], None]
    tell: Callable[[str], None]
    graded: int = 0
    failed: int = 0
    message: str = ""
    _leases: Leases = field(init=False)
    _open: dict[OpenShard, int] = field(default_factory=dict)
    """Units of leased shards that are not done."""

    def __post_init__(self) -> None:
        self._leases = Leases(self.task.place)

    async def items(self) -> AsyncGenerator[GradingItem]:
        """All that is owed; shards that others hold come last. Raises StoreError."""
        waiting, told = self.task.task.shards(), False
        while waiting:
            foreign = []
            for shard in waiting:
                found = await self._in_thread(shard)
                if found is None:
                    foreign.append(shard)
                    continue
                for item in self._begin(shard, *found):
                    yield item
            waiting = foreign
            if waiting:
                if not told:
                    self.tell(f"{len(waiting)} shards are graded by somebody else: waiting")
                told = True
                await asyncio.sleep(FOREIGN_POLL_S)

    async def _in_thread(
        self, shard: Shard
    ) -> tuple[ShardGradings, list[tuple[FinishedUnit, str]], int] | None:
        """`_lease`, which has ended when this is cancelled: no lease comes after `close`."""
        leasing = asyncio.ensure_future(asyncio.to_thread(self._lease, shard))
        try:
            return await asyncio.shield(leasing)
        except asyncio.CancelledError:
            await asyncio.wait([leasing])
            raise

    def _lease(
        self, shard: Shard
    ) -> tuple[ShardGradings, list[tuple[FinishedUnit, str]], int] | None:
        """What a shard owes, leased where that is something, and how many are graded; None while
        somebody else holds it."""
        union, gradings = self.task.read(shard)
        owed = gradings.owed(union.finished)
        if owed:
            if not self._leases.take(shard):
                return None
            # whoever held it before may have found something since
            gradings = ShardGradings.read(self.task.place, self.task.journal_plan, shard)
            owed = gradings.owed(union.finished)
            if not owed:
                self._leases.release(shard)
        return gradings, owed, len(union.finished) - len(owed)

    def _begin(
        self,
        shard: Shard,
        gradings: ShardGradings,
        owed: list[tuple[FinishedUnit, str]],
        graded: int,
    ) -> list[GradingItem]:
        self.graded += graded
        self._tell()
        if not owed:
            return []
        path = self.task.place.journal(shard, self.attempt)
        writer = self.journals.open(path, self.task.journal_plan, shard, self.attempt)
        keys = {unit.key for unit, _ in owed}
        opened = OpenShard(shard, writer, keys, gradings.calls, {}, {})
        self._open[opened] = len(owed)
        return [GradingItem(unit, name, WorkItem(unit.key, opened)) for unit, name in owed]

    async def done(self, item: GradingItem, failure: str | None) -> None:
        """Count a unit; with its last one a shard is given back. Raises StoreError."""
        if failure is None:
            self.graded += 1
        else:
            self.failed += 1
            self.message = failure
        self._tell()
        opened = item.work.shard
        self._open[opened] -= 1
        if not self._open[opened]:
            del self._open[opened]
            await self.journals.sync()
            self.journals.release(opened.writer)
            await asyncio.to_thread(self._leases.release, opened.shard)

    def close(self) -> None:
        """Give all leases back; the journals stay the caller's."""
        self._leases.release_all()

    def _tell(self) -> None:
        task = self.task.task
        self.on_progress(
            GradingProgress(task.name, self.graded, self.failed, task.n_units, self.message)
        )


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
