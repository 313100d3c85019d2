"""Durable steps: a finished step is answered from the journal, and its failure is never passed over."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.client.durable import DurableModel
from evalkit.client.request import RequestBuilder
from evalkit.client.steps import MOST_ARGUMENTS, Facilities
from evalkit.errors import InfraError, ScorerError
from evalkit.plan.model import UnitKey
from evalkit.recipe.schema import Generation
from evalkit.scoring.sandbox import CellEnding, CellOutput, CellResult, Program
from tests.unit.client.test_durable import FakeClient, FakeUnit, say

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from evalkit.store.records import StepRecord


class Unit(FakeUnit):
    """What is journaled of one unit, steps too."""

    def __init__(self, finished: Mapping[tuple[int, str], StepRecord] | None = None) -> None:
        super().__init__({})
        self.finished_steps = finished or {}
        self.steps: list[StepRecord] = []

    def keep_step(self, record: StepRecord) -> None:
        """Take a finished step."""
        self.steps.append(record)


class Clock:
    """Two seconds pass between two looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """Later each time."""
        self.now += 2.0
        return self.now

    def wall(self) -> float:
        """A day in 1970."""
        return 1000.0


class Sessions:
    """A pool whose sessions note what they run and what they are told."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def session(self) -> Sessions:
        """All sessions in one."""
        return self

    def recall(self, code: str) -> None:
        """Note it."""
        self.log.append(f"recall {code}")

    async def execute(self, code: str, timeout_s: float) -> CellResult:
        """The code is the answer."""
        self.log.append(f"run {code}")
        await asyncio.sleep(0)
        ended = CellEnding.ERROR if "1 / 0" in code else CellEnding.OK
        return CellResult(ended, f"{code}\n", "", 3, 1, 0.5)

    async def close(self) -> None:
        """Note it."""
        self.log.append("close")


def make_model(unit: Unit, *, sessions: Sessions | None = None, steps: bool = True) -> DurableModel:
    """A model handle of one unit."""
    facilities = Facilities(Clock(), sessions) if steps else None  # type: ignore[arg-type]
    builder = RequestBuilder(Generation(), "tiny")
    return DurableModel(FakeClient(), builder, None, UnitKey(7, 2), unit, facilities)  # type: ignore[arg-type]


def resumed(unit: Unit) -> Unit:
    """The same unit in another attempt."""
    return Unit({(step.step, step.digest): step for step in unit.steps})


def giving(value: Any, log: list[Any] | None = None) -> Callable[[], Awaitable[Any]]:
    """A run that gives a value, or raises it, and notes that it ran."""

    async def run() -> Any:
        if log is not None:
            log.append(value)
        await asyncio.sleep(0)
        if isinstance(value, Exception):
            raise value
        return value

    return run


async def test_step_is_journaled() -> None:
    """A step runs once, and is recorded with its unit, number, digest, result and times."""
    unit, log = Unit(), []
    model = make_model(unit)
    assert await model.step("look", {"b": 1, "a": 2}, giving({"x": (1, 2)}, log)) == {"x": [1, 2]}
    assert await model.step("look", None, giving(None, log)) is None
    first, second = unit.steps
    assert (first.sample, first.repeat, first.step, first.name) == (7, 2, 0, "look")
    assert (first.arguments, first.result) == ({"a": 2, "b": 1}, {"x": [1, 2]})
    assert (first.started, first.seconds) == (1000.0, 2.0)
    assert len(first.digest) == 32
    assert (second.step, second.arguments, second.result) == (1, None, None)
    assert (model.steps, model.undone, model.calls, len(log)) == (2, (), 0, 2)


async def test_finished_steps_do_not_run_again() -> None:
    """After an interruption the journal answers what it has, and the rest runs."""
    unit, log = Unit(), []
    first = make_model(unit)
    for number in range(2):
        await first.step("look", [number], giving(number))
    later = resumed(unit)
    second = make_model(later)
    found = [await second.step("look", [n], giving(n + 10, log)) for n in range(3)]
    assert (found, log) == ([0, 1, 12], [12])
    assert [step.step for step in later.steps] == [2]
    assert second.undone == ()


@pytest.mark.parametrize(("name", "arguments"), [("other", [0]), ("look", [1]), ("loo", "k[0]")])
async def test_another_step_under_the_same_number_runs(name: str, arguments: Any) -> None:
    """A step of another name or with other arguments is not the journaled one."""
    unit, log = Unit(), []
    await make_model(unit).step("look", [0], giving("old"))
    found = await make_model(resumed(unit)).step(name, arguments, giving("new", log))
    assert (found, log) == ("new", ["new"])


async def test_digest_knows_no_order_of_keys() -> None:
    """Arguments are the same whatever the order of their keys; calls do not shift the numbers."""
    unit = Unit()
    await make_model(unit).step("look", {"a": 1, "b": {"c": 2, "d": 3}}, giving("old"))
    model = make_model(resumed(unit))
    await model.chat(say("before"))
    found = await model.step("look", {"b": {"d": 3, "c": 2}, "a": 1}, giving("new"))
    assert found == "old"


async def test_answers_from_the_journal_are_copies() -> None:
    """What a solve does to an answer reaches neither the record nor another solve."""
    unit = Unit()
    (await make_model(unit).step("look", None, giving({"x": 1})))["x"] = 2
    later = resumed(unit)
    (await make_model(later).step("look", None, giving({})))["x"] = 3
    assert await make_model(later).step("look", None, giving({})) == {"x": 1}


async def test_numbers_are_given_when_steps_are_made() -> None:
    """Concurrent steps are numbered in the order they are written down, not in which they end."""
    unit = Unit()
    model = make_model(unit)
    later, sooner = model.step("t", "later", giving(1)), model.step("t", "sooner", giving(2))
    await sooner
    await later
    assert {step.step: step.arguments for step in unit.steps} == {0: "later", 1: "sooner"}


async def test_large_arguments_are_a_digest() -> None:
    """Arguments that are too large are not written again, and still tell steps apart."""
    unit = Unit()
    text = "x" * (MOST_ARGUMENTS - 2)
    model = make_model(unit)
    await model.step("t", text, giving(1))
    await model.step("t", text + "y", giving(2))
    assert [step.arguments for step in unit.steps] == [text, None]
    assert await make_model(resumed(unit)).step("t", text, giving(3)) == 1


async def test_exception_of_a_tool_is_the_solves() -> None:
    """What a tool raises that is no failure of ours reaches the solve, and is not journaled."""
    unit = Unit()
    model = make_model(unit)
    with pytest.raises(KeyError):
        await model.step("t", None, giving(KeyError("no")))
    assert model.failure is None
    assert (unit.steps, model.undone) == ([], (0,))


@pytest.mark.parametrize("error", [InfraError("lost"), ScorerError("lost")])
async def test_failure_of_ours_is_kept_in_mind(error: Exception) -> None:
    """A failure of ours is noted, whatever its solve makes of it."""
    model = make_model(Unit())
    with pytest.raises(type(error)):
        await model.step("t", None, giving(error))
    assert model.failure is error


@pytest.mark.parametrize("value", [{1, 2}, "\ud800", {1: 2}])
async def test_what_is_not_json_is_refused(value: Any) -> None:
    """A result or an argument that no journal can hold fails the unit and names the step."""
    for arguments, result in ((value, 1), (1, value)):
        unit = Unit()
        model = make_model(unit)
        with pytest.raises(ScorerError, match="step 'look' cannot be journaled"):
            await model.step("look", arguments, giving(result))
        assert isinstance(model.failure, ScorerError)
        assert unit.steps == []


async def test_no_call_or_step_within_a_step() -> None:
    """What would be numbered otherwise after an interruption is refused, and fails the unit."""
    for name in ("chat", "step"):
        model = make_model(Unit())

        async def run(model: DurableModel = model, name: str = name) -> Any:
            try:
                if name == "chat":
                    await model.chat(say("a"))
                await model.step("inner", None, giving(1))
            except ScorerError:
                return "passed over"

        assert await model.step("outer", None, run) == "passed over"
        assert "within step 'outer'" in str(model.failure)
        assert (await model.chat(say("a"))).content == "reply 0"


async def test_steps_and_sessions_where_there_are_none() -> None:
    """A benchmark of single calls has no steps; sessions need to be announced."""
    model = make_model(Unit(), steps=False)
    with pytest.raises(ScorerError, match="has many calls"):
        model.step("t", None, giving(1))
    with pytest.raises(ScorerError, match="uses_sessions"):
        make_model(Unit()).session()
    assert model.failure is not None


async def test_steps_that_nobody_waits_for_end() -> None:
    """Steps beside one that failed end with the unit and journal nothing."""
    unit, never = Unit(), asyncio.Event()
    model = make_model(unit)
    ended: list[str] = []

    async def hang() -> None:
        try:
            await never.wait()
        finally:
            ended.append("hung")

    with pytest.raises(InfraError):
        await asyncio.gather(
            model.step("t", 0, hang), model.step("t", 1, giving(InfraError("lost")))
        )
    await model.end()
    assert (ended, unit.steps, model.undone) == (["hung"], [], (0, 1))


async def test_cells_are_steps() -> None:
    """A cell's answer is journaled without times, and reads the same when the journal gives it."""
    unit, pool = Unit(), Sessions()
    async with make_model(unit, sessions=pool).session() as session:
        first = await session.execute("x = 1", 10)
    assert first == CellOutput(CellEnding.OK, "x = 1\n", "", 3)
    assert pool.log == ["run x = 1", "close"]
    [step] = unit.steps
    assert (step.name, step.arguments) == ("python", {"code": "x = 1", "timeout_s": 10})
    assert step.result == {"ended": "ok", "stdout": "x = 1\n", "stderr": "", "cut": 3}
    async with make_model(resumed(unit), sessions=Sessions()).session() as session:
        again = await session.execute("x = 1", 10)
    assert again == first
    assert again.text == "x = 1"


async def test_session_is_told_of_cells_it_did_not_run() -> None:
    """Successful cells that the journal answers are recalled in order; failed ones are not."""
    unit = Unit()
    cells = ["x = 1", "1 / 0", "x += 1"]
    async with make_model(unit, sessions=Sessions()).session() as session:
        await asyncio.gather(*(session.execute(cell, 10) for cell in cells))
    pool = Sessions()
    async with make_model(resumed(unit), sessions=pool).session() as session:
        await asyncio.gather(*(session.execute(cell, 10) for cell in [*cells, "x"]))
    assert pool.log == ["recall x = 1", "recall x += 1", "run x", "close"]


async def test_one_session_at_a_time() -> None:
    """A second session beside an open one is refused; after its end there may be another."""
    model = make_model(Unit(), sessions=Sessions())
    async with model.session():
        with pytest.raises(ScorerError, match="a second session"):
            model.session()
    async with model.session() as session:
        assert (await session.execute("x", 10)).text == "x"


class Programs:
    """A pool whose programs say what they were given."""

    async def run(self, program: Program) -> str:
        """The program's source."""
        await asyncio.sleep(0)
        return f"ran {program.source}"


async def test_programs_run_within_steps_only() -> None:
    """There their result is journaled as what the step makes of it; outside nothing would be."""
    unit = Unit()
    model = make_model(unit)
    model._facilities = Facilities(programs=Programs())  # type: ignore[arg-type]
    program = Program(source="1")

    async def run() -> Any:
        return [await model.run(program)]

    assert await model.step("simulate", {}, run) == ["ran 1"]
    assert [record.result for record in unit.steps] == [["ran 1"]]
    with pytest.raises(ScorerError, match="a program outside of a step"):
        await model.run(program)
    without = make_model(Unit())
    with pytest.raises(ScorerError, match="does not say `uses_programs`"):
        await without.run(program)
