"""AIME 2025: the real problems, their prompts byte by byte, and their scoring."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from evalkit.benchmarks.aime2025 import Aime2025
from evalkit.benchmarks.contract import Dataset, Solution
from evalkit.benchmarks.data import DataAccess
from evalkit.benchmarks.registry import make_benchmark
from evalkit.errors import DataError, RecipeError
from evalkit.recipe.schema import DataOverride, Profile
from tests.unit.vectors import SHARED, TESTS, Row, load_rows

FULL = SHARED / "aime2025" / "aime2025.jsonl"
OWN = TESTS / "data" / "samples" / "aime2025.jsonl"
RENDERED = [row for row in load_rows("prompt_render") if row.input["benchmark"] == "aime2025"]


def make(profile: Profile = "card", **params: Any) -> Aime2025:
    """The benchmark as a recipe makes it."""
    benchmark = make_benchmark("aime2025", params, profile)
    assert isinstance(benchmark, Aime2025)
    return benchmark


def load(path: Path, benchmark: Aime2025 | None = None, **override: Any) -> Dataset:
    """The data set from a file."""
    access = DataAccess("aime", DataOverride(path=str(path), **override), path.parent)
    return (benchmark or make()).load(access)


def test_full_set() -> None:
    """Thirty problems in file order, with integers from 0 to 999 as answers, known by checksum."""
    dataset = load(FULL)
    assert [sample.id for sample in dataset.samples] == [f"aime25-{i}" for i in range(30)]
    assert all(0 <= int(sample.target) <= 999 for sample in dataset.samples)
    assert not dataset.provenance.altered
    assert {len(sample.messages) for sample in dataset.samples} == {1}


@pytest.mark.parametrize("row", RENDERED, ids=lambda row: row.id)
def test_prompts_are_the_originals(row: Row) -> None:
    """The rendered user messages have the lengths and checksums of the original, in every template."""
    dataset = load(SHARED / row.input["file"], make(prompt=row.input["prompt"]))
    (sample,) = [s for s in dataset.samples if s.id == row.input["item"]]
    content = sample.messages[0]["content"]
    assert len(content) == row.expected["n_chars_user"]
    assert hashlib.sha256(content.encode()).hexdigest() == row.expected["sha256_of_user"]


def test_gold_answers_score_one_and_others_zero() -> None:
    """Every gold integer in a box is right, padded too; others, no box and silence are wrong."""
    benchmark = make()
    for sample in load(FULL).samples:
        gold = benchmark.score(sample, benchmark.gold(sample))
        assert (gold.values, gold.answer) == ({"symbolic_correct": 1.0}, sample.target)
        padded = benchmark.score(sample, Solution(f"\\boxed{{0{sample.target}}}"))
        assert padded.values["symbolic_correct"] == 1.0
        other = str(int(sample.target) + 1)
        assert benchmark.score(sample, Solution(f"\\boxed{{{other}}}")).values == {
            "symbolic_correct": 0.0
        }
        unboxed = benchmark.score(sample, Solution(f"It is {sample.target}."))
        assert (unboxed.values, unboxed.answer) == ({"symbolic_correct": 0.0}, None)


def test_literal_integers_is_the_older_grader() -> None:
    """ "016" is 16, but not where strings of digits are compared as text."""
    (sample,) = [s for s in load(OWN, allow_altered=True).samples if s.id == "small"]
    padded = Solution("\\boxed{016}")
    assert make().score(sample, padded).values["symbolic_correct"] == 1.0
    assert make(literal_integers=True).score(sample, padded).values["symbolic_correct"] == 0.0


def test_scoring_runs_in_worker_processes() -> None:
    """The mathematics grader needs a main thread, and says so to whoever gathers."""
    assert Aime2025.parallel_scoring


def test_users_prompt(tmp_path: Path) -> None:
    """A text file may be the prompt; one that shows no problem is refused."""
    path = tmp_path / "prompt.txt"
    path.write_text("{problem} Use \\boxed{{}}.")
    dataset = load(OWN, make(prompt=str(path)), allow_altered=True)
    assert dataset.samples[2].messages[0]["content"] == (
        "How many elements has the set $\\{1, 2, 3\\}$? Use \\boxed{}."
    )
    path.write_text("Use \\boxed{{}}.")
    with pytest.raises(RecipeError, match="never shows"):
        load(OWN, make(prompt=str(path)), allow_altered=True)


def test_the_pinned_source_names_a_commit_and_the_shared_file_is_it() -> None:
    """What would be fetched is pinned twice: by commit in the address and by checksum."""
    source = Aime2025.source
    assert source.url is not None
    assert "/699dfaa67800ad5f5777c0962e8671f3f1c0c564/" in source.url
    shared = (SHARED / "aime2025" / "aime2025.jsonl").read_bytes()
    assert list(source.known) == [hashlib.sha256(shared).hexdigest()]


def test_broken_rows_are_named(tmp_path: Path) -> None:
    """A row without an answer is refused by number."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "a", "problem": "p", "expected_answer": 12}')
    with pytest.raises(DataError, match="aime2025 row 1: 'expected_answer' must be a text"):
        load(path, allow_altered=True)
