"""GPQA Diamond: the shuffle bit by bit on synthetic rows; the questions themselves are not here."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from evalkit.benchmarks import gpqa_diamond
from evalkit.benchmarks.choice import render_problem
from evalkit.benchmarks.contract import Dataset, Solution
from evalkit.benchmarks.data import DataAccess
from evalkit.benchmarks.gpqa_diamond import (
    DIAMOND_CSV,
    DIAMOND_LETTERS,
    GpqaDiamond,
    check_letters,
    clean_option,
    shuffle_options,
)
from evalkit.benchmarks.registry import make_benchmark
from evalkit.errors import DataError
from evalkit.recipe.schema import DataOverride, Profile
from tests.unit.vectors import TESTS, load_rows

OWN = TESTS / "data" / "samples" / "gpqa_diamond.csv"
VECTORS = {row.id: row for row in load_rows("gpqa_shuffle")}


def make(profile: Profile = "card", **params: Any) -> GpqaDiamond:
    """The benchmark as a recipe makes it."""
    benchmark = make_benchmark("gpqa_diamond", params, profile)
    assert isinstance(benchmark, GpqaDiamond)
    return benchmark


def load(path: Path, **override: Any) -> Dataset:
    """The data set from a file."""
    return make().load(DataAccess("gpqa", DataOverride(path=str(path), **override), path.parent))


def test_synthetic_rows_shuffle_as_the_original() -> None:
    """Options, gold letters and problem texts of the eight synthetic rows."""
    row = VECTORS["gpqa-shuffle-synthetic"]
    assert row.input["seed"] == gpqa_diamond.SHUFFLE_SEED
    shuffled = shuffle_options(row.input["rows"])
    found = [
        {
            "choices": options,
            "gold": gold,
            "problem": render_problem(raw["Question"], options),
        }
        for raw, (options, gold) in zip(row.input["rows"], shuffled, strict=True)
    ]
    assert found == row.expected


def test_pinned_checksums_are_those_of_the_vector() -> None:
    """The file and the 198 letters are pinned as published."""
    row = VECTORS["gpqa-diamond-letters"]
    assert row.input["csv_sha256"] == DIAMOND_CSV
    assert row.expected["sha256_of_198_letters"] == DIAMOND_LETTERS
    assert sum(row.expected["counts"].values()) == 198


def test_gold_letters_depend_on_the_number_of_rows_alone() -> None:
    """198 rows of other texts have the published letters: start, counts and checksum."""
    row = VECTORS["gpqa-diamond-letters"]
    keys = (*gpqa_diamond.WRONG_ANSWERS, gpqa_diamond.RIGHT_ANSWER)
    rows = [{key: f"{key} {i}" for key in keys} for i in range(198)]
    letters = "".join(gold for _, gold in shuffle_options(rows))
    assert letters.startswith(row.expected["first_40"])
    differing = 198 - sum(
        min(Counter(letters)[letter], count) for letter, count in row.expected["counts"].items()
    )
    assert differing <= 2, "the two rows that offer the right text twice may differ"


def test_other_letters_of_the_known_file_are_refused() -> None:
    """A Python that shuffles otherwise is found out before it costs a score."""
    with pytest.raises(DataError, match="the gold letters have sha256"):
        check_letters("A" * 198)


def test_the_known_file_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the checksum is the known one, the letters are checked; otherwise they are not."""
    seen: list[str] = []
    monkeypatch.setattr(gpqa_diamond, "check_letters", seen.append)
    load(OWN, allow_altered=True)
    assert seen == []
    digest = hashlib.sha256(OWN.read_bytes()).hexdigest()
    monkeypatch.setattr(gpqa_diamond, "DIAMOND_CSV", digest)
    dataset = load(OWN, allow_altered=True)
    assert seen == ["".join(sample.target for sample in dataset.samples)]


def test_altered_data_is_refused() -> None:
    """Another file is refused with both checksums, and the gated source is named as such."""
    with pytest.raises(DataError, match="which is none of") as caught:
        load(OWN)
    assert DIAMOND_CSV in str(caught.value)
    assert GpqaDiamond.source.gated
    assert not GpqaDiamond.publishable


@pytest.mark.parametrize(
    ("text", "option"),
    [
        (None, " "),
        ("", " "),
        ("None", " "),
        (" a  b ", "a b"),
        ("a   b", "a  b"),
        ("Head [title]rest", "Head. rest"),
        ("nano", "nano"),
    ],
)
def test_options_are_cleaned_in_one_pass(text: str | None, option: str) -> None:
    """Missing texts become a blank, double blanks are halved once, a title mark is a full stop."""
    assert clean_option(text) == option


def test_own_rows() -> None:
    """Ids carry row and checksum, the question keeps its blanks, duplicate options do not disturb."""
    dataset = load(OWN, allow_altered=True)
    first, second, third = dataset.samples
    digest = hashlib.sha256(b"What falls down?\n").hexdigest()
    assert first.id == f"0-{digest[:12]}"
    assert first.data == {"n_options": 4, "question_sha256": digest}
    assert first.subset == "Physics (general)"
    assert "What falls down?\n\nA) " in first.messages[0]["content"]
    assert "gold. glass" in second.messages[0]["content"]
    lines = third.messages[0]["content"].splitlines()[-4:]
    assert lines["ABCD".index(third.target)] == f"{third.target}) a tree"
    assert lines.index(f"{third.target}) a tree") == min(
        i for i, line in enumerate(lines) if line.endswith(" a tree")
    )


@pytest.mark.parametrize("profile", ["card", "fixed"])
def test_gold_answers_score_one_and_others_zero(profile: Profile) -> None:
    """The gold answer in the prompt's form is right; another letter and silence are wrong."""
    benchmark = make(profile)
    for sample in load(OWN, allow_altered=True).samples:
        assert benchmark.score(sample, benchmark.gold(sample)).values["symbolic_correct"] == 1.0
        other = "B" if sample.target == "A" else "A"
        for text in (f"Answer: {other}", "", "no idea"):
            assert benchmark.score(sample, Solution(text)).values["symbolic_correct"] == 0.0


def test_fixed_accepts_only_the_four_letters() -> None:
    """`fixed` refuses a letter the item lacks, `card` takes it as a wrong answer."""
    sample = load(OWN, allow_altered=True).samples[0]
    assert make("card").score(sample, Solution("Answer: J")).answer == "J"
    assert make("fixed").score(sample, Solution("Answer: J")).answer is None


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    """Another table is refused by row and column."""
    path = tmp_path / "rows.csv"
    path.write_text("Question,Correct Answer\nWhat?,this\n")
    with pytest.raises(DataError, match="row 0: there is no field 'Incorrect Answer 1'"):
        load(path, allow_altered=True)
