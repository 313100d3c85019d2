"""MMLU-Pro: the real data, its prompts byte by byte, and its scoring."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from evalkit.benchmarks.contract import Dataset, Sample, Solution
from evalkit.benchmarks.data import DataAccess
from evalkit.benchmarks.mmlu_pro import MmluPro
from evalkit.benchmarks.registry import make_benchmark
from evalkit.errors import DataError, RecipeError
from evalkit.recipe.schema import DataOverride, Profile
from tests.unit.vectors import SHARED, TESTS, load_rows

FULL = SHARED / "mmlu_pro" / "mmlu_pro_test_2024-10.jsonl.gz"
STRATIFIED = SHARED / "mmlu_pro" / "mmlu_pro_sample700.jsonl"
OWN = TESTS / "data" / "samples" / "mmlu_pro.jsonl"
PER_CATEGORY = {
    "math": 1351,
    "physics": 1299,
    "chemistry": 1132,
    "law": 1101,
    "engineering": 969,
    "other": 924,
    "economics": 844,
    "health": 818,
    "psychology": 798,
    "business": 789,
    "biology": 717,
    "philosophy": 499,
    "computer_science": 410,
    "history": 381,
}
PER_OPTIONS = {10: 9982, 9: 801, 8: 320, 7: 158, 6: 92, 5: 52, 4: 607, 3: 20}


def make(profile: Profile = "card", **params: Any) -> MmluPro:
    """The benchmark as a recipe makes it."""
    benchmark = make_benchmark("mmlu_pro", params, profile)
    assert isinstance(benchmark, MmluPro)
    return benchmark


def load(path: Path, benchmark: MmluPro | None = None, **override: Any) -> Dataset:
    """The data set from a file."""
    access = DataAccess("mmlu", DataOverride(path=str(path), **override), path.parent)
    return (benchmark or make()).load(access)


@pytest.fixture(scope="module")
def full() -> Dataset:
    """The full test set as of October 2024."""
    return load(FULL)


def test_full_set_has_the_published_counts(full: Dataset) -> None:
    """12,032 questions by rising id, with the known numbers per subject and of options."""
    ids = [int(sample.id) for sample in full.samples]
    assert len(ids) == 12032
    assert ids == sorted(ids)
    assert (ids[0], ids[-1]) == (70, 12256)
    assert Counter(sample.subset for sample in full.samples) == PER_CATEGORY
    assert Counter(sample.data["n_options"] for sample in full.samples) == PER_OPTIONS
    assert (full.provenance.n_rows, full.provenance.altered) == (12032, False)


def test_gold_letter_is_the_answer_not_its_index(full: Dataset) -> None:
    """The row whose index contradicts its letter keeps the letter."""
    (odd,) = [sample for sample in full.samples if sample.id == "3983"]
    assert odd.target == "C"


@pytest.mark.parametrize("profile", ["card", "fixed"])
def test_gold_answers_score_one_and_others_zero(full: Dataset, profile: Profile) -> None:
    """Every gold answer is right, and the next letter, a wrong form and silence are wrong."""
    benchmark = make(profile)
    for sample in full.samples:
        gold = benchmark.score(sample, benchmark.gold(sample))
        assert (gold.values, gold.answer) == ({"symbolic_correct": 1.0}, sample.target)
        other = "B" if sample.target == "A" else "A"
        wrong = benchmark.score(sample, Solution(f"Answer: \\boxed{{{other}}}"))
        assert (wrong.values, wrong.answer) == ({"symbolic_correct": 0.0}, other)
        silent = benchmark.score(sample, Solution(""))
        assert (silent.values, silent.answer) == ({"symbolic_correct": 0.0}, None)


def test_prompts_are_the_originals() -> None:
    """The rendered user messages have the lengths and checksums of the original harness."""
    rows = [row for row in load_rows("prompt_render") if row.input["benchmark"] == "mmlu_pro"]
    assert rows
    for row in rows:
        dataset = load(SHARED / row.input["file"], make(prompt=row.input["prompt"]))
        (sample,) = [s for s in dataset.samples if s.id == str(row.input["question_id"])]
        (message,) = sample.messages
        assert message["role"] == "user"
        assert len(message["content"]) == row.expected["n_chars_user"]
        digest = hashlib.sha256(message["content"].encode()).hexdigest()
        assert digest == row.expected["sha256_of_user"]


def test_stratified_file_is_known_data() -> None:
    """Fifty questions of each subject, not marked as altered."""
    dataset = load(STRATIFIED)
    assert set(Counter(sample.subset for sample in dataset.samples).values()) == {50}
    assert not dataset.provenance.altered


def test_own_rows_render_verbatim() -> None:
    """Options keep their blanks and braces, the question loses only its line ends, order is by id."""
    dataset = load(OWN, allow_altered=True)
    assert [sample.id for sample in dataset.samples] == ["7", "11", "23", "24"]
    assert dataset.provenance.altered
    problem = dataset.samples[1].messages[0]["content"].split("\n\n", 1)[1]
    assert problem.startswith("Which of these numbers is even?\n\nA) 1\nB)   2\nC) 3\n")
    assert problem.endswith("\nJ) 17")
    assert "\nB) {helium}\n" in dataset.samples[2].messages[0]["content"]
    assert dataset.samples[0].subset == "computer_science"


def test_unknown_data_is_refused() -> None:
    """Rows with another checksum need the recipe's consent."""
    with pytest.raises(DataError, match="which is none of"):
        load(OWN)


def test_profiles_search_the_letter_differently() -> None:
    """`card` takes the lone capital of a formula in a box, `fixed` the answer line."""
    sample = Sample(id="1", target="D", data={"n_options": 4})
    text = "So \\boxed{\\langle H\\rangle \\ll \\Delta E}\n\n**Answer: D**"
    assert make("card").score(sample, Solution(text)).answer == "E"
    assert make("fixed").score(sample, Solution(text)).answer == "D"
    assert make("fixed", mcq_order="boxed_then_regex").score(sample, Solution(text)).answer == "E"


def test_profiles_sample_differently() -> None:
    """The card's literal numbers and its penalty; `fixed` sends plain ones."""
    assert MmluPro.generation["card"] == {
        "temperature": 0.99999,
        "top_p": 0.99999,
        "max_tokens": 131072,
        "presence_penalty": 1.0,
    }
    assert MmluPro.generation["fixed"]["presence_penalty"] == 0.0
    assert MmluPro.repeats == 1


def test_a_mistyped_parameter_lists_the_right_ones() -> None:
    """An unknown order, an unknown key and an unknown prompt are explained."""
    with pytest.raises(RecipeError, match="regex_then_boxed"):
        make(mcq_order="boxed")
    with pytest.raises(RecipeError, match="did you mean 'prompt'"):
        make(promt="x")
    with pytest.raises(RecipeError, match="neither shipped nor a file"):
        load(OWN, make(prompt="no/such/prompt"), allow_altered=True)


BROKEN = {
    "no question": ({"question": None}, "'question' must be a text"),
    "options as text": ({"options": "A) 1"}, "'options' must be a list of texts"),
    "one option": ({"options": ["1"]}, "1 options; allowed: 2 to 10"),
    "letter beyond the options": ({"answer": "K"}, "'K' is no letter of 4 options"),
    "id as text": ({"question_id": "1"}, "'question_id' must be a whole number"),
}


@pytest.mark.parametrize(("change", "reason"), BROKEN.values(), ids=BROKEN)
def test_broken_rows_are_named(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    """A row that is not MMLU-Pro's is refused with its number and what is wrong."""
    row = orjson.loads(OWN.read_bytes().splitlines()[-1])
    path = tmp_path / "rows.jsonl"
    path.write_bytes(orjson.dumps(row | change))
    with pytest.raises(DataError, match=f"mmlu_pro row 1: .*{reason}"):
        load(path, allow_altered=True)


def test_missing_field_and_repeated_id_are_named(tmp_path: Path) -> None:
    """A field that is not there is answered with those that are; ids must differ."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"question": "?"}')
    with pytest.raises(DataError, match="there is no field 'question_id'"):
        load(path, allow_altered=True)
    path.write_bytes(OWN.read_bytes().splitlines(keepends=True)[0] * 2)
    with pytest.raises(DataError, match="two rows have the id '11'"):
        load(path, allow_altered=True)
