"""Humanity's Last Exam: prompts byte for byte, verdicts by each rule; the questions are not here."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.benchmarks.contract import Sample, Solution
from evalkit.benchmarks.data import DataAccess
from evalkit.benchmarks.hle import ALL_ROWS, Hle
from evalkit.benchmarks.prompt_templates import load_prompt
from evalkit.benchmarks.registry import make_benchmark
from evalkit.errors import DataError, JudgeError, ScorerError
from evalkit.recipe.schema import DataOverride, Profile
from evalkit.scoring.verdict import VerdictRule, read_confidence, read_verdict
from evalkit.store.records import Outcome, Reply
from tests.unit.vectors import TESTS, Row, load_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from evalkit.benchmarks.contract import Dataset

OWN = TESTS / "data" / "samples" / "hle.jsonl"
RULES: dict[str, VerdictRule] = {"card": "card", "ns-2511": "ns-2511", "fixed": "tolerant"}
RENDERED = {row.id: row for row in load_rows("prompt_render")}


def make(profile: Profile = "card", **params: Any) -> Hle:
    """The benchmark as a recipe makes it."""
    benchmark = make_benchmark("hle", params, profile)
    assert isinstance(benchmark, Hle)
    return benchmark


def load(path: Path = OWN, **params: Any) -> Dataset:
    """The data set from a file."""
    override = DataOverride(path=str(path))
    return make(**params).load(DataAccess("hle", override, path.parent))


@dataclass
class Judge:
    """Says what it is told to, in turn."""

    says: list[str | Reply]
    asked: list[tuple[Sequence[Mapping[str, Any]], Mapping[str, Any]]] = field(default_factory=list)

    async def judge(self, messages: Sequence[Mapping[str, Any]], *, overrides: Any = None) -> Reply:
        """The next text."""
        self.asked.append((messages, overrides))
        said = self.says.pop(0)
        return said if isinstance(said, Reply) else Reply(Outcome.OK, said)

    async def run(self, program: Any) -> Any:
        """A judge runs nothing."""
        raise AssertionError(program)


def graded(benchmark: Hle, sample: Sample, text: str, *says: str | Reply) -> tuple[Any, Judge]:
    """What was found about an answer, and what the judge was asked."""
    judge = Judge(list(says))
    return asyncio.run(benchmark.grade(sample, Solution(text), judge)), judge


@pytest.mark.parametrize("profile", RULES)
@pytest.mark.parametrize("row", load_rows("hle_verdict"), ids=lambda row: row.id)
def test_verdicts(row: Row, profile: str) -> None:
    """Each text by each rule that it has an expectation for."""
    if profile in row.profile:
        assert read_verdict(row.input["text"], RULES[profile]) is row.expected


def sha256(text: str) -> str:
    """Of the UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def test_prompts_are_those_of_the_card() -> None:
    """System and user message of a question, and the judge's message about an answer."""
    asked = RENDERED["hle-synthetic"]
    problem = asked.input["item"]["problem"]
    user = load_prompt("generic/hle").render(problem=problem)
    system = load_prompt("generic/hle-system").render()
    assert (sha256(user), sha256(system)) == (
        asked.expected["sha256_of_user"],
        asked.expected["sha256_of_system"],
    )
    judged = RENDERED["hle-judge-synthetic"]
    item = judged.input["item"]
    sample = Sample("x", target=item["expected_answer"], data={"question": item["problem"]})
    _, judge = graded(make(), sample, item["generation"], "Judgement: yes")
    [([message], overrides)] = judge.asked
    assert sha256(message["content"]) == judged.expected["sha256_of_user"]
    assert (message["role"], overrides) == ("user", {})


def test_rows_with_an_image_are_left_out() -> None:
    """What remains counts as the whole data set."""
    dataset = load()
    assert [sample.id for sample in dataset.samples] == ["sample-1", "sample-2"]
    assert [sample.subset for sample in dataset.samples] == ["Math", "Physics"]
    assert dataset.provenance.n_rows == 2
    assert set(dataset.prompts) == {"generic/hle", "generic/hle-system"}
    assert [message["role"] for message in dataset.samples[0].messages] == ["system", "user"]


def test_number_of_rows_of_the_whole_file(tmp_path: Path) -> None:
    """A file of all rows has as many without an image as the card's score is a share of."""
    row = orjson.loads(OWN.read_bytes().splitlines()[0])
    lines = [orjson.dumps({**row, "id": str(n)}) for n in range(ALL_ROWS)]
    path = tmp_path / "hle.jsonl"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match="2500 of 2500 questions have no image, 2158 must"):
        load(path)


def test_missing_field(tmp_path: Path) -> None:
    """It is named, with the row."""
    path = tmp_path / "hle.jsonl"
    path.write_text('{"id": "a", "question": "?", "image": ""}\n')
    with pytest.raises(DataError, match="hle row 1: there is no field 'answer'"):
        load(path)


SAMPLE = Sample("s", target="101", data={"question": "Which?"})


def test_gold_and_wrong_verdicts() -> None:
    """What the judge says is what counts."""
    benchmark = make()
    gold = benchmark.gold(SAMPLE)
    for said, value in (("Judgement: yes", 1.0), ("Judgement: no", 0.0)):
        found, _ = graded(benchmark, SAMPLE, gold.text, said)
        score = benchmark.score(SAMPLE, Solution(gold.text, grading=found))
        assert score.values == {"judge_correct": value, "confidence": 1.0, "no_verdict": 0.0}
        assert score.answer == "101"


def test_empty_answers_are_judged_too() -> None:
    """The judge sees them, and they have no answer."""
    benchmark = make()
    found, judge = graded(benchmark, SAMPLE, "", "Judgement: no")
    assert len(judge.asked) == 1
    assert benchmark.score(SAMPLE, Solution("", grading=found)).answer is None


def test_card_takes_silence_for_a_no() -> None:
    """As the harness behind the card: no second question, no error."""
    benchmark = make()
    found, judge = graded(benchmark, SAMPLE, "101", "I like it.")
    assert len(judge.asked) == 1
    values = benchmark.score(SAMPLE, Solution("101", grading=found)).values
    assert (values["judge_correct"], values["no_verdict"]) == (0.0, 1.0)


def test_fixed_asks_again() -> None:
    """Twice more, with other seeds, and the verdict that can be read counts."""
    benchmark = make("fixed")
    found, judge = graded(benchmark, SAMPLE, "101", "Hm.", "Well.", "**Judgement:** yes")
    assert [overrides for _, overrides in judge.asked] == [{}, {"seed": 1}, {"seed": 2}]
    assert found["texts"] == ["Hm.", "Well.", "**Judgement:** yes"]
    assert found["prompt_sha256"] == load_prompt("judge/hle").sha256
    assert benchmark.score(SAMPLE, Solution("101", grading=found)).values["judge_correct"] == 1.0


def test_fixed_gives_up_without_a_verdict() -> None:
    """That is an error of the judge and no wrong answer."""
    with pytest.raises(JudgeError, match="no verdict that can be read in 3 answers"):
        graded(make("fixed"), SAMPLE, "101", "Hm.", "Well.", "So.")


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.CONTEXT_OVERFLOW])
@pytest.mark.parametrize("profile", ["card", "fixed"])
def test_judge_that_does_not_read(profile: Profile, outcome: Outcome) -> None:
    """Nobody has judged then."""
    with pytest.raises(JudgeError, match="did not read the answer"):
        graded(make(profile), SAMPLE, "101", Reply(outcome, "", detail="too long"))


def test_unjudged_answer_has_no_score() -> None:
    """Not even a wrong one."""
    with pytest.raises(ScorerError, match="not judged"):
        make().score(SAMPLE, Solution("101"))


def test_official_judge_answers_in_json() -> None:
    """Its schema is asked for, its own confidence counts, and other text is asked for again."""
    benchmark = make(judge_prompt="judge/hle-official")
    said = {"extracted_final_answer": "101", "reasoning": "same", "correct": "yes"}
    text = orjson.dumps({**said, "confidence": 70, "strict": True}).decode()
    found, judge = graded(benchmark, SAMPLE, "101\nConfidence: 20%", "no JSON", text)
    (messages, first), (_, second) = judge.asked
    assert messages[0]["content"].startswith("Judge whether the following [response]")
    assert first["response_format"]["json_schema"]["strict"] is True
    assert second == {**first, "seed": 1}
    score = benchmark.score(SAMPLE, Solution("101", grading=found))
    assert score.values == {"judge_correct": 1.0, "confidence": 0.7, "no_verdict": 0.0}


@pytest.mark.parametrize(
    ("text", "confidence"),
    [
        ("Answer: 4\nConfidence: 85%", 0.85),
        ("**Confidence:** 7 %", 0.07),
        ("confidence: 100|\\%|", 1.0),
        ("Confidence: 250%", 1.0),
        ("Confidence: 12.5%", 0.12),
        ("I am sure.", 1.0),
    ],
)
def test_stated_confidence(text: str, confidence: float) -> None:
    """A fraction; certain where nothing is said."""
    assert read_confidence(text) == confidence


@given(st.text(alphabet="Judgement:*yesno \n", max_size=80))
def test_rules_never_fail(text: str) -> None:
    """Any text has a verdict or none."""
    assert read_verdict(text, "card") in (True, False)
    assert read_verdict(text, "tolerant") in (True, False, None)
    assert 0 <= read_confidence(text) <= 1


def test_rule_of_reading_is_no_part_of_the_grader() -> None:
    """What was said under one rule is read by another; only where that finds nothing is it asked more."""
    card, fixed = make(), make("fixed")
    clear, _ = graded(card, SAMPLE, "101", "**Judgement:** yes")
    hidden, _ = graded(card, SAMPLE, "101", "I like it.")
    assert [card.suffices(found) for found in (clear, hidden)] == [True, True]
    assert [fixed.suffices(found) for found in (clear, hidden)] == [True, False]
    scores = [
        benchmark.score(SAMPLE, Solution("101", grading=clear)).values["judge_correct"]
        for benchmark in (card, fixed)
    ]
    assert scores == [0.0, 1.0]  # by the card's rule two asterisks are no yes
    more, _ = graded(fixed, SAMPLE, "101", "I like it.", "Judgement: yes")
    assert card.score(SAMPLE, Solution("101", grading=more)).values["judge_correct"] == 0.0
    assert "verdict" not in Hle.grading_params
    assert "verdict" in Hle.scoring_params
