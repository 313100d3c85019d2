"""Benchmarks with a grading stage: answers that a judge reads, and programs that run in the sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from evalkit.benchmarks.contract import BenchmarkParams, Sample, Score, Solution
from evalkit.errors import JudgeError
from evalkit.scoring.sandbox import Program
from tests.faults.many_calls import Chain, ask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.benchmarks.contract import GradingTools, ModelHandle
    from evalkit.recipe.schema import Profile


class GradedParams(BenchmarkParams):
    """How much is asked, and how it is read."""

    n: int = Field(12, ge=1)
    """Number of samples."""
    wanted: Literal["even", "odd"] = "even"
    """Which sums of characters count as right: read by `score` alone."""
    question: str = "Is it right?"
    """What the judge is asked: read by `grade`."""


class Judged(Chain):
    """One call per unit; the judge is asked twice, the second time about its first answer."""

    name = "judged"
    title = "Judged"
    description = "Answers that a judge reads."
    grader = "judge"
    grading_params = ("question",)
    scoring_params = ("wanted",)
    judge_generation: ClassVar[Mapping[Profile, Mapping[str, Any]]] = {
        "card": {"temperature": 0.0},
        "fixed": {"temperature": 0.0},
    }
    params_type = GradedParams
    knobs: ClassVar[Mapping[Profile, Mapping[str, Any]]] = {
        "card": {"wanted": "even"},
        "fixed": {"wanted": "odd"},
    }
    params: GradedParams  # type: ignore[assignment]

    async def solve(self, sample: Sample, model: ModelHandle) -> Solution:
        """One call."""
        reply = await model.chat(ask(f"{self.name}: what is {sample.data['number']}?"))
        return Solution.of(reply)

    async def grade(self, sample: Sample, solution: Solution, tools: GradingTools) -> Any:
        """Both answers of the judge."""
        first = await tools.judge(ask(f"{self.params.question} {solution.text}"))
        if not first.content:
            raise JudgeError("no verdict")
        second = await tools.judge(ask(f"Sure? {first.content}"), overrides={"top_p": 0.5})
        return {"said": [first.content, second.content]}

    def score(self, sample: Sample, solution: Solution) -> Score:
        """A score that depends on every character of what was found."""
        found = str(solution.grading).encode()
        is_even = sum(found) % 2 == 0
        return Score({self.metric: float(is_even == (self.params.wanted == "even"))}, None)


class Programs(Judged):
    """One call per unit; a program in the sandbox counts the characters of the answer."""

    name = "programs"
    title = "Programs"
    description = "Answers that a program reads."
    grader = "sandbox"

    async def grade(self, sample: Sample, solution: Solution, tools: GradingTools) -> Any:
        """What the program printed."""
        source = f"import sys\nprint(len(sys.stdin.read()), {self.params.question!r})"
        result = await tools.run(Program(source=source, stdin=solution.text.encode()))
        return {"ended": result.ended, "stdout": result.stdout.decode()}
