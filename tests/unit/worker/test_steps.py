"""Units with steps: what a tool fails with ends the unit as what it is, and attempts add up to one story."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.benchmarks.contract import BenchmarkParams, Sample, Solution
from evalkit.client.calls import Answer
from evalkit.client.request import RequestBuilder
from evalkit.client.steps import Facilities
from evalkit.cluster.units import TaskWork, UnitEnd, do_unit
from evalkit.errors import EndpointError, InfraError, JudgeError, ScorerError
from evalkit.plan.model import Shard
from evalkit.recipe.schema import Generation
from evalkit.store.codec import encode, header, seal
from evalkit.store.layout import RunFolder
from evalkit.store.records import Outcome, Reply, StepRecord, Timing, UnitRecord
from evalkit.store.survey import survey_run
from evalkit.store.union import ShardUnion
from evalkit.store.work import OpenShard, WorkItem
from tests.builders import make_plan, make_prepared, make_samples
from tests.unit.report.run_builder import Echo, ManyCallEcho
from tests.unit.worker.test_units import KEY, Client, Journal, make_item

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalkit.benchmarks.contract import Benchmark, ModelHandle
    from evalkit.store.codec import Record

TASK = make_plan(make_prepared(n_samples=2, repeats=1)).tasks[0].model_copy(update={"n_shards": 1})
PLAN = make_plan().model_copy(update={"tasks": (TASK,)})
SHARD = Shard("addition", 0)


def make_work(solve: Callable[[Sample, ModelHandle], Any], cls: type[Echo] = ManyCallEcho) -> Any:
    """A task with this solve; of one call per unit it has no facilities."""
    benchmark: Benchmark[Any] = cls(BenchmarkParams(), "card")
    vars(benchmark)["solve"] = solve
    facilities = None if benchmark.single_call else Facilities()
    builder = RequestBuilder(Generation(), "m")
    return TaskWork(TASK, benchmark, make_samples(2), builder, facilities)


async def do(
    solve: Callable[[Sample, ModelHandle], Any], cls: type[Echo] = ManyCallEcho
) -> tuple[UnitEnd, list[Record]]:
    """Do one unit; its end, and what was journaled."""
    item, journal = make_item()
    end = await do_unit(make_work(solve, cls), item, Client())  # type: ignore[arg-type]
    return end, journal.records


def raising(error: Exception) -> Callable[[ModelHandle], Any]:
    """A step that raises."""

    async def run() -> None:
        raise error

    return lambda model: model.step("tool", None, run)


@pytest.mark.parametrize("ends", ["returns", "raises", "lets it pass"])
@pytest.mark.parametrize(
    ("error", "outcome", "kind"),
    [
        (InfraError("lost"), Outcome.INFRA_ERROR, "endpoint"),
        (ScorerError("lost"), Outcome.SCORER_ERROR, "scorer"),
        (JudgeError("lost"), Outcome.JUDGE_ERROR, "judge"),
    ],
)
async def test_failed_step(error: Exception, outcome: Outcome, kind: str, ends: str) -> None:
    """A failure of ours in a step ends the unit as ours, even where its solve made an answer."""

    async def solve(sample: Sample, model: ModelHandle) -> Solution:
        try:
            await raising(error)(model)
        except Exception as caught:
            if ends == "lets it pass":
                raise
            if ends == "raises":
                raise ValueError("no text") from caught
        return Solution("made up")

    end, records = await do(solve)
    assert end == UnitEnd(outcome)
    assert records == [UnitRecord(1, 0, outcome, "", detail="lost", kind=kind)]


async def test_step_that_finds_the_server_dead() -> None:
    """What no other unit would survive ends the work, whatever the solve makes of it."""

    async def solve(sample: Sample, model: ModelHandle) -> Solution:
        with pytest.raises(EndpointError):
            await raising(EndpointError("gone"))(model)
        return Solution("made up")

    with pytest.raises(EndpointError):
        await do(solve)


async def test_steps_of_a_single_call() -> None:
    """A unit that is its one call has no place for steps: it fails, and says what to change."""

    async def solve(sample: Sample, model: ModelHandle) -> Solution:
        with pytest.raises(ScorerError):
            await raising(ValueError())(model)
        return Solution("made up")

    end, [record] = await do(solve, Echo)
    assert end == UnitEnd(Outcome.SCORER_ERROR)
    assert isinstance(record, UnitRecord)
    assert "a benchmark with steps has many calls" in (record.detail or "")


async def test_step_that_its_solve_gave_up() -> None:
    """A step that was begun and left is named, so that nobody looks for its record."""

    async def solve(sample: Sample, model: ModelHandle) -> Solution:
        async def never() -> None:
            await asyncio.Event().wait()

        async def give() -> str:
            return "quick"

        slow = asyncio.ensure_future(model.step("slow", None, never))
        found = await model.step("quick", None, give)
        slow.cancel()
        await asyncio.wait([slow])
        return Solution(found)

    _, records = await do(solve)
    unit = records[-1]
    assert isinstance(unit, UnitRecord)
    assert (unit.text, unit.steps, unit.undone) == ("quick", 2, (0,))


@dataclass
class World:
    """A run folder, what its attempts do, and what was done."""

    root: Path
    differs: bool
    """Model and tool say something else to each attempt."""
    runs: list[tuple[int, str]] = field(default_factory=list)
    """Steps that ran: number and arguments."""
    answers: itertools.count[int] = field(default_factory=itertools.count)

    def say(self, attempt: str, asked: str) -> str:
        """An answer."""
        return f"{asked}/{attempt}{next(self.answers)}" if self.differs else f"<{asked}>"

    def folder(self) -> RunFolder:
        """Where the journals are."""
        return RunFolder(self.root)

    def union(self) -> ShardUnion:
        """What the journals say."""
        return ShardUnion.read(self.folder(), PLAN, SHARD, single_call=False)


class Attempt(Journal):
    """Solves the unit with what it read, and is killed after so many answers."""

    def __init__(self, world: World, name: str, budget: int) -> None:
        super().__init__()
        self.world, self.name, self.budget = world, name, budget
        union = world.union()
        self.is_owed = KEY not in union.finished
        self.known = set(union.steps.get(KEY, {}))
        shard = OpenShard(
            SHARD,
            self,  # type: ignore[arg-type]
            {KEY},
            union.calls,
            union.partial,
            {},
            union.steps,
        )
        self.item = WorkItem(KEY, shard)

    keeps_tokens = False

    def spend(self) -> None:
        """Dead when the budget is spent."""
        self.budget -= 1
        if self.budget < 0:
            raise asyncio.CancelledError

    async def call(self, request: Any, think_tags: object, tokens: object) -> Answer:
        """As a CallClient."""
        self.spend()
        await asyncio.sleep(0)
        text = self.world.say(self.name, f"c{request.digest[:4]}")
        return Answer(Reply(Outcome.OK, text), Timing(1.0, 0.5))

    async def solve(self, sample: Sample, model: ModelHandle) -> Solution:
        """Two rounds of a call and two concurrent steps."""
        text = ""
        for _ in range(2):
            reply = await model.chat([{"role": "user", "content": text}])
            same, other = await asyncio.gather(
                self.step(model, "same"), self.step(model, reply.content)
            )
            text = f"{text}|{reply.content}|{same}|{other}"
        return Solution(text)

    async def step(self, model: ModelHandle, asked: str) -> str:
        """A tool; a step of the same arguments comes in each round."""

        async def run() -> str:
            self.spend()
            await asyncio.sleep(0)
            self.world.runs.append((len(self.records), asked))
            return self.world.say(self.name, asked)

        found: str = await model.step("tool", asked, run)
        return found

    async def work(self) -> None:
        """Until the end, or until killed."""
        if self.is_owed:
            try:
                await do_unit(make_work(self.solve), self.item, self)  # type: ignore[arg-type]
            except asyncio.CancelledError:
                return

    def write(self, cut: int) -> None:
        """The journal as a file, without its last bytes."""
        lines = [seal(header(PLAN.fingerprint, SHARD.task, SHARD.index, self.name))]
        content = b"".join([*lines, *(seal(encode(record)) for record in self.records)])
        path = self.world.folder().journal(SHARD, self.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content[: max(0, len(content) - cut)])


names = st.sampled_from(("r0.a1", "r0.a2", "r1.a1", "r2.a1", "r10.a1"))
cuts = st.just(0) | st.integers(1, 600)
lives = st.lists(
    st.tuples(names, st.integers(0, 7), cuts), max_size=4, unique_by=lambda life: life[0]
)


def told(union: ShardUnion) -> str:
    """The text that the calls and steps of the finished unit make, in the order of `Attempt.solve`."""
    unit = union.finished[KEY]
    first, second = (call.reply.content for call in unit.calls)
    steps = [step.result for step in unit.steps]
    return f"|{first}|{steps[0]}|{steps[1]}|{second}|{steps[2]}|{steps[3]}"


@given(lives)
def test_attempts_one_after_the_other_tell_one_story(lives: list[tuple[str, int, int]]) -> None:
    """Killed anywhere, torn anywhere, with a tool that never says the same twice: what is journaled
    does not run again, and the unit's calls and steps are those its text was made of."""
    with tempfile.TemporaryDirectory() as root:
        world = World(Path(root), differs=True)
        for name, budget, cut in [*lives, ("r99.a1", 99, 0)]:
            attempt = Attempt(world, name, budget)
            before = set(attempt.known)
            asyncio.run(attempt.work())
            made = [r for r in attempt.records if isinstance(r, StepRecord)]
            assert not before & {(step.step, step.digest) for step in made}
            attempt.write(cut)
        union = world.union()
        assert union.owed(TASK, SHARD) == [key for key in TASK.units(SHARD) if key != KEY]
        assert union.finished[KEY].text == told(union)
        assert survey_run(world.folder(), PLAN, {"addition": False}).owed == {"addition": 1}


@given(lives)
def test_attempts_beside_each_other_change_nothing(lives: list[tuple[str, int, int]]) -> None:
    """Attempts that see nothing of each other do work twice; with a tool that says the same the unit
    is the one of an undisturbed run."""
    with tempfile.TemporaryDirectory() as root:
        alone = World(Path(root), differs=False)
        attempt = Attempt(alone, "r0.a1", 99)
        asyncio.run(attempt.work())
        attempt.write(0)
        expected = alone.union().finished[KEY]
    with tempfile.TemporaryDirectory() as root:
        world = World(Path(root), differs=False)
        team = [(Attempt(world, name, budget), cut) for name, budget, cut in lives]
        for attempt, cut in team:
            asyncio.run(attempt.work())
            attempt.write(cut)
        last = Attempt(world, "r99.a1", 99)
        asyncio.run(last.work())
        last.write(0)
        union = world.union()
        unit = union.finished[KEY]
        assert (unit.text, told(union)) == (expected.text, expected.text)
        assert [s.arguments for s in unit.steps] == [s.arguments for s in expected.steps]
        assert [s.digest for s in unit.steps] == [s.digest for s in expected.steps]
