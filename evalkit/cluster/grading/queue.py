"""Owed units of one task for one grader, shard by shard.

Graders of one task share its shards by leases, as workers do, and a lease is only a hint here too: two
graders of one shard find the same twice. A shard that is graded as a whole gets a marker for status.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from evalkit.benchmarks.contract import Solution
from evalkit.cluster.grading.work import GradingProgress
from evalkit.cluster.running_score import ScoreBudget, UnitScore, try_score
from evalkit.errors import StoreError
from evalkit.store.gradings import (
    GradingCounters,
    ShardGradings,
    mark_graded,
    read_graded,
    scored_as,
    solution_hash,
)
from evalkit.store.leases import Leases
from evalkit.store.work import OpenShard, WorkItem

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from evalkit.benchmarks.contract import Benchmark, Sample
    from evalkit.cluster.grading.work import GradingTask
    from evalkit.cluster.replica_report import TaskTally
    from evalkit.plan.model import Shard
    from evalkit.store.journal import JournalSet
    from evalkit.store.records import GradingRecord
    from evalkit.store.union import FinishedUnit, ShardUnion

FOREIGN_POLL_S = 5.0


@dataclass(frozen=True, slots=True)
class GradingItem:
    """One unit to grade."""

    unit: FinishedUnit
    solution: str
    """Hash of its answer."""
    work: WorkItem
    """Its journal, with the judge's calls that are there."""


@dataclass(slots=True)
class LeasedShard:
    """A shard with what is known of its units."""

    shard: Shard
    gradings: ShardGradings
    owed: list[tuple[FinishedUnit, str]]
    """Units, with the hash of their answer, that nothing was found about yet."""
    counters: GradingCounters
    """Of its graded units."""
    is_whole: bool
    """Every planned unit is finished."""
    left: int = 0
    """Units that this grader is not done with."""
    failed: int = 0


@dataclass(slots=True)
class GradingQueue:
    """Owed units of one task for one grader. Used from one event loop."""

    task: GradingTask
    attempt: str
    journals: JournalSet
    on_progress: Callable[[GradingProgress], None]
    tell: Callable[[str], None]
    tally: TaskTally
    """What status is told: the scores of all graded units, and what this grader did."""
    graded: int = 0
    now: int = 0
    failed: int = 0
    message: str = ""
    is_dry: bool = False
    """Nothing was left to hand out before anybody asked to stop."""
    _leases: Leases = field(init=False)
    _open: dict[OpenShard, LeasedShard] = field(default_factory=dict)
    _budget: ScoreBudget = field(default_factory=ScoreBudget)
    _is_stopped: bool = False

    def __post_init__(self) -> None:
        self._leases = Leases(self.task.place)

    async def items(self) -> AsyncGenerator[GradingItem]:
        """All that is owed; shards that others hold come last. Raises StoreError."""
        async for leased in self._shards():
            for item in self._begin(leased):
                if self._is_stopped:
                    return
                yield item
        self.is_dry = not self._is_stopped

    async def _shards(self) -> AsyncGenerator[LeasedShard]:
        """One after the other, until all were had or somebody asked to stop."""
        waiting, told = self.task.task.shards(), False
        while waiting:
            foreign = []
            for shard in waiting:
                if self._is_stopped:
                    return
                found = await self._in_thread(shard)
                if found is None:
                    foreign.append(shard)
                else:
                    yield found
            waiting = foreign
            if waiting:
                if not told:
                    self.tell(f"{len(waiting)} shards are graded by somebody else: waiting")
                told = True
                await asyncio.sleep(FOREIGN_POLL_S)

    def stop(self) -> None:
        """Hand out nothing more."""
        self._is_stopped = True

    async def _in_thread(self, shard: Shard) -> LeasedShard | None:
        """`_lease`, which has ended when this is cancelled: no lease comes after `close`."""
        leasing = asyncio.ensure_future(asyncio.to_thread(self._lease, shard))
        try:
            return await asyncio.shield(leasing)
        except asyncio.CancelledError:
            await asyncio.wait([leasing])
            raise

    def _lease(self, shard: Shard) -> LeasedShard | None:
        """A shard, leased where something of it is owed; None while somebody else holds it."""
        union, gradings = self.task.read(shard)
        owed = gradings.owed(union.finished)
        if owed:
            if not self._leases.take(shard):
                return None
            # whoever held it before may have found something since
            gradings = self.task.read_findings(shard)
            owed = gradings.owed(union.finished)
            if not owed:
                self._leases.release(shard)
        n_planned = sum(1 for _ in self.task.task.units(shard))
        is_whole = len(union.finished) == n_planned
        counters = self._count(shard, union, gradings)
        leased = LeasedShard(shard, gradings, owed, counters, is_whole, len(owed))
        if not owed and self._marker(shard) is None:
            self._mark(leased)
        return leased

    def _marker(self, shard: Shard) -> dict[str, Any] | None:
        """A marker that can be believed, with scores as they are of this task."""
        marker = read_graded(self.task.folder, self.task.place, shard)
        same = marker is not None and marker.get("as") == scored_as(self.task.task)
        return marker if same else None

    def _count(self, shard: Shard, union: ShardUnion, gradings: ShardGradings) -> GradingCounters:
        """What was found before, counted as a status will show it."""
        if (marker := self._marker(shard)) is not None:
            names = ("units", "scored", "score_sum", "score_weight")
            return GradingCounters(**{name: marker[name] for name in names})
        counters = GradingCounters()
        for unit in union.finished.values():
            name = (unit.key, solution_hash(unit))
            if name in gradings.found:
                score = self._score(unit, gradings.found[name], try_score)
                counters.add(*(score or (None,)))
        return counters

    def _score(
        self,
        unit: FinishedUnit,
        found: Any,
        score: Callable[[Benchmark[Any], Sample, Solution], UnitScore | None],
    ) -> UnitScore | None:
        benchmark = self.task.benchmark
        if not self.task.is_shown or benchmark.parallel_scoring:
            return None
        solution = Solution(unit.text, unit.outcome, unit.data, unit.detail, found)
        return score(benchmark, self.task.samples[unit.key.sample], solution)

    def _begin(self, leased: LeasedShard) -> list[GradingItem]:
        counters = leased.counters
        self.graded += counters.units
        self.tally.scored += counters.scored
        self.tally.score_sum += counters.score_sum
        self.tally.score_weight += counters.score_weight
        self._tell()
        if not leased.owed:
            return []
        shard = leased.shard
        path = self.task.place.journal(shard, self.attempt)
        writer = self.journals.open(path, self.task.journal_plan, shard, self.attempt)
        keys = {unit.key for unit, _ in leased.owed}
        opened = OpenShard(shard, writer, keys, leased.gradings.calls, {}, {})
        self._open[opened] = leased
        return [GradingItem(unit, name, WorkItem(unit.key, opened)) for unit, name in leased.owed]

    async def done(self, item: GradingItem, record: GradingRecord) -> None:
        """Count a unit; with its last one a shard is given back. Raises StoreError."""
        opened = item.work.shard
        leased = self._open[opened]
        self.tally.add(record.outcome)
        if record.outcome.is_models_own:
            self.graded += 1
            self.now += 1
            found = orjson.loads(orjson.dumps(record.found))  # as a gather will read it
            score = self._score(item.unit, found, self._budget.score)
            leased.counters.add(*(score or (None,)))
            if score is not None:
                self.tally.add_score(*score)
        else:
            self.failed += 1
            leased.failed += 1
            self.message = record.detail or ""
        self._tell()
        leased.left -= 1
        if not leased.left:
            del self._open[opened]
            await self.journals.sync()
            self.journals.release(opened.writer)
            await asyncio.to_thread(self._give_back, leased)

    def _give_back(self, leased: LeasedShard) -> None:
        if not leased.failed:
            self._mark(leased)
        self._leases.release(leased.shard)

    def _mark(self, leased: LeasedShard) -> None:
        """Leave a marker for status at a shard that is graded as a whole, as the run itself reads it."""
        task = self.task
        if leased.is_whole and task.is_shown:
            label = scored_as(task.task)
            with contextlib.suppress(StoreError):  # a hint: status reads the journals then
                mark_graded(task.folder, task.place, leased.shard, leased.counters, label)

    def close(self) -> None:
        """Give all leases back; the journals stay the caller's."""
        self._leases.release_all()

    def _tell(self) -> None:
        task, tally = self.task.task, self.tally
        score = tally.score_sum / tally.score_weight if tally.score_weight else None
        self.on_progress(
            GradingProgress(
                task.name, self.graded, self.failed, task.n_units, self.message, self.now, score
            )
        )
