"""The Python tool's dialogue with a real session: what a model sees of its own code, and counts of it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.benchmarks.registry import make_benchmark
from evalkit.client.calls import Answer
from evalkit.client.durable import DurableModel
from evalkit.client.request import RequestBuilder
from evalkit.client.steps import Facilities
from evalkit.plan.model import UnitKey
from evalkit.recipe.schema import Generation
from evalkit.scoring.sandbox import SessionPool
from evalkit.store.records import Timing
from tests.integration.sandbox.sandboxes import make_sandbox
from tests.unit.benchmarks.test_python_tool import call, counted, load, say
from tests.unit.client.test_steps import Unit, resumed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from evalkit.benchmarks.contract import Solution
    from evalkit.store.records import Reply

LIMIT_S = 5
"""For a cell: IPython takes its time over a first traceback."""
ROUNDS = (
    [call("import numpy as np, sympy, scipy, pandas, h5py, tqdm\nx = np.arange(3)\nint(x.sum())")],
    [
        call("sympy.factorint(2025)"),
        call("print('y' * 1500)", number=1),
        call("x[5]", number=2),
        call("import time; x = 0; time.sleep(60)", number=3),
    ],
    [call("import os; x = 1; os._exit(3)")],
    [call("x")],
)
SHOWN = (
    ["3"],
    [
        "{3: 4, 5: 2}",
        "y" * 1000 + "<output cut>",
        "IndexError: index 5 is out of bounds for axis 0 with size 3",
        f"Execution timed out after {LIMIT_S} seconds",
    ],
    ["connection closed"],
    ["array([0, 1, 2])"],
)
"""The last line of each result. What a cell that timed out or died has done is not done again."""


class Scripted:
    """A client that gives one reply after the other."""

    keeps_tokens = False

    def __init__(self) -> None:
        self.replies = [*(say("", *calls) for calls in ROUNDS), say(r"\boxed{7}")]
        self.sent = 0

    async def call(self, request: object, think_tags: object, tokens: object) -> Answer:
        """By what was sent before."""
        reply: Reply = self.replies[self.sent]
        self.sent += 1
        return Answer(reply, Timing(1.0, 0.5))


@asynccontextmanager
async def pool_in(folder: Path) -> AsyncIterator[SessionPool]:
    """Sessions as the benchmark asks for them."""
    needs = make_benchmark("aime2025_tools", {}, "card").sandbox()
    sandbox = make_sandbox("bwrap-nested", folder)
    running = SessionPool(lambda: sandbox, preload=needs.preload, cores=2)
    try:
        yield running
    finally:
        await running.close()


async def solve(unit: Unit, pool: SessionPool) -> Solution:
    """The first problem of AIME."""
    benchmark: Any = make_benchmark("aime2025_tools", {"timeout_s": LIMIT_S}, "card")
    builder = RequestBuilder(Generation(), "m")
    facilities = Facilities(sessions=pool)
    model = DurableModel(Scripted(), builder, None, UnitKey(0, 0), unit, facilities)  # type: ignore[arg-type]
    solution: Solution = await benchmark.solve(load(benchmark).samples[0], model)
    return solution


def last_lines(unit: Unit) -> list[str]:
    """Of each cell's text, what is shown last."""
    texts = [(step.result["stdout"] + step.result["stderr"]) for step in unit.steps]
    return [text.removesuffix("\n").split("\n")[-1] for text in texts]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Unit, Solution]:
    """A dialogue that nothing interrupts."""

    async def play() -> tuple[Unit, Solution]:
        unit = Unit()
        async with pool_in(tmp_path_factory.mktemp("view")) as pool:
            return unit, await solve(unit, pool)

    return asyncio.run(play())


def test_dialogue(whole: tuple[Unit, Solution]) -> None:
    """Packages are there, the last expression is shown, output is cut, errors and time-outs are told,
    and a death costs no state that was there before."""
    unit, solution = whole
    assert last_lines(unit) == [line for lines in SHOWN for line in lines]
    assert solution.text == r"\boxed{7}"
    assert solution.data == counted(
        rounds=5, tool_calls=7, failed_cells=2, timeouts=1, characters_cut=501
    )


@pytest.mark.parametrize("kept", [1, 3, 6])
async def test_resumed_dialogue(whole: tuple[Unit, Solution], tmp_path: Path, kept: int) -> None:
    """With some cells in the journal the rest says what it would have said, counts included."""
    first, expected = whole
    later = resumed(first)
    later.finished_steps = {k: v for k, v in later.finished_steps.items() if k[0] < kept}
    async with pool_in(tmp_path) as pool:
        assert await solve(later, pool) == expected
    assert last_lines(later) == last_lines(first)[kept:]
