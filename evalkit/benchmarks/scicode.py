"""SciCode: 80 research problems in 338 steps, each a function to write on top of those before
(Tian et al. 2024, arXiv 2407.13168).

One call per step, without the conversation before: the prompt holds the descriptions of the earlier
steps and the code that the model gave for them, so a mistake is carried on. Three steps are given
(`prefilled/`) and not scored. A step passes where its tests run to their end within a time limit,
together with all code before it. The prompts, the order and the programs are those behind the card.

Where a prompt does not fit into the context window, this step and all later ones of the problem are
failed; the harness behind the card also forgot some of them, so that its denominator shrank, and that
is not repeated here. Without the authors' `test_data.h5` everything can be generated and nothing is
scored.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from evalkit.benchmarks import scicode_data
from evalkit.benchmarks.card_sampling import CARD_SAMPLING
from evalkit.benchmarks.contract import (
    Benchmark,
    BenchmarkParams,
    Dataset,
    Sample,
    SandboxNeeds,
    Score,
    Solution,
)
from evalkit.benchmarks.fields import require_unique_ids, starts_at_the_root, text_field
from evalkit.benchmarks.prompt_templates import PromptTemplate, load_prompt
from evalkit.errors import DataError, ScorerError
from evalkit.scoring.scicode_code import assemble, extract_code
from evalkit.scoring.scicode_environment import (
    PRELOAD,
    PYTHON,
    require_interpreter,
    require_test_data,
)
from evalkit.scoring.scicode_run import StepResult, Target, read_result, step_program
from evalkit.store.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.benchmarks.contract import GradingTools, Message, ModelHandle
    from evalkit.benchmarks.data import DataAccess
    from evalkit.benchmarks.scicode_data import Step

N_STEPS = "num_subtasks"
COUNTED: Mapping[str, StepResult] = {
    "subtask_timeouts": StepResult.TIMEOUT,
    "subtask_early_exits": StepResult.EARLY_EXIT,
    "subtask_not_answered": StepResult.NOT_ANSWERED,
}
"""Ways to fail that have a score of their own: the first depends on the machine."""
_BAD = (Outcome.CONTEXT_OVERFLOW, Outcome.TRUNCATED, Outcome.REFUSED, Outcome.EMPTY)
"""Outcomes of calls, the worst first: it is the unit's."""
_SEPARATOR = "------"


class SciCodeParams(BenchmarkParams):
    """How SciCode is asked, and what its programs are run with."""

    prompt: str = "eval/scicode/default"
    """Name of a shipped prompt template, or the path of a text file with `{problem_steps_str}`,
    `{next_step_str}` and `{dependencies}` in it."""
    with_background: bool = True
    """Show the scientific background of each step, as behind the card."""
    test_data: str | None = None
    """The authors' test_data.h5, from / or ~, where programs are run. Without it nothing is scored."""
    python: str | None = None
    """Python that runs the programs, from / or ~; by default the one that
    `scripts/setup_env --extras scicode` installs."""
    timeout_s: float = Field(30.0, ge=1, le=86_400)
    """What the program of a step may take (s): 30 behind the card, 1800 in the authors' harness."""

    _starts_at_the_root = field_validator("test_data", "python")(starts_at_the_root)


class SciCode(Benchmark[SciCodeParams]):
    """Does the code compute what the scientists' did?"""

    name = "scicode"
    version = "1"
    title = "SciCode"
    description = "80 research problems in 338 steps of scientific Python, one call per step."
    licence = "Apache-2.0"
    source = scicode_data.SOURCE
    metric = "subtask_accuracy"
    score_weights: ClassVar[Mapping[str, str]] = {
        "subtask_accuracy": N_STEPS,
        **dict.fromkeys(COUNTED, N_STEPS),
    }
    votes = False
    single_call = False
    grader = "sandbox"
    grading_params = ("timeout_s",)
    local_params = ("test_data", "python")
    params_type = SciCodeParams
    generation = CARD_SAMPLING
    repeats = 8
    expected_tokens = 40_000

    def check(self, base: Path) -> None:
        """Raises RecipeError for a prompt that is not there or does not show what it must."""
        self._template(base)

    def _template(self, base: Path) -> PromptTemplate:
        template = load_prompt(self.params.prompt, base)
        template.require("problem_steps_str", "next_step_str", "dependencies")
        return template

    def load(self, access: DataAccess) -> Dataset:
        """One sample per problem, in file order. Raises DataError for rows that are not SciCode's, and for
        a file of targets that is named and is not that of the authors."""
        if self.params.test_data is not None:
            try:
                require_test_data(self._test_data())
            except ScorerError as error:
                raise DataError(error.message, hint=error.hint) from error
        template = self._template(access.base)
        data = scicode_data.read_problems(access, self.licence)
        samples = [
            self._sample(row, f"scicode row {number}", template)
            for number, row in enumerate(data.rows, start=1)
        ]
        require_unique_ids(samples, self.name)
        return Dataset(samples, data.provenance, {template.name: template.sha256})

    def lacks(self) -> str | None:
        """The authors' file of targets, where none is given."""
        if self.params.test_data is not None:
            return None
        return "without params.test_data everything is generated and nothing is scored"

    def n_calls(self, sample: Sample) -> int:
        """One for each step that is not given."""
        return sum(step["prefilled"] is None for step in sample.data["steps"])

    def known_weight(self, sample: Sample) -> float:
        """Its scored steps: those that are not given."""
        return float(self.n_calls(sample))

    async def solve(self, sample: Sample, model: ModelHandle) -> Solution:
        """One call per step, each with the code of those before; none after a full context window."""
        codes: list[str] = []
        outcomes: set[Outcome] = set()
        for step in sample.data["steps"]:
            if step["prefilled"] is not None:
                codes.append(step["prefilled"])
                continue
            reply = await model.chat(self._messages(sample.data, codes))
            outcomes.add(reply.outcome)
            if reply.outcome is Outcome.CONTEXT_OVERFLOW:
                break
            codes.append(extract_code(reply.content))
        asked = zip(sample.data["steps"], codes, strict=False)
        return Solution(
            text=assemble(sample.data["dependencies"], codes[:-1], codes[-1]) if codes else "",
            outcome=next((bad for bad in _BAD if bad in outcomes), Outcome.OK),
            data={"code": {s["number"]: code for s, code in asked if s["prefilled"] is None}},
        )

    def sandbox(self) -> SandboxNeeds:
        """A Python of its own, and the targets. Raises ScorerError where one is missing."""
        return SandboxNeeds(
            interpreter=require_interpreter(self._python()),
            readonly=(require_test_data(self._test_data()),),
            preload=PRELOAD,
        )

    async def grade(self, sample: Sample, solution: Solution, tools: GradingTools) -> Any:
        """`steps`: what became of each scored step, by number; `timeout_s`: what it was given.

        Raises ScorerError where a program could not even begin.
        """
        file = require_test_data(self._test_data())
        answered: Mapping[str, str] = solution.data["code"]
        steps: dict[str, dict[str, str]] = {}
        codes: list[str] = []
        for step in sample.data["steps"]:
            number = step["number"]
            code = answered.get(number) if step["prefilled"] is None else step["prefilled"]
            if code is None:
                steps[number] = {"result": StepResult.NOT_ANSWERED.value}
                continue
            if step["prefilled"] is None:
                target = Target(number, step["tests"], file)
                text = assemble(sample.data["dependencies"], codes, code)
                steps[number] = await self._run(text, target, tools)
            codes.append(code)
        return {"steps": steps, "timeout_s": self.params.timeout_s}

    def score(self, sample: Sample, solution: Solution) -> Score:
        """Passed steps and kinds of failures as counts; 1 for a problem whose steps all passed.

        Raises ScorerError where the programs were not run.
        """
        numbers = [s["number"] for s in sample.data["steps"] if s["prefilled"] is None]
        results = _results(sample, solution, numbers)
        passed = results.count(StepResult.PASSED)
        values = {
            "subtask_accuracy": float(passed),
            "problem_accuracy": float(passed == len(results)),
            **{name: float(results.count(kind)) for name, kind in COUNTED.items()},
            N_STEPS: float(len(results)),
        }
        said = "; ".join(f"{n}: {result}" for n, result in zip(numbers, results, strict=True))
        return Score(values, said if solution.data["code"] else None)

    def gold(self, sample: Sample) -> Solution | None:
        """The authors' solutions, as a model would give them; the 65 later problems have none."""
        if sample.target is None:
            return None
        code = {n: extract_code(f"```python\n{gold}\n```") for n, gold in sample.target.items()}
        return Solution("\n".join(code.values()), data={"code": code})

    def wrong(self, sample: Sample) -> Solution:
        """Programs that end at once, without an error and without a test."""
        numbers = [s["number"] for s in sample.data["steps"] if s["prefilled"] is None]
        code = dict.fromkeys(numbers, "raise SystemExit(0)")
        return Solution("\n".join(code.values()), data={"code": code})

    def _sample(self, row: Mapping[str, Any], where: str, template: PromptTemplate) -> Sample:
        steps = scicode_data.parse_steps(row, where)
        gold = scicode_data.gold_codes(row)
        data = {
            "dependencies": text_field(row, "required_dependencies", where),
            "prompt": {"name": template.name, "text": template.text},
            "steps": steps,
        }
        given: list[str] = []
        for step in steps:
            if step["prefilled"] is None:
                break
            given.append(step["prefilled"])
        return Sample(
            id=text_field(row, "problem_id", where),
            messages=tuple(self._messages(data, given)),
            target=gold and {s["number"]: gold[s["number"]] for s in steps if not s["prefilled"]},
            data=data,
        )

    def _messages(self, data: Mapping[str, Any], codes: Sequence[str]) -> list[Message]:
        """The request for the step after those whose code is given."""
        steps: Sequence[Step] = data["steps"]
        step = steps[len(codes)]
        earlier = [
            part
            for before, code in zip(steps, codes, strict=False)
            for part in (self._described(before), code, _SEPARATOR)
        ]
        text = PromptTemplate.of(**data["prompt"]).render(
            problem_steps_str="\n\n".join(earlier[:-1]),
            next_step_str="\n\n".join((self._described(step), step["header"], step["return_line"])),
            dependencies=data["dependencies"],
        )
        return [{"role": "user", "content": text}]

    def _described(self, step: Step) -> str:
        if not self.params.with_background:
            return step["description"]
        return f"{step['description']}\n{step['background']}"

    def _python(self) -> Path:
        return Path(self.params.python).expanduser() if self.params.python else PYTHON

    def _test_data(self) -> Path | None:
        return Path(self.params.test_data).expanduser() if self.params.test_data else None

    async def _run(self, text: str, target: Target, tools: GradingTools) -> dict[str, str]:
        word = secrets.token_hex(16)
        program = step_program(text, target, timeout_s=self.params.timeout_s, word=word)
        return read_result(target.step, await tools.run(program), word)


def _results(sample: Sample, solution: Solution, numbers: Sequence[str]) -> list[StepResult]:
    """What became of the steps, in order. Raises ScorerError where that is not known."""
    if solution.grading is None:
        raise ScorerError(
            f"scicode: the programs of problem {sample.id} were not run",
            hint="Give params.test_data, and score the run again.",
        )
    steps = solution.grading["steps"]
    if steps.keys() != set(numbers):
        raise ScorerError(
            f"scicode: the grading of problem {sample.id} has the steps {', '.join(steps)}, not "
            f"{', '.join(numbers)}"
        )
    return [StepResult(steps[number]["result"]) for number in numbers]
