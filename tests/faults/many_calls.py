"""Benchmarks of several calls per unit, as somebody else's package would bring them.

Every prompt contains the replies before it, so an answer that is lost or mixed up changes all that
follows, and the artifacts with it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from evalkit.benchmarks.contract import Benchmark, BenchmarkParams, Dataset, Sample, Score, Solution
from evalkit.benchmarks.data import GENERATED, DataAccess, DataSource
from evalkit.plan.model import DataProvenance

if TYPE_CHECKING:
    from evalkit.benchmarks.contract import Message, ModelHandle

PROGRAM = Path(__file__).parent / "driven_program.py"
TOOL_LOG = "TOOL_LOG"
"""Variable that names the file in which each step of `Tool` leaves a line."""
ENTRY_POINTS = """\
[evalkit.benchmarks]
chain = tests.faults.many_calls:Chain
fan = tests.faults.many_calls:Fan
essay = tests.faults.many_calls:Essay
judged = tests.faults.graded:Judged
programs = tests.faults.graded:Programs
tool = tests.faults.many_calls:Tool
cells = tests.faults.many_calls:Cells
driven = tests.faults.many_calls:Driven
"""


class ManyCallsParams(BenchmarkParams):
    """How much is asked."""

    n: int = Field(8, ge=1)
    """Number of samples."""
    calls: int = Field(5, ge=1)
    """Calls of one unit."""
    tokens: int = Field(0, ge=0)
    """How long the fault server shall make each answer; 0 leaves it at a sentence. One essay is up
    to twice as long."""


class Chain(Benchmark[ManyCallsParams]):
    """Each call asks about the reply to the one before."""

    name = "chain"
    version = "1"
    title = "Chain"
    description = "Dependent calls."
    licence = "Apache-2.0"
    source = DataSource()
    metric = "even"
    single_call = False
    params_type = ManyCallsParams
    expected_tokens = 100

    def load(self, access: DataAccess) -> Dataset:
        """Samples that differ in their number."""
        samples = [Sample(id=f"{self.name}-{i}", data={"number": i}) for i in range(self.params.n)]
        provenance = DataProvenance(
            source=GENERATED, sha256="0" * 64, n_rows=len(samples), licence=self.licence
        )
        return Dataset(samples, provenance)

    async def solve(self, sample: Sample, model: ModelHandle) -> Solution:
        """One call after the other."""
        said: list[str] = []
        for step in range(self.params.calls):
            before = said[-1] if said else "nothing"
            text = f"{self.name} {sample.data['number']}.{step}: what follows {before!r}?"
            text += f" Say it in {self.params.tokens} tokens." if self.params.tokens else ""
            said.append((await model.chat(ask(text))).content)
        return Solution(" ".join(said), data={"said": said})

    def score(self, sample: Sample, solution: Solution) -> Score:
        """A score that depends on every character of the answer."""
        return Score({self.metric: float(sum(solution.text.encode()) % 2 == 0)}, solution.text[-9:])

    def gold(self, sample: Sample) -> Solution | None:
        """There is no right answer."""
        return None


class Fan(Chain):
    """Calls made at the same time, and one about all their replies."""

    name = "fan"
    title = "Fan"
    description = "Concurrent calls."

    async def solve(self, sample: Sample, model: ModelHandle) -> Solution:
        """All but one call at once."""
        number = sample.data["number"]
        texts = [f"fan {number}: what is part {i}?" for i in range(self.params.calls - 1)]
        parts = await asyncio.gather(*(model.chat(ask(text)) for text in texts))
        said = [part.content for part in parts]
        last = await model.chat(ask(f"fan {number}: what do {said!r} make?"))
        return Solution(last.content, data={"said": said})


class Essay(Chain):
    """One call per unit, with a long answer."""

    name = "essay"
    title = "Essay"
    description = "Long generations."
    single_call = True

    def load(self, access: DataAccess) -> Dataset:
        """Samples with their prompts, which differ in length of the answer."""
        dataset = super().load(access)
        tokens = self.params.tokens
        texts = [
            f"essay {i}: write in {tokens + tokens * i // len(dataset.samples)} tokens"
            for i in range(len(dataset.samples))
        ]
        samples = [
            Sample(id=sample.id, messages=tuple(ask(text)), data=sample.data)
            for sample, text in zip(dataset.samples, texts, strict=True)
        ]
        return Dataset(samples, dataset.provenance)

    async def solve(self, sample: Sample, model: ModelHandle) -> Solution:
        """One call."""
        return Solution.of(await model.chat(sample.messages))


class Tool(Chain):
    """Each call asks about what two steps made of the reply before; each step leaves a line in a file."""

    name = "tool"
    title = "Tool"
    description = "Steps beside calls."

    async def solve(self, sample: Sample, model: ModelHandle) -> Solution:
        """A call, then two steps at once, and so on."""
        said: list[Any] = []
        for _ in range(self.params.calls):
            text = f"tool {sample.data['number']}: what follows {said[-1:]!r}?"
            reply = await model.chat(ask(text))
            asked = [{"reply": reply.content, "part": part} for part in range(2)]
            said.append(await asyncio.gather(*(self._step(model, sample, each) for each in asked)))
        return Solution(str(said[-1]), data={"said": said})

    async def _step(self, model: ModelHandle, sample: Sample, asked: dict[str, Any]) -> Any:
        async def run() -> dict[str, Any]:
            line = json.dumps([sample.id, model.repeat, asked], sort_keys=True)
            with Path(os.environ[TOOL_LOG]).open("a") as file:
                file.write(f"{line}\n")
            await asyncio.sleep(0)
            return {"length": len(line), "end": line[-20:]}

        return await model.step("measure", asked, run)


class Cells(Chain):
    """Each call asks about what a Python session has made of all replies before."""

    name = "cells"
    title = "Cells"
    description = "A Python session beside calls."
    uses_sessions = True

    async def solve(self, sample: Sample, model: ModelHandle) -> Solution:
        """A call, then a cell whose answer needs all cells before it."""
        shown: list[str] = []
        async with model.session() as session:
            for step in range(self.params.calls):
                reply = await model.chat(ask(f"cells {sample.data['number']}: {shown[-1:]!r}?"))
                first = "seen = []" if step == 0 else "len(seen)"
                await session.execute(first, 20)
                cell = f"seen.append({reply.content!r}); '/'.join(seen)"
                shown.append((await session.execute(cell, 20)).text)
        return Solution(shown[-1], data={"shown": shown})


class Driven(Chain):
    """A program asks: some things several times, all at once, and one about what it was told."""

    name = "driven"
    title = "Driven"
    description = "Calls of a program."
    drives = True

    async def solve(self, sample: Sample, model: ModelHandle) -> Solution:
        """Run it, and read its file."""
        async with model.drive() as driving:
            env = {"URL": driving.base_url, "KEY": driving.api_key, "MODEL": driving.model}
            command = [sys.executable, "-I", str(PROGRAM), str(sample.data["number"])]
            code = await driving.run([*command, str(self.params.calls)], env, "program.log")
            if code:
                raise RuntimeError(f"exit code {code}, see {driving.name}/program.log")
            said = json.loads((driving.folder / "said.json").read_text())
        return Solution(said[-1], data={"said": said})


def ask(text: str) -> list[Message]:
    """A user's message."""
    return [{"role": "user", "content": text}]
