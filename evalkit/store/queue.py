"""The queue: hands one worker the owed units of one run, shard by shard, without barriers.

It walks the shards in the plan's order (longest work first), leases each that is free and not done,
reads what its journals already hold and gives out the rest. The next shards are leased while the
last ones still run, so the server is never left without work at a boundary. When the walk is over,
units that got no answer are handed out once more, for a storm may have passed by then; after that it
lingers only for leases of others that are not seen alive, and for tasks that it is told to stay for; then
there is nothing left for this worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from evalkit.store.leases import Leases
from evalkit.store.markers import doubt_marker, read_marker, write_marker
from evalkit.store.reading import JournalProblem
from evalkit.store.records import Outcome
from evalkit.store.union import ShardUnion
from evalkit.store.work import OpenShard, WorkItem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from evalkit.plan.model import Plan, Shard, UnitKey
    from evalkit.store.journal import JournalSet
    from evalkit.store.layout import RunFolder

log = logging.getLogger("evalkit.worker")

LINGER_POLL_S = 1.0
LOW_WATER = 16
"""Units left in hand below which the next shard is leased in the background: a lease takes
milliseconds, in which a fast server answers dozens of calls. Small, so that at the end of a run the
last shards are spread over the replicas."""


class Few(NamedTuple):
    """Tasks whose units need a place on the node, and how many there are for all of them."""

    tasks: frozenset[str] = frozenset()
    places: int = 0


NONE_ARE_FEW = Few()


class WorkQueue:
    """Owed units of the given tasks for one attempt. Used from one event loop."""

    def __init__(
        self,
        folder: RunFolder,
        plan: Plan,
        single_call: Mapping[str, bool],
        attempt: str,
        journals: JournalSet,
        few: Few = NONE_ARE_FEW,
    ) -> None:
        """`single_call` names the tasks to work on, and says which make one call per unit. Of `few` no more
        shards are leased than have a place here: others may have one, and the next comes when one is over."""
        self._folder = folder
        self._plan = plan
        self._single_call = single_call
        self._attempt = attempt
        self._journals = journals
        self._leases = Leases(folder)
        self.stay_for: frozenset[str] = frozenset()
        """Tasks whose units, while somebody else does them, are worth waiting for: with nothing to lease the
        queue stays until those shards are done, and takes over one whose lease ends."""
        self._walk = iter(self._shards())
        self._few = few
        self._held: deque[Shard] = deque()
        """Shards of the walk without a place."""
        self._freed = asyncio.Event()
        self._foreign: list[Shard] = []
        self._left: list[Shard] = []
        """Those that were left to others, who were seen alive."""
        self._ready: deque[WorkItem] = deque()
        self._open: set[OpenShard] = set()
        self._again: deque[OpenShard] = deque()
        self._walked = False
        self._closed = False
        self._fetch: asyncio.Task[bool] | None = None

    def _shards(self) -> Iterable[Shard]:
        for task in self._plan.tasks:
            if task.name in self._single_call:
                yield from task.shards()

    async def next(self) -> WorkItem | None:
        """The next unit, or null when this worker has nothing left to do. Raises StoreError."""
        while not self._closed:
            if self._ready:
                item = self._ready.popleft()
                if len(self._ready) < LOW_WATER and not self._walked:
                    self._fetching()
                return item
            freed = self._freed
            # Shielded: who waits may be cancelled with its server, and a shard that was taken from
            # the walk by then must still be handed out.
            if not await asyncio.shield(self._fetching()) and not self._ready:
                if not self._held:
                    return None
                await freed.wait()
        return None

    def _fetching(self) -> asyncio.Task[bool]:
        """The one task that leases shards; it goes on although nobody waits for it."""
        if self._fetch is None or (self._fetch.done() and not _failed(self._fetch)):
            self._fetch = asyncio.create_task(self._fetch_shards())
        return self._fetch

    async def _fetch_shards(self) -> bool:
        """Lease one more shard with owed units. False when there is none for us."""
        while not self._closed and not self._walked:
            shard = self._next_shard()
            if shard is None:
                if self._held:
                    break
                self._walked = True
            elif await self._open_shard(shard):
                return True
        if not self._ready and self._again and not self._closed:
            self._begin_second_pass(self._again.popleft())
        if self._held:
            return bool(self._ready)
        return bool(self._ready) or await self._linger()

    def _next_shard(self) -> Shard | None:
        """The next that may be leased; null when there is none, or none has a place."""
        taken = sum(opened.shard.task in self._few.tasks for opened in self._open)
        has_place = taken < self._few.places
        if self._held and has_place:
            return self._held.popleft()
        for shard in self._walk:
            if has_place or shard.task not in self._few.tasks:
                return shard
            self._held.append(shard)
        return None

    def _begin_second_pass(self, shard: OpenShard) -> None:
        shard.is_second_pass = True
        shard.open = set(shard.unanswered)
        shard.failed -= len(shard.unanswered)
        self._ready.extend(WorkItem(key, shard) for key in shard.unanswered)
        log.info("%s: %d units without an answer again", shard.shard, len(shard.unanswered))

    @property
    def is_idle(self) -> bool:
        """Nothing is handed out, and nothing is left to lease: it waits for what others do."""
        return self._walked and not self._ready and not self._open and not self._again

    def stay(self, tasks: frozenset[str]) -> bool:
        """Stay for these tasks, also where `next` gave up waiting for them; whether there is any such shard."""
        self.stay_for = tasks
        again = [shard for shard in self._left if shard.task in tasks]
        self._left = [shard for shard in self._left if shard.task not in tasks]
        self._foreign += again
        return bool(again)

    def give_back(self, item: WorkItem) -> None:
        """A unit that was interrupted and is still to do."""
        self._ready.appendleft(item)

    def stop(self) -> None:
        """Hand out nothing more."""
        self._closed = True
        self._free()

    async def close(self) -> None:
        """Give all leases back; the journals stay the caller's."""
        self.stop()
        if self._fetch is not None:
            await asyncio.wait([self._fetch])
            if _failed(self._fetch):
                log.warning("leasing ended before: %s", self._fetch)
        await asyncio.to_thread(self._leases.release_all)

    async def done(self, item: WorkItem, outcome: Outcome) -> None:
        """A unit's record is journaled; with its last unit a shard is closed. Raises StoreError."""
        shard = item.shard
        shard.open.discard(item.key)
        if outcome.is_models_own:
            shard.calls.pop(item.key, None)
            shard.steps.pop(item.key, None)
            shard.partial.pop(item.key, None)
            shard.outcomes[outcome.value] = shard.outcomes.get(outcome.value, 0) + 1
        else:
            shard.failed += 1
            if outcome is Outcome.INFRA_ERROR and not shard.is_second_pass:
                shard.unanswered.append(item.key)
        if not shard.open:
            await self._close_shard(shard)
            self._free()

    def _free(self) -> None:
        """Who waits for a place looks again."""
        self._freed.set()
        self._freed = asyncio.Event()

    async def _close_shard(self, shard: OpenShard) -> None:
        if shard.unanswered and not shard.is_second_pass:
            self._again.append(shard)  # its lease and journal stay ours
            return
        self._open.discard(shard)
        await self._journals.sync()
        self._journals.release(shard.writer)
        await asyncio.to_thread(self._finish_on_disk, shard)

    def _finish_on_disk(self, shard: OpenShard) -> None:
        if not shard.failed:
            counters = {
                "units": sum(shard.outcomes.values()),
                "outcomes": shard.outcomes,
                "scored": shard.scored,
                "score_sum": shard.score_sum,
                "score_weight": shard.score_weight,
            }
            write_marker(self._folder, shard.shard, counters)
        self._leases.release(shard.shard)

    async def _linger(self) -> bool:
        while self._foreign and not self._closed:
            for shard in list(self._foreign):
                stays = shard.task in self.stay_for
                if not stays and await asyncio.to_thread(self._leases.is_alive, shard):
                    self._foreign.remove(shard)
                    self._left.append(shard)
                elif await self._open_shard(shard):
                    self._foreign.remove(shard)
                    return True
            if self._foreign:
                await asyncio.sleep(LINGER_POLL_S)
        return False

    async def _open_shard(self, shard: Shard) -> bool:
        found = await asyncio.to_thread(self._lease_and_read, shard)
        if found is None:
            return False
        union, owed = found
        writer = self._journals.open(
            self._folder.journal(shard, self._attempt), self._plan, shard, self._attempt
        )
        outcomes: dict[str, int] = {}
        for unit in union.finished.values():
            name = unit.outcome.value
            outcomes[name] = outcomes.get(name, 0) + 1
        opened = OpenShard(
            shard, writer, set(owed), union.calls, union.partial, outcomes, union.steps
        )
        self._open.add(opened)
        self._ready.extend(WorkItem(key, opened) for key in owed)
        return True

    def _lease_and_read(self, shard: Shard) -> tuple[ShardUnion, list[UnitKey]] | None:
        """Union and owed units of a shard that is now ours; null when there is nothing to do."""
        if read_marker(self._folder, shard) is not None:
            self._forget(shard)
            return None
        if not self._leases.take(shard):
            if shard not in self._foreign:
                self._foreign.append(shard)
            return None
        single_call = self._single_call[shard.task]
        union = ShardUnion.read(self._folder, self._plan, shard, single_call=single_call)
        owed = union.owed(self._plan.task(shard.task), shard)
        self._warn(shard, union)
        if owed:
            return union, owed
        self._leases.release(shard)
        self._forget(shard)
        return None

    def _warn(self, shard: Shard, union: ShardUnion) -> None:
        """Damage that was found goes to the worker's log. A torn last line is none."""
        for text in (doubt_marker(self._folder, shard), *union.problems):
            if text is not None and not (isinstance(text, JournalProblem) and text.torn):
                log.warning("%s; what has no other record is done again", text)

    def _forget(self, shard: Shard) -> None:
        if shard in self._foreign:
            self._foreign.remove(shard)


def _failed(task: asyncio.Task[bool]) -> bool:
    return task.cancelled() or task.exception() is not None
