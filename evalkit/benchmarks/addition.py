"""Addition: questions a tiny model can learn, for the demo and for tests with a real server.

The questions are made from a seed, so there is nothing to download, and they exercise what larger
benchmarks need: reasoning before the answer, a boxed number or a letter, truncation and both scorers.
The wording is the one `scripts/train_demo_checkpoint.py` trains on.
"""

from __future__ import annotations

import hashlib
import random
from typing import Literal

import orjson
from pydantic import Field

from evalkit.benchmarks.contract import Benchmark, BenchmarkParams, Dataset, Sample, Score, Solution
from evalkit.benchmarks.data import GENERATED, DataAccess, DataSource
from evalkit.plan.model import DataProvenance
from evalkit.scoring.boxed import last_boxed
from evalkit.scoring.multiple_choice import extract_letter

LETTERS = "ABCD"
DISTANCES = (-100, -10, -1, 1, 10, 100)


class AdditionParams(BenchmarkParams):
    """Which questions are asked."""

    form: Literal["open", "choice"] = "open"
    """`open` asks for the sum, `choice` for the letter of one of four sums."""
    n: int = Field(200, ge=1, le=1_000_000)
    """Number of questions."""
    digits: int = Field(3, ge=1, le=9)
    """Most digits of an operand; lengths are drawn evenly."""
    seed: int = 0
    """Seed of the questions."""


class Addition(Benchmark[AdditionParams]):
    """What is A + B?"""

    name = "addition"
    version = "1"
    title = "Addition"
    description = "Sums of two numbers, asked openly or as multiple choice; made from a seed."
    licence = "Apache-2.0"
    source = DataSource(generated=True)
    metric = "correct"
    params_type = AdditionParams
    expected_tokens = 50

    def load(self, access: DataAccess) -> Dataset:
        """Make the questions: no file is read."""
        rng = random.Random(self.params.seed)
        samples = [self._sample(index, rng) for index in range(self.params.n)]
        content = orjson.dumps([(s.id, s.messages, s.target) for s in samples])
        provenance = DataProvenance(
            source=GENERATED,
            sha256=hashlib.sha256(content).hexdigest(),
            n_rows=len(samples),
            licence=self.licence,
        )
        return Dataset(samples, provenance)

    def _sample(self, index: int, rng: random.Random) -> Sample:
        a, b = (rng.randrange(10 ** rng.randint(1, self.params.digits)) for _ in range(2))
        question, target = f"What is {a} + {b}?", str(a + b)
        if self.params.form == "choice":
            options = _options(a + b, rng)
            question += "\n\n" + "\n".join(
                f"{x}) {o}" for x, o in zip(LETTERS, options, strict=True)
            )
            target = LETTERS[options.index(a + b)]
        return Sample(
            id=f"{self.params.form}-{index}",
            messages=({"role": "user", "content": question},),
            target=target,
            subset=f"{max(len(str(a)), len(str(b)))}_digits",
        )

    def score(self, sample: Sample, solution: Solution) -> Score:
        """1 when the boxed number, or the chosen letter, is the right one."""
        if self.params.form == "choice":
            answer = extract_letter(solution.text, len(LETTERS), "regex_then_boxed")
        else:
            answer = last_boxed(solution.text)
        return Score({self.metric: float(answer == sample.target)}, answer)

    def gold(self, sample: Sample) -> Solution:
        """The right answer in a box."""
        return Solution(f"\\boxed{{{sample.target}}}")

    def wrong(self, sample: Sample) -> Solution:
        """Another letter, or the next number, in a box."""
        if self.params.form == "choice":
            return Solution("\\boxed{B}" if sample.target == "A" else "\\boxed{A}")
        return Solution(f"\\boxed{{{int(sample.target) + 1}}}")


def _options(total: int, rng: random.Random) -> list[int]:
    """The right sum and three near misses, none negative, in random order."""
    near = [total + d for d in DISTANCES if total + d >= 0]
    options = [total, *rng.sample(near, len(LETTERS) - 1)]
    rng.shuffle(options)
    return options
