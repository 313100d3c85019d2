"""LiveCodeBench: programming problems of contests, by date, judged by running the answers (Jain et al.
2024, arXiv 2403.07974).

The window behind the card is 2024-08-01 to 2025-05-31 of release v6: 454 problems. The same programs
get other scores from other graders, because the public ones run a program inside their own process
(`evalkit.scoring.lcb.grader`); profile `card` judges as they do, profile `fixed` runs it as a program.
Time limits are the wall's, so a machine that is busy with others costs answers: what met them is counted
apart, and so is what met them without having had a processor. The data has no right answers.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
from dataclasses import asdict
from datetime import date
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

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
from evalkit.benchmarks.lcb_data import (
    SOURCE,
    Problems,
    Release,
    Window,
    function_name,
    read_tests,
    texts_of_tests,
)
from evalkit.benchmarks.lcb_tests import Place, find_tests, keep_tests
from evalkit.benchmarks.prompt_templates import PromptTemplate, load_prompt
from evalkit.errors import DataError, ScorerError
from evalkit.scoring.lcb import (
    PRELOAD,
    CodeBlock,
    Grader,
    ResultCode,
    Task,
    extract_code,
    grade_code,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.benchmarks.contract import GradingTools
    from evalkit.benchmarks.data import DataAccess
    from evalkit.benchmarks.prompt_templates import PromptTemplate
    from evalkit.recipe.schema import Profile

PARTS = "lcb_question_parts.yaml"
PARTS_SHA256 = "e93c6fce0766c2251fda29ff9499c2227d750dc0cb9f37caefa8a55b3d417937"
_DIFFICULTIES = ("easy", "medium", "hard")


def _as_text(value: object) -> object:
    """YAML reads a day as a date."""
    return value.isoformat() if isinstance(value, date) else value


def _is_day(value: str) -> str:
    return date.fromisoformat(value).isoformat()


Day = Annotated[str, BeforeValidator(_as_text), AfterValidator(_is_day)]
"""YYYY-MM-DD."""


class LiveCodeBenchV6Params(BenchmarkParams):
    """Which problems are asked, and how programs are found and judged."""

    prompt: str = "eval/livecodebench/python_codegen"
    """Name of a shipped prompt template, or the path of a text file with `{question}` in it."""
    release: Release = "v6"
    """Release vN of the data is its first N files: 400, 511, 612, 713, 880 or 1055 problems."""
    from_date: Day | None = "2024-08-01"
    """Day of the first contest (included); null for all there are."""
    to_date: Day | None = "2025-05-31"
    """Day of the last contest (included); null for all there are."""
    code_block: CodeBlock = "first_ns"
    """Which block of the answer is the program: `first_ns` as behind the card, `last_ns2512` as the same
    harness from 2025-12-11 on, `last_closed` the last complete block."""
    grader: Grader = "ns-compat"
    """`ns-compat` as behind the card, `official` as LiveCodeBench's own, `strict-subprocess` runs a
    program as a program."""
    time_limit_s: float = Field(6.0, gt=0, le=600)
    """Seconds of the wall's time for each test."""
    python: str | None = None
    """Python, from / or ~, that programs run in; it needs numpy. By default evalkit's own."""
    tests: Place = "staged"
    """`staged`: the tests lie in evalkit's cache folder; `frozen`: in the run's own folder (1.4 GB)."""

    _starts_at_the_root = field_validator("python")(starts_at_the_root)

    @model_validator(mode="after")
    def _goes_forward(self) -> Self:
        if self.from_date and self.to_date and self.from_date > self.to_date:
            raise ValueError(f"from_date {self.from_date} is after to_date {self.to_date}")
        return self


class LiveCodeBenchV6(Benchmark[LiveCodeBenchV6Params]):
    """Does the program pass all tests?"""

    name = "livecodebench_v6"
    version = "1"
    title = "LiveCodeBench v6"
    description = (
        "454 programming problems of contests from 2024-08 to 2025-05, judged by hidden tests."
    )
    licence = "CC (as tagged on the hub); problems: their contests'"
    source = SOURCE
    metric = "accuracy"
    votes = False
    grader = "sandbox"
    grading_params = ("code_block", "grader", "time_limit_s", "python")
    params_type = LiveCodeBenchV6Params
    knobs: ClassVar[Mapping[Profile, Mapping[str, Any]]] = {
        "card": {"code_block": "first_ns", "grader": "ns-compat"},
        "fixed": {"code_block": "last_closed", "grader": "strict-subprocess"},
    }
    generation = CARD_SAMPLING
    repeats = 8
    expected_tokens = 20_000

    def check(self, base: Path) -> None:
        """Raises RecipeError for a prompt that is not there or does not show what it must."""
        self._template(base)

    def _template(self, base: Path) -> PromptTemplate:
        template = load_prompt(self.params.prompt, base)
        template.require("question")
        return template

    def load(self, access: DataAccess) -> Dataset:
        """Samples in file order. Raises DataError for rows, counts or files that are not as published."""
        template = self._template(access.base)
        window = Window.of(self.params.release, self.params.from_date, self.params.to_date)
        problems = Problems(access, window, self.licence)
        samples = [_sample(row, where, template, self.params.tests) for where, row in problems]
        if not samples or problems.provenance is None:
            raise DataError(
                f"no problem of release {window.release} is from {window.first} to {window.last}"
            )
        require_unique_ids(samples, self.name)
        prompts = {template.name: template.sha256, PARTS: PARTS_SHA256}
        return Dataset(samples, problems.provenance, prompts)

    def sandbox(self) -> SandboxNeeds:
        """numpy is imported ahead. Raises ScorerError where the Python or its numpy is missing."""
        python = self.params.python and Path(self.params.python).expanduser()
        if python:
            if not python.is_file():
                raise ScorerError(f"params.python: there is no {python}")
            return SandboxNeeds(interpreter=python, preload=PRELOAD)
        if importlib.util.find_spec("numpy") is None:
            raise ScorerError(
                "programs of LiveCodeBench may use numpy, which is not installed here",
                hint="pip install 'evalkit[livecodebench]', or name a Python that has it in params.python",
            )
        return SandboxNeeds(preload=PRELOAD)

    async def grade(
        self, sample: Sample, solution: Solution, tools: GradingTools
    ) -> dict[str, Any]:
        """Run the program of the answer on all tests until one fails."""
        tests = await asyncio.to_thread(find_tests, sample.data["tests"], sample.id)
        task = Task(
            code=extract_code(solution.text, self.params.code_block),
            tests=tests,
            function=sample.data["function"],
            grader=self.params.grader,
            limit_s=self.params.time_limit_s,
        )
        verdict = await grade_code(task, tools.run)
        found = asdict(verdict) | {"code": int(verdict.code)}
        return found | {"grader": task.grader, "n_tests": len(tests), "found_code": bool(task.code)}

    def score(self, sample: Sample, solution: Solution) -> Score:
        """1 where all tests are passed; time-outs and what they may be the machine's fault apart."""
        found = solution.grading
        if found is None:
            raise ScorerError(f"{self.name}: {sample.id} has not been graded")
        code = ResultCode(found["code"])
        timed_out = code in (ResultCode.TIME_LIMIT, ResultCode.GLOBAL_TIMEOUT)
        values = {
            "accuracy": float(code is ResultCode.PASSED),
            "timed_out": float(timed_out),
            "timed_out_starved": float(found["starved"]),
        }
        answer = f"{code.name.lower()} {found['n_passed']}/{found['n_tests']}"
        return Score(values, answer if found["found_code"] else None)

    def gold(self, sample: Sample) -> None:
        """None: the data has no programs."""

    def wrong(self, sample: Sample) -> Solution:
        """A program that is none of any problem."""
        return Solution("```python\nprint('to be done')\n```")


def _sample(row: Mapping[str, Any], where: str, template: PromptTemplate, place: Place) -> Sample:
    difficulty = text_field(row, "difficulty", where)
    if difficulty not in _DIFFICULTIES:
        raise DataError(f"{where}: 'difficulty' is {difficulty!r}, not one of {_DIFFICULTIES}")
    public, private = texts_of_tests(row, where)
    n_tests = len(read_tests(public, private, where))
    question = render_question(
        text_field(row, "question_content", where), row.get("starter_code") or ""
    )
    return Sample(
        id=text_field(row, "question_id", where),
        messages=({"role": "user", "content": template.render(question=question)},),
        data={
            "function": function_name(row, where),
            "n_tests": n_tests,
            "tests": keep_tests(public, private, place),
        },
        subset=difficulty,
    )


def render_question(content: str, starter_code: str) -> str:
    """A problem as it is shown: four blanks in a row are a tab everywhere, as in the original."""
    parts = _question_parts()
    if starter_code:
        tail = f"{parts['with_starter_code']}\n```python\n{starter_code}\n```\n\n"
    else:
        tail = f"{parts['without_starter_code']}\n\n```python\n# YOUR CODE HERE\n```\n\n"
    return f"{content}\n\n{tail}".replace("    ", "\t")


@cache
def _question_parts() -> Mapping[str, str]:
    content = (resources.files("evalkit.benchmarks") / "prompts" / PARTS).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != PARTS_SHA256:
        raise DataError(
            f"{PARTS} has sha256 {digest}, evalkit ships {PARTS_SHA256}",
            hint="The installed package was altered: install it again.",
        )
    parts: Mapping[str, str] = yaml.safe_load(content)
    return parts
