"""Addition: the same questions from the same seed, and right answers score."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.benchmarks.addition import Addition, AdditionParams
from evalkit.benchmarks.contract import Sample, Solution
from evalkit.benchmarks.data import DataAccess
from evalkit.recipe.schema import DataOverride

ACCESS = DataAccess("addition", DataOverride(), Path())


QUESTIONS = [
    ("open-0", "What is 97 + 5?", "102", "2_digits"),
    ("open-1", "What is 65 + 51?", "116", "2_digits"),
    ("open-2", "What is 61 + 74?", "135", "2_digits"),
]
CHOICE = ("What is 97 + 5?\n\nA) 102\nB) 112\nC) 101\nD) 103", "A")


def make(**params: object) -> Addition:
    """The benchmark with these parameters."""
    return Addition(AdditionParams.model_validate(params), "card")


def question(sample: Sample) -> str:
    """The text that is asked."""
    return str(sample.messages[0]["content"])


def test_first_questions() -> None:
    """The questions of the default seed: a change of them is another version of the benchmark."""
    samples = make(n=3).load(ACCESS).samples
    assert [(s.id, question(s), s.target, s.subset) for s in samples] == QUESTIONS
    [choice] = make(n=1, form="choice").load(ACCESS).samples
    assert (question(choice), choice.target) == CHOICE


@given(
    n=st.integers(1, 30),
    digits=st.integers(1, 9),
    seed=st.integers(0, 2**40),
    form=st.sampled_from(["open", "choice"]),
)
def test_questions_have_right_answers(n: int, digits: int, seed: int, form: str) -> None:
    """Every question is a sum within its digits, with its own id, and its gold answer scores 1."""
    benchmark = make(n=n, digits=digits, seed=seed, form=form)
    dataset = benchmark.load(ACCESS)
    assert dataset.provenance.n_rows == len(dataset.samples) == n
    assert len({sample.id for sample in dataset.samples}) == n
    for sample in dataset.samples:
        a, b = map(int, re.findall(r"What is (\d+) \+ (\d+)\?", question(sample))[0])
        assert max(a, b) < 10**digits
        assert sample.subset == f"{max(len(str(a)), len(str(b)))}_digits"
        if form == "choice":
            options = dict(re.findall(r"^([A-D])\) (\d+)$", question(sample), re.MULTILINE))
            assert len(set(options.values())) == len(options) == 4
            assert options[sample.target] == str(a + b)
        else:
            assert sample.target == str(a + b)
        assert benchmark.score(sample, benchmark.gold(sample)).values == {"correct": 1.0}


def test_seed_decides() -> None:
    """Equal seeds ask the same; others, and longer lists, differ as they must."""
    ten = make(n=10).load(ACCESS)
    assert ten == make(n=10).load(ACCESS)
    assert make(n=10, seed=1).load(ACCESS) != ten
    assert make(n=20).load(ACCESS).samples[:10] == ten.samples, "a limit is a prefix"
    assert make(n=20).load(ACCESS).provenance.sha256 != ten.provenance.sha256


@pytest.mark.parametrize(
    ("text", "score", "answer"),
    [
        (r"\boxed{5}", 1.0, "5"),
        (r"first \boxed{4}, no: \boxed{5}", 1.0, "5"),
        (r"\boxed{6}", 0.0, "6"),
        ("5", 0.0, None),
        ("", 0.0, None),
    ],
)
def test_open_answers(text: str, score: float, answer: str | None) -> None:
    """The last box counts; without one there is no answer."""
    found = make().score(Sample(id="x", target="5"), Solution(text))
    assert (found.values["correct"], found.answer) == (score, answer)


@pytest.mark.parametrize(
    ("text", "score", "answer"),
    [
        ("So.\n\nAnswer: B", 1.0, "B"),
        (r"\boxed{B}", 1.0, "B"),
        ("Answer: C", 0.0, "C"),
        ("", 0.0, None),
    ],
)
def test_choices(text: str, score: float, answer: str | None) -> None:
    """The letter counts, on an answer line or in a box."""
    found = make(form="choice").score(Sample(id="x", target="B"), Solution(text))
    assert (found.values["correct"], found.answer) == (score, answer)
