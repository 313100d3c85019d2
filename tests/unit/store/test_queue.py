"""The queue: every owed unit once, whoever else works on the run, and none lost with a server."""

from __future__ import annotations

import asyncio
import errno
import subprocess
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import StoreError
from evalkit.store import leases as leases_module
from evalkit.store import queue as queue_module
from evalkit.store.journal import JournalSet
from evalkit.store.leases import Leases
from evalkit.store.markers import read_marker
from evalkit.store.queue import LOW_WATER, NONE_ARE_FEW, Few, WorkQueue
from evalkit.store.records import Outcome
from evalkit.store.run import load_plan
from evalkit.store.survey import survey_run
from evalkit.store.union import ShardUnion
from tests.builders import make_call, make_run, units_of, write_journal

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.plan.model import Shard, UnitKey
    from evalkit.store.layout import RunFolder
    from evalkit.store.work import WorkItem


class Worker:
    """A queue and its journals, as one attempt has them."""

    def __init__(self, folder: RunFolder, attempt: str = "r0.a1", few: Few = NONE_ARE_FEW) -> None:
        self.plan = load_plan(folder)
        self.journals = JournalSet()
        single = {task.name: True for task in self.plan.tasks}
        self.queue = WorkQueue(folder, self.plan, single, attempt, self.journals, few)
        self.done: list[UnitKey] = []

    async def do(self, item: WorkItem, outcome: Outcome = Outcome.OK) -> None:
        """Journal a unit and end it, with score 1 where it is scored."""
        item.shard.writer.append(make_call(item.key, outcome=outcome))
        self.done.append(item.key)
        if outcome.is_models_own:
            item.shard.add_score(1.0, 2.0)
        await self.queue.done(item, outcome)

    async def work(self, feeders: int = 4) -> None:
        """Do everything there is, several units at a time, and give all leases back."""
        await asyncio.gather(*(self._feed() for _ in range(feeders)))
        await self.end()

    async def _feed(self) -> None:
        while (item := await self.queue.next()) is not None:
            await asyncio.sleep(0)
            await self.do(item)

    async def end(self) -> None:
        """Close everything."""
        await self.queue.close()
        await self.journals.close()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linger for a moment only: leases are refreshed, looked at and given up a hundred times faster."""
    monkeypatch.setattr(queue_module, "LINGER_POLL_S", 0.01)
    monkeypatch.setattr(leases_module, "REFRESH_S", 0.05)
    monkeypatch.setattr(leases_module, "LEASE_S", 0.5)


@given(
    n=st.integers(1, 30),
    repeats=st.integers(1, 3),
    n_shards=st.integers(1, 8),
    feeders=st.integers(1, 40),
    workers=st.integers(1, 3),
    data=st.data(),
)
async def test_every_owed_unit_once(
    tmp_path_factory: pytest.TempPathFactory,
    n: int,
    repeats: int,
    n_shards: int,
    feeders: int,
    workers: int,
    data: st.DataObject,
) -> None:
    """Queues that share a run hand out all owed units between them, each once, and mark all shards."""
    folder = make_run(
        tmp_path_factory.mktemp("queue"), n, n_shards=min(n_shards, n * repeats), repeats=repeats
    )
    plan = load_plan(folder)
    task = plan.tasks[0]
    before = data.draw(st.sets(st.sampled_from(units_of(task))))
    for shard in task.shards():
        mine = [make_call(key) for key in task.units(shard) if key in before]
        if mine:
            write_journal(folder, plan, shard, "r9.a1", mine)
    team = [Worker(folder, f"r{i}.a1") for i in range(workers)]
    await asyncio.gather(*(worker.work(feeders) for worker in team))
    done = Counter(key for worker in team for key in worker.done)
    assert done == Counter(set(units_of(task)) - before)
    assert survey_run(folder, plan, {"addition": True}).owed == {"addition": 0}
    unions = [ShardUnion.read(folder, plan, s, single_call=True) for s in task.shards()]
    assert sum(union.duplicates for union in unions) == 0


async def test_markers_carry_the_counters(tmp_path: Path) -> None:
    """A finished shard's marker counts its units, those of earlier attempts included."""
    folder = make_run(tmp_path, 6, n_shards=2)
    plan = load_plan(folder)
    task = plan.tasks[0]
    shard = task.shards()[0]
    first = next(iter(task.units(shard)))
    old = [make_call(first, "", outcome=Outcome.EMPTY)]
    write_journal(folder, plan, shard, "r0.a1", old)
    await Worker(folder, "r0.a2").work()
    marker = read_marker(folder, shard)
    assert marker is not None
    names = ("units", "outcomes", "scored", "score_sum", "score_weight")
    assert {name: marker[name] for name in names} == {
        "units": 3,
        "outcomes": {"empty": 1, "ok": 2},
        "scored": 2,
        "score_sum": 2.0,
        "score_weight": 4.0,
    }
    assert set(marker["journals"]) == {"r0.a1.jsonl", "r0.a2.jsonl"}


async def test_nothing_owed_opens_nothing(tmp_path: Path) -> None:
    """A finished run gives null at once, and no journal is created."""
    folder = make_run(tmp_path, 6)
    await Worker(folder).work()
    before = sorted(folder.root.rglob("*.jsonl"))
    again = Worker(folder, "r0.a2")
    assert await again.queue.next() is None
    await again.end()
    assert sorted(folder.root.rglob("*.jsonl")) == before


async def test_unit_that_failed_keeps_its_shard_owed(tmp_path: Path) -> None:
    """A failure of ours ends the unit for this attempt; the next attempt gets it, and only it."""
    folder = make_run(tmp_path, 4, n_shards=1)
    worker = Worker(folder)
    for number in range(4):
        item = await worker.queue.next()
        assert item is not None
        await worker.do(item, Outcome.SCORER_ERROR if number == 2 else Outcome.OK)
    assert await worker.queue.next() is None
    await worker.end()
    assert read_marker(folder, worker.plan.tasks[0].shards()[0]) is None
    again = Worker(folder, "r0.a2")
    await again.work()
    assert again.done == [worker.done[2]]


async def test_given_back_unit_comes_next(tmp_path: Path) -> None:
    """What was interrupted is handed out again before anything else."""
    worker = Worker(make_run(tmp_path, 4))
    first = await worker.queue.next()
    assert first is not None
    worker.queue.give_back(first)
    assert await worker.queue.next() is first
    await worker.end()


async def test_closed_early_leaves_the_rest_to_others(tmp_path: Path) -> None:
    """A worker that stops gives its leases back with units undone; another one does those."""
    folder = make_run(tmp_path, 12, n_shards=3)
    worker = Worker(folder)
    item = await worker.queue.next()
    assert item is not None
    await worker.do(item)
    worker.queue.stop()
    assert await worker.queue.next() is None
    await worker.end()
    other = Worker(folder, "r1.a1")
    await other.work()
    assert set(other.done) == set(units_of(worker.plan.tasks[0])) - set(worker.done)


async def test_next_shard_is_leased_ahead(tmp_path: Path) -> None:
    """With few units in hand the next shards are leased while those still run, and not sooner."""
    folder = make_run(tmp_path, 4 * LOW_WATER, n_shards=4)
    worker = Worker(folder)
    shards = worker.plan.tasks[0].shards()

    def journaled() -> list[bool]:
        return [folder.journals(shard).exists() for shard in shards]

    assert await worker.queue.next() is not None
    while sum(journaled()) < 2:
        await asyncio.sleep(0)
    for _ in range(LOW_WATER - 1):
        assert await worker.queue.next() is not None
    assert journaled() == [True, True, False, False]
    await worker.end()


class SlowDisk:
    """Stands before a method of `Leases`: lets a shard be taken when told to, and not before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        original = Leases.take

        def take(leases: Leases, shard: Shard) -> bool:
            self.entered.set()
            self.go_on.wait()
            return original(leases, shard)

        monkeypatch.setattr(Leases, "take", take)


async def test_cancelled_waiter_loses_no_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that dies while a shard is being leased takes no unit of that shard along."""
    folder = make_run(tmp_path, 6, n_shards=2)
    disk = SlowDisk(monkeypatch)
    worker = Worker(folder)
    waiting = asyncio.create_task(worker.queue.next())
    await asyncio.to_thread(disk.entered.wait)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    disk.go_on.set()
    await worker.work()
    assert set(worker.done) == set(units_of(worker.plan.tasks[0]))


async def test_stop_leases_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a stop the shard that is being leased is the last; waiters get null."""
    folder = make_run(tmp_path, 8, n_shards=4)
    disk = SlowDisk(monkeypatch)
    worker = Worker(folder)
    waiting = [asyncio.create_task(worker.queue.next()) for _ in range(5)]
    await asyncio.to_thread(disk.entered.wait)
    worker.queue.stop()
    disk.go_on.set()
    assert await asyncio.gather(*waiting) == [None] * 5
    assert len(list(folder.root.rglob("*.jsonl"))) == 1
    await worker.end()


async def test_disk_that_fails_ahead_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that cannot be leased in the background is an error in the end, not a shard less."""
    folder = make_run(tmp_path, 4, n_shards=2)
    worker = Worker(folder)
    original = Leases.take

    def take(leases: Leases, shard: Shard) -> bool:
        if shard.index == 1:
            raise StoreError("cannot lease the second shard")
        return original(leases, shard)

    monkeypatch.setattr(Leases, "take", take)
    with pytest.raises(StoreError, match="the second shard"):
        await worker.work(1)
    assert len(worker.done) == 2
    await worker.end()


async def test_lingers_for_the_dead_only(tmp_path: Path) -> None:
    """Shards of a living worker are left to it as soon as it is seen alive."""
    folder = make_run(tmp_path, 6, n_shards=2)
    alive = Leases(folder)
    shards = load_plan(folder).tasks[0].shards()
    assert alive.take(shards[1])
    worker = Worker(folder)
    await worker.work()
    assert set(worker.done) == set(worker.plan.tasks[0].units(shards[0]))
    alive.release_all()


async def test_stays_for_a_task(tmp_path: Path) -> None:
    """For a task that it stays for it waits, idle, until somebody else is done with it, or gives it up."""
    folder = make_run(tmp_path, 6, n_shards=2)
    first, second = load_plan(folder).tasks[0].shards()
    other, third = Worker(folder, "r1.a1"), Leases(folder)
    assert third.take(second)
    item = await other.queue.next()
    assert item is not None
    worker = Worker(folder)
    worker.queue.stay_for = frozenset({"addition"})
    working = asyncio.create_task(worker.work())
    while not worker.queue.is_idle:
        await asyncio.sleep(0.01)
    assert worker.done == []
    third.release_all()  # given up, and not done
    while len(worker.done) < 3:
        await asyncio.sleep(0.01)
    assert set(worker.done) == set(worker.plan.tasks[0].units(second))
    assert not working.done()
    await other.do(item)
    await other.work()
    await working
    assert set(other.done) == set(worker.plan.tasks[0].units(first))


async def test_stays_although_it_gave_up_waiting(tmp_path: Path) -> None:
    """One that came when all was leased to the living may still wait for them, for a task that it can help with."""
    folder = make_run(tmp_path, 6, n_shards=2)
    alive = Leases(folder)
    first, second = load_plan(folder).tasks[0].shards()
    assert alive.take(first)
    assert alive.take(second)
    worker = Worker(folder)
    assert await worker.queue.next() is None
    assert not worker.queue.stay(frozenset({"another"}))
    assert worker.queue.stay(frozenset({"addition"}))
    assert not worker.queue.stay(frozenset({"addition"})), "they are waited for once"
    working = asyncio.create_task(worker.work())
    while not worker.queue.is_idle:
        await asyncio.sleep(0.01)
    alive.release_all()
    await working
    assert set(worker.done) == set(units_of(worker.plan.tasks[0]))


async def test_takes_over_from_the_killed(tmp_path: Path) -> None:
    """A shard that a killed worker of this host had leased is done by the one that is left."""
    folder = make_run(tmp_path, 6, n_shards=2)
    program = (
        "import os, sys; from pathlib import Path; from evalkit.plan.model import Shard\n"
        "from evalkit.store import leases; from evalkit.store.layout import RunFolder\n"
        "leases.REFRESH_S, leases.LEASE_S = 0.05, 0.5\n"
        "assert leases.Leases(RunFolder(Path(sys.argv[1]))).take(Shard('addition', 0))\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    worker = Worker(folder)
    await worker.work()
    assert set(worker.done) == set(units_of(worker.plan.tasks[0]))


async def test_takes_over_from_one_killed_while_leasing(tmp_path: Path) -> None:
    """An empty lease, as a kill in the wrong moment leaves it, does not keep a run from its end."""
    folder = make_run(tmp_path, 6, n_shards=2)
    lease = folder.lease(load_plan(folder).tasks[0].shards()[1])
    lease.parent.mkdir(parents=True)
    lease.touch()
    worker = Worker(folder)
    await worker.work()
    assert set(worker.done) == set(units_of(worker.plan.tasks[0]))


async def test_full_disk_at_the_end_of_a_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard whose last lines cannot be synced is not marked as done."""
    folder = make_run(tmp_path, 1)
    worker = Worker(folder)
    item = await worker.queue.next()
    assert item is not None

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.write", full)
        with pytest.raises(StoreError, match="No space left on device"):
            await worker.do(item)
    await worker.queue.close()
    with pytest.raises(StoreError):
        await worker.journals.close()
    assert read_marker(folder, item.shard.shard) is None
    assert survey_run(folder, worker.plan, {"addition": True}).owed == {"addition": 1}


async def test_longest_task_first(tmp_path: Path) -> None:
    """Shards are leased in the plan's order; a queue hands out only the tasks it was given."""
    folder = make_run(tmp_path, 9)
    plan = load_plan(folder)
    journals = JournalSet()
    queue = WorkQueue(folder, plan, {}, "r0.a1", journals)
    assert await queue.next() is None
    await queue.close()
    worker = Worker(folder)
    await worker.work(1)
    assert worker.done == [
        key for shard in plan.tasks[0].shards() for key in plan.tasks[0].units(shard)
    ]


async def test_few_places(tmp_path: Path) -> None:
    """Of what needs a place no more is leased than there are, so that others have their share; feeders
    wait for one to be free, failures are tried again, and nobody waits when all is stopped."""
    folder = make_run(tmp_path, 7, n_shards=7)
    few = Few(frozenset({"addition"}), 2)
    first, second = Worker(folder, "r0.a1", few), Worker(folder, "r1.a1", few)
    items = [await first.queue.next(), await first.queue.next()]
    third = asyncio.create_task(first.queue.next())
    others = [await second.queue.next(), await second.queue.next()]
    assert [item.key.sample for item in (*items, *others) if item] == [0, 1, 2, 3]
    assert not third.done()
    assert not first.queue.is_idle
    [one, two], [three, four] = items, others
    assert one is not None
    assert two is not None
    assert three is not None
    assert four is not None
    await first.do(one, Outcome.INFRA_ERROR)
    await first.do(two)
    item = await third
    assert item is not None
    assert item.key.sample == 4
    await first.do(item)
    await asyncio.gather(second.do(three), second.do(four))
    await asyncio.gather(first.work(), second.work())
    assert sorted(key.sample for key in first.done + second.done) == [0, 0, 1, 2, 3, 4, 5, 6]
    assert survey_run(folder, first.plan, {"addition": True}).total == 0


async def test_who_waits_for_a_place_hears_of_the_end(tmp_path: Path) -> None:
    """A worker that drains does not wait for its programs' places."""
    worker = Worker(make_run(tmp_path, 3, n_shards=3), few=Few(frozenset({"addition"}), 1))
    item = await worker.queue.next()
    assert item is not None
    waiting = asyncio.create_task(worker.queue.next())
    await asyncio.sleep(0)
    worker.queue.stop()
    assert await waiting is None
    await worker.end()


async def test_units_without_an_answer_are_tried_once_more(tmp_path: Path) -> None:
    """A storm costs no second submit: what failed in it is handed out again when all else is done."""
    folder = make_run(tmp_path, 6, n_shards=2)
    worker = Worker(folder)
    order: list[UnitKey] = []
    while (item := await worker.queue.next()) is not None:
        order.append(item.key)
        is_storm = item.key.sample in (0, 3) and order.count(item.key) == 1
        await worker.do(item, Outcome.INFRA_ERROR if is_storm else Outcome.OK)
    await worker.end()
    assert [key.sample for key in order[6:]] == [0, 3]
    assert survey_run(folder, worker.plan, {"addition": True}).total == 0
    assert all(read_marker(folder, shard) for shard in worker.plan.tasks[0].shards())


@pytest.mark.parametrize("outcome", [Outcome.INFRA_ERROR, Outcome.SCORER_ERROR])
async def test_no_third_pass(tmp_path: Path, outcome: Outcome) -> None:
    """What fails again stays owed, and a bug of a benchmark is not tried again here at all."""
    folder = make_run(tmp_path, 3, n_shards=1)
    worker = Worker(folder)
    given_out: Counter[UnitKey] = Counter()
    while (item := await worker.queue.next()) is not None:
        given_out[item.key] += 1
        await worker.do(item, outcome if item.key.sample == 1 else Outcome.OK)
    await worker.end()
    again = 2 if outcome is Outcome.INFRA_ERROR else 1
    assert sorted(given_out.values()) == [1, 1, again]
    assert survey_run(folder, worker.plan, {"addition": True}).total == 1
    [shard] = worker.plan.tasks[0].shards()
    assert read_marker(folder, shard) is None
    assert not folder.lease(shard).exists()


async def test_second_pass_keeps_calls_and_tokens(tmp_path: Path) -> None:
    """The calls of a unit that were answered in the first pass are not made again."""
    folder = make_run(tmp_path, 1, n_shards=1)
    worker = Worker(folder)
    item = await worker.queue.next()
    assert item is not None
    item.keep(make_call(item.key, call=0, request="first"))
    chain = item.tokens(1, "second").begin()
    chain.begin([1])
    chain.add([2])
    await worker.queue.done(item, Outcome.INFRA_ERROR)
    again = await worker.queue.next()
    assert again is not None
    assert list(again.finished_calls) == [(0, "first")]
    assert again.tokens(1, "second").load() is chain
    await worker.end()
