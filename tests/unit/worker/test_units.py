"""Doing one unit: what a solve returns or raises ends up in the journal as what it is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.benchmarks.contract import BenchmarkParams, Sample, Solution
from evalkit.client.calls import Answer
from evalkit.client.request import RequestBuilder
from evalkit.cluster.units import TaskWork, UnitEnd, do_unit
from evalkit.errors import EndpointError, FailureKind, InfraError, ScorerError, StoreError
from evalkit.plan.model import UnitKey
from evalkit.recipe.schema import Generation
from evalkit.store.records import CallRecord, Outcome, Reply, Timing, UnitRecord
from evalkit.store.work import OpenShard, WorkItem
from tests.builders import make_plan, make_prepared, make_samples
from tests.unit.report.run_builder import Echo, ManyCallEcho

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalkit.benchmarks.contract import Benchmark, ModelHandle
    from evalkit.store.codec import Record

KEY = UnitKey(1, 0)
REFUSED = InfraError("refused with status 400", kind=FailureKind.CLIENT_ERROR)


class Journal:
    """Takes records in memory."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def append(self, record: Record) -> None:
        """As a JournalWriter."""
        self.records.append(record)


class Client:
    """Answers every call with the same, or raises."""

    keeps_tokens = False

    def __init__(self, result: Exception | str = "42") -> None:
        self.result = result
        self.calls = 0

    async def call(self, request: object, think_tags: object, tokens: object) -> Answer:
        """As a CallClient."""
        self.calls += 1
        if isinstance(self.result, Exception):
            raise self.result
        await asyncio.sleep(0)
        return Answer(Reply(Outcome.OK, self.result), Timing(1.0, 0.5))


def make_item() -> tuple[WorkItem, Journal]:
    """A unit of an open shard, and its journal."""
    journal = Journal()
    shard = make_plan().tasks[0].shards()[0]
    opened = OpenShard(shard, journal, {KEY}, {}, {}, {})  # type: ignore[arg-type]
    return WorkItem(KEY, opened), journal


async def do(
    solve: Callable[[Sample, ModelHandle], Any] | None = None,
    client: Client | None = None,
    cls: type[Echo] = ManyCallEcho,
) -> tuple[UnitEnd, list[Record]]:
    """Do one unit with this solve; its end and what was journaled."""
    benchmark: Benchmark[Any] = cls(BenchmarkParams(), "card")
    if solve is not None:
        vars(benchmark)["solve"] = solve
    plan = make_plan(make_prepared()).tasks[0]
    work = TaskWork(plan, benchmark, make_samples(2), RequestBuilder(Generation(), "m"))
    item, journal = make_item()
    end = await do_unit(work, item, client or Client())  # type: ignore[arg-type]
    return end, journal.records


async def test_single_call() -> None:
    """The call's record is the unit's; its answer comes along, for the running score."""
    end, records = await do(cls=Echo)
    assert end == UnitEnd(Outcome.OK, Solution("42"))
    [record] = records
    assert isinstance(record, CallRecord)
    assert (record.sample, record.repeat, record.call) == (1, 0, 0)


async def test_many_calls() -> None:
    """The calls, and then the unit with what the solve returned."""

    async def solve(sample: Sample, model: ModelHandle) -> Solution:
        first = await model.chat(sample.messages)
        await model.chat([{"role": "user", "content": first.content}])
        return Solution("done", data={"said": first.content}, detail="fine")

    end, records = await do(solve)
    assert end.outcome is Outcome.OK
    assert [type(record) for record in records] == [CallRecord, CallRecord, UnitRecord]
    assert records[-1] == UnitRecord(1, 0, Outcome.OK, "done", {"said": "42"}, 2, detail="fine")


@pytest.mark.parametrize(
    ("raised", "outcome", "detail", "kind"),
    [
        (InfraError("no answer"), Outcome.INFRA_ERROR, "no answer", "endpoint"),
        (REFUSED, Outcome.INFRA_ERROR, "refused with status 400", "client_error"),
        (KeyError("bug"), Outcome.SCORER_ERROR, "solve failed: KeyError('bug')", "scorer"),
        (ScorerError("odd"), Outcome.SCORER_ERROR, "solve failed: ScorerError('odd')", "scorer"),
        (RecursionError("x"), Outcome.SCORER_ERROR, "solve failed: RecursionError('x')", "scorer"),
    ],
)
async def test_solve_that_fails(
    raised: Exception, outcome: Outcome, detail: str, kind: str
) -> None:
    """A failure is journaled as ours, with its reason: the unit stays owed, and is not wrong."""

    async def solve(sample: Sample, model: ModelHandle) -> Solution:
        await model.chat(sample.messages)
        raise raised

    end, records = await do(solve)
    assert end == UnitEnd(outcome)
    assert records[-1] == UnitRecord(1, 0, outcome, "", calls=1, detail=detail, kind=kind)
    assert not outcome.is_models_own


class DrivenEcho(ManyCallEcho):
    """A program asks."""

    drives = True


async def test_program_that_asked_nothing() -> None:
    """What it left is not of the model, whatever its files say: the unit stays owed."""

    async def solve(sample: Sample, model: ModelHandle) -> Solution:
        return Solution("", data={"folder": "full of numbers"})

    end, [record] = await do(solve, cls=DrivenEcho)
    assert end == UnitEnd(Outcome.INFRA_ERROR)
    assert isinstance(record, UnitRecord)
    assert "had asked the model nothing" in (record.detail or "")

    async def asking(sample: Sample, model: ModelHandle) -> Solution:
        await model.relay("completions", {"prompt": "x"})  # type: ignore[attr-defined]
        return await solve(sample, model)

    end, records = await do(asking, cls=DrivenEcho)
    assert end.outcome is Outcome.OK
    assert len(records) == 2


@pytest.mark.parametrize("raised", [EndpointError("wrong key"), StoreError("disk full")])
async def test_failure_of_everything(raised: Exception) -> None:
    """What no other unit would survive ends the work, and journals nothing about this unit."""
    with pytest.raises(type(raised)):
        await do(client=Client(raised))


@pytest.mark.parametrize("cls", [Echo, ManyCallEcho])
@pytest.mark.parametrize("ends", ["returns", "raises"])
async def test_solve_that_passes_over_a_failed_call(cls: type[Echo], ends: str) -> None:
    """An answer that was made without one of its replies is none: the unit stays owed."""

    async def solve(sample: Sample, model: ModelHandle) -> Solution:
        try:
            await model.chat(sample.messages)
        except Exception as error:
            if ends == "raises":
                raise ValueError("no text") from error
        return Solution("made up")

    end, records = await do(solve, Client(InfraError("no answer")), cls)
    assert end == UnitEnd(Outcome.INFRA_ERROR)
    lost = UnitRecord(1, 0, Outcome.INFRA_ERROR, "", calls=1, detail="no answer", kind="endpoint")
    assert records == [lost]
    with pytest.raises(EndpointError):
        await do(solve, Client(EndpointError("wrong key")), cls)


async def test_solve_that_needs_only_the_faster_call() -> None:
    """A call that its solve gave up is named, so that nobody looks for its record."""

    async def solve(sample: Sample, model: ModelHandle) -> Solution:
        slow = asyncio.ensure_future(model.chat(sample.messages))
        slow.cancel()
        await asyncio.wait([slow])
        return Solution((await model.chat(sample.messages)).content)

    _, records = await do(solve)
    unit = records[-1]
    assert isinstance(unit, UnitRecord)
    assert (unit.outcome, unit.calls, unit.unanswered) == (Outcome.OK, 2, (0,))


@pytest.mark.parametrize("returned", [None, "text", Solution("x", data={1, 2}), Solution("\ud800")])
async def test_solution_that_is_none(returned: Any) -> None:
    """A solve that returns what cannot be written down fails its unit, and not the attempt."""

    async def solve(sample: Sample, model: ModelHandle) -> Any:
        return returned

    class Sealing(Journal):
        def append(self, record: Record) -> None:
            from evalkit.store.codec import encode, seal

            seal(encode(record))
            super().append(record)

    benchmark: Benchmark[Any] = ManyCallEcho(BenchmarkParams(), "card")
    vars(benchmark)["solve"] = solve
    plan = make_plan(make_prepared()).tasks[0]
    work = TaskWork(plan, benchmark, make_samples(2), RequestBuilder(Generation(), "m"))
    journal = Sealing()
    opened = OpenShard(plan.shards()[0], journal, {KEY}, {}, {}, {})  # type: ignore[arg-type]
    end = await do_unit(work, WorkItem(KEY, opened), Client())  # type: ignore[arg-type]
    assert end == UnitEnd(Outcome.SCORER_ERROR)
    assert [type(record) for record in journal.records] == [UnitRecord]


async def test_calls_beside_a_failed_one_write_nothing_later() -> None:
    """When the unit has ended, none of its concurrent calls can still reach the journal."""
    release = asyncio.Event()

    class Uneven(Client):
        async def call(self, request: object, think_tags: object, tokens: object) -> Answer:
            self.calls += 1
            if self.calls == 1:
                raise InfraError("no answer")
            await release.wait()
            return Answer(Reply(Outcome.OK, "late"), Timing(1.0, 0.5))

    async def solve(sample: Sample, model: ModelHandle) -> Solution:
        await asyncio.gather(*(model.chat(sample.messages) for _ in range(3)))
        raise AssertionError

    end, records = await do(solve, Uneven())
    before = list(records)
    release.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert end.outcome is Outcome.INFRA_ERROR
    assert records == before
    assert len(before) == 1


async def test_interrupted_unit_keeps_its_calls() -> None:
    """A unit that is given back does not make its finished calls again."""
    item, journal = make_item()
    hold = asyncio.Event()

    class Slow(Client):
        async def call(self, request: object, think_tags: object, tokens: object) -> Answer:
            if self.calls == 1:
                await hold.wait()
            return await super().call(request, think_tags, tokens)

    async def solve(sample: Sample, model: ModelHandle) -> Solution:
        first = await model.chat(sample.messages)
        second = await model.chat([{"role": "user", "content": first.content + "?"}])
        return Solution(second.content)

    benchmark: Benchmark[Any] = ManyCallEcho(BenchmarkParams(), "card")
    vars(benchmark)["solve"] = solve
    plan = make_plan(make_prepared()).tasks[0]
    work = TaskWork(plan, benchmark, make_samples(2), RequestBuilder(Generation(), "m"))
    client = Slow()
    doing = asyncio.create_task(do_unit(work, item, client))  # type: ignore[arg-type]
    while not journal.records:
        await asyncio.sleep(0)
    doing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await doing
    other = Client()
    await do_unit(work, item, other)  # type: ignore[arg-type]
    assert (client.calls, other.calls) == (1, 1)
    assert [type(r) for r in journal.records] == [CallRecord, CallRecord, UnitRecord]
