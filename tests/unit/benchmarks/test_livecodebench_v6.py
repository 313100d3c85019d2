"""LiveCodeBench v6: prompts by the byte, samples, and answers graded in a real sandbox."""

from __future__ import annotations

import asyncio
import hashlib
import os
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.benchmarks import livecodebench_v6
from evalkit.benchmarks.contract import Dataset, Sample, Score, Solution
from evalkit.benchmarks.data import DataAccess
from evalkit.benchmarks.frozen import FrozenSamples, freeze
from evalkit.benchmarks.livecodebench_v6 import LiveCodeBenchV6, render_question
from evalkit.benchmarks.prompt_templates import load_prompt
from evalkit.benchmarks.registry import make_benchmark
from evalkit.errors import DataError, RecipeError, ScorerError
from evalkit.recipe.schema import DataOverride, Profile
from evalkit.scoring.sandbox import Program, ProgramResult, SandboxPool, find_sandbox
from tests.unit.vectors import TESTS, Row, load_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OWN = TESTS / "data" / "samples" / "livecodebench_v6.jsonl"
PROMPTS = [
    row for row in load_rows("prompt_render") if row.input["benchmark"] == "livecodebench_v6"
]
GOLD = {
    "own_a": "n = int(input())\nprint(sum(map(int, input().split())))",
    "9001": "class Solution:\n    def pair(self, a: int, b: int) -> List[int]:\n        return b, a",
    "1_Z": "print(int(input()) ** 2)",
}
PROFILES: tuple[Profile, ...] = ("card", "fixed")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "evalkit" / "livecodebench"


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    """What the benchmark asks for."""
    needs = make().sandbox()
    assert needs.interpreter is None
    with SandboxPool(find_sandbox(os.environ), workers=1, preload=needs.preload) as running:
        yield running


class Tools:
    """What a grading stage gives."""

    def __init__(self, pool: SandboxPool) -> None:
        self.pool = pool

    async def run(self, program: Program) -> ProgramResult:
        """In the sandbox."""
        return await asyncio.to_thread(self.pool.run_one, program)

    def judge(self, *_: Any, **__: Any) -> Any:
        """Nobody's business here."""
        raise AssertionError


def make(profile: Profile = "card", **params: Any) -> LiveCodeBenchV6:
    """The benchmark as a recipe makes it."""
    benchmark = make_benchmark("livecodebench_v6", params, profile)
    assert isinstance(benchmark, LiveCodeBenchV6)
    return benchmark


def load(benchmark: LiveCodeBenchV6 | None = None, path: Path = OWN) -> Dataset:
    """The own samples, after a round through their frozen form."""
    override = DataOverride(path=str(path), allow_altered=True)
    dataset = (benchmark or make()).load(DataAccess("lcb", override, path.parent))
    return replace(dataset, samples=list(FrozenSamples(freeze(dataset.samples))))


def answer(code: str) -> Solution:
    """As a model gives a program."""
    return Solution(f"Like this:\n```python\n{code}\n```\nThat is it.")


def grade(pool: SandboxPool, benchmark: LiveCodeBenchV6, sample: Sample, given: Solution) -> Score:
    """Both stages."""
    found = asyncio.run(benchmark.grade(sample, given, Tools(pool)))
    return benchmark.score(sample, replace(given, grading=found))


@pytest.mark.parametrize("row", PROMPTS, ids=[row.id for row in PROMPTS])
def test_prompt_vector(row: Row) -> None:
    """The user message of the original, byte by byte."""
    item = row.input["item"]
    question = render_question(item["question_content"], item["starter_code"])
    message = load_prompt(row.input["prompt"]).render(question=question)
    assert len(message) == row.expected["n_chars_user"]
    assert hashlib.sha256(message.encode()).hexdigest() == row.expected["sha256_of_user"]


def test_there_are_prompt_vectors() -> None:
    """Or the test above would say nothing."""
    assert len(PROMPTS) == 3


def test_samples() -> None:
    """Those of the window, by id and difficulty, with the function to call."""
    dataset = load()
    first, second = dataset.samples
    assert (first.id, first.subset, first.data["function"]) == ("own_a", "easy", None)
    assert (second.id, second.subset, second.data["function"]) == ("9001", "medium", "pair")
    assert (first.data["n_tests"], second.data["n_tests"]) == (3, 2)
    assert "\n\t3\n\t1 2 3\n\nRead the inputs" in first.messages[0]["content"]
    assert (dataset.provenance.n_rows, dataset.provenance.altered) == (3, True)
    assert set(dataset.prompts) == {"eval/livecodebench/python_codegen", "lcb_question_parts.yaml"}


def test_other_windows() -> None:
    """The days belong to it; null is no end."""
    ids = [sample.id for sample in load(make(from_date=None)).samples]
    assert ids == ["own_a", "9001", "1_Z"]
    assert [s.id for s in load(make(from_date="2024-07-31", to_date="2024-08-03")).samples] == [
        "own_a",
        "1_Z",
    ]
    with pytest.raises(DataError, match="no problem of release v6 is from 2030-01-01"):
        load(make(from_date="2030-01-01", to_date=None))
    with pytest.raises(RecipeError, match="is after to_date"):
        make(from_date="2025-06-01")
    with pytest.raises(RecipeError, match=r"params\.to_date: .* found '2025-13-01'"):
        make(to_date="2025-13-01")


def test_a_plan_keeps_the_window() -> None:
    """Parameters come back from JSON as they were."""
    benchmark = make("fixed", from_date="2024-09-01")
    kept = benchmark.params.model_dump(mode="json")
    assert kept["from_date"] == "2024-09-01"
    assert make("fixed", **kept).params == benchmark.params
    assert make("fixed", from_date=date(2024, 9, 1)).params == benchmark.params


def test_profiles() -> None:
    """What each finds programs with, and who judges."""
    found = [(make(p).params.code_block, make(p).params.grader) for p in PROFILES]
    assert found == [("first_ns", "ns-compat"), ("last_closed", "strict-subprocess")]


@pytest.mark.parametrize("tests", ["staged", "frozen"])
@pytest.mark.parametrize("profile", PROFILES)
def test_right_programs_score_one_and_others_zero(
    pool: SandboxPool, profile: Profile, tests: str
) -> None:
    """Each on each problem, the benchmark's own wrong answer, and silence."""
    benchmark = make(profile, from_date=None, tests=tests)
    for sample in load(benchmark).samples:
        for name, code in GOLD.items():
            score = grade(pool, benchmark, sample, answer(code))
            assert score.values["accuracy"] == float(name == sample.id), (sample.id, name, score)
        wrong = grade(pool, benchmark, sample, benchmark.wrong(sample))
        assert (wrong.values["accuracy"], wrong.answer is None) == (0.0, False)
        silent = grade(pool, benchmark, sample, Solution(""))
        assert (silent.values["accuracy"], silent.answer) == (0.0, None)


def test_answers_name_the_code_and_the_tests(pool: SandboxPool) -> None:
    """What happened, and how far it came; time-outs are scores of their own."""
    benchmark = make("fixed")
    sample = load(benchmark).samples[0]
    assert grade(pool, benchmark, sample, answer(GOLD["own_a"])).answer == "passed 3/3"
    assert grade(pool, benchmark, sample, answer("print(6)")).answer == "wrong_answer 1/3"
    hasty = make("fixed", time_limit_s=0.5)
    slow = grade(pool, hasty, sample, answer("import time\ntime.sleep(9)"))
    assert slow.answer == "time_limit 0/3"
    assert slow.values == {"accuracy": 0.0, "timed_out": 1.0, "timed_out_starved": 1.0}


def test_profiles_differ_where_the_graders_do(pool: SandboxPool) -> None:
    """A program that reads bytes is right, and was wrong for the card."""
    code = "import sys\nd = sys.stdin.buffer.read().split()\nprint(sum(map(int, d[1:])))"
    scores = [
        grade(pool, make(profile), load().samples[0], answer(code)).values["accuracy"]
        for profile in PROFILES
    ]
    assert scores == [0.0, 1.0]


def test_nothing_is_scored_that_was_not_graded() -> None:
    """A missing grading is an error of ours."""
    with pytest.raises(ScorerError, match="own_a has not been graded"):
        make().score(load().samples[0], Solution("x"))


def test_staged_tests_are_once_on_disk_and_checked(pool: SandboxPool, cache: Path) -> None:
    """One file per problem; what is lost or changed is an error that says how to get it back."""
    benchmark = make()
    sample = load(benchmark).samples[0]
    assert list(sample.data["tests"]) == ["sha256"]
    files = sorted(cache.iterdir())
    times = [file.stat().st_mtime_ns for file in files]
    load(benchmark)
    assert [file.stat().st_mtime_ns for file in sorted(cache.iterdir())] == times
    assert len(files) == 2
    mine = cache / f"{sample.data['tests']['sha256']}.json.zst"
    other = next(file for file in files if file != mine)
    mine.write_bytes(other.read_bytes())
    with pytest.raises(ScorerError, match="other tests than its name says"):
        grade(pool, benchmark, sample, answer("x"))
    mine.write_bytes(b"nonsense")
    with pytest.raises(ScorerError, match="is damaged"):
        grade(pool, benchmark, sample, answer("x"))
    mine.unlink()
    with pytest.raises(ScorerError, match="its tests are not at") as caught:
        grade(pool, benchmark, sample, answer("x"))
    assert "evalkit prepare" in str(caught.value)


def test_frozen_tests_need_no_other_file(cache: Path) -> None:
    """They lie in the sample as they are in the data."""
    benchmark = make(tests="frozen")
    sample = load(benchmark).samples[1]
    assert sample.data["tests"]["private"].startswith('[{"input": "5')
    assert not cache.exists()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"easy"', '"odd"', "'difficulty' is 'odd'"),
        ("own_a", "9001", "two rows have the id '9001'"),
        ("question_content", "question", "no field 'question_content'"),
        ('"metadata": "{}"', '"metadata": "1"', "names no function: 1"),
        ("public_test_cases", "public", "no field 'public_test_cases'"),
    ],
)
def test_rows_of_another_kind_are_refused(tmp_path: Path, old: str, new: str, reason: str) -> None:
    """By row and field."""
    path = tmp_path / "rows.jsonl"
    path.write_text(OWN.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=reason):
        load(path=path)


def test_numpy_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it programs would fail for our fault."""
    monkeypatch.setattr(livecodebench_v6.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ScorerError, match="numpy"):
        make().sandbox()
    with pytest.raises(ScorerError, match="there is no /no/python"):
        make(python="/no/python").sandbox()
    with pytest.raises(RecipeError, match="must begin with / or ~"):
        make(python="python3")


def test_altered_question_parts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt is part of what a score means."""
    livecodebench_v6._question_parts.cache_clear()
    monkeypatch.setattr(livecodebench_v6, "PARTS_SHA256", "0" * 64)
    with pytest.raises(DataError, match="evalkit ships 0000"):
        render_question("x", "")
