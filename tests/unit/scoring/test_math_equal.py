"""Whether two mathematical answers agree, rule by rule."""

import signal
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import ScorerError
from evalkit.scoring import math_equal as grader
from evalkit.scoring.math_equal import math_equal
from tests.unit.vectors import Row, load_rows

CASES = [(row, profile) for row in load_rows("math_equal") for profile in row.profile]


@pytest.mark.parametrize(
    ("row", "profile"), CASES, ids=[f"{row.id}-{profile}" for row, profile in CASES]
)
def test_vector(row: Row, profile: str) -> None:
    """Each vector gives its verdict under every state of the grader it names."""
    literal = profile == "ns-2511"
    gold, predicted = row.input["gold"], row.input["predicted"]
    assert math_equal(gold, predicted, literal_integers=literal) is row.expected


@given(st.integers(0, 999), st.integers(0, 2))
def test_integers_equal_themselves_in_any_usual_dress(number: int, zeros: int) -> None:
    """An integer answer is right bare, padded with zeros, in dollars, or with a full stop."""
    for text in (str(number), "0" * zeros + str(number), f"${number}$", f"{number}."):
        assert math_equal(str(number), text)


@given(st.integers(0, 999), st.integers(0, 999))
def test_integers_equal_only_themselves(gold: int, predicted: int) -> None:
    """Two integers agree exactly when they are the same number."""
    assert math_equal(str(gold), str(predicted)) is (gold == predicted)


@pytest.mark.parametrize(("predicted", "equal"), [("B", True), ("(B)", True), ("C", False)])
def test_gold_letter_is_compared_as_an_option(predicted: str, equal: bool) -> None:
    """A gold answer of one letter is an option, however the prediction dresses it."""
    assert math_equal(" B ", predicted) is equal


@pytest.mark.parametrize(
    "predicted", ["$\\frac{7}{14}$", "\\(\\frac{7}{14}\\)", "\\[\\frac{7}{14}\\]"]
)
def test_latex_environments_are_not_wrapped_again(predicted: str) -> None:
    """An answer that brings its own dollars or brackets is read as it is."""
    assert math_equal("1/2", predicted)
    assert not math_equal("1/3", predicted)


def test_words_are_compared_as_text() -> None:
    """Two texts of words agree up to blanks and are never handed to the symbolic grader."""
    assert math_equal("yes", "y es")
    assert not math_equal("yes", "no")


def test_other_threads_are_told_to_use_a_pool() -> None:
    """Outside the main thread the grader cannot keep its time limits: no verdict, not a wrong one."""
    caught: list[str] = []

    def grade() -> None:
        try:
            math_equal("1", "\\frac{2}{2}")
        except ScorerError as error:
            caught.append(str(error))

    thread = threading.Thread(target=grade)
    thread.start()
    thread.join()
    assert len(caught) == 1
    assert "signal" in caught[0]


def test_a_comparison_that_never_ends_has_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A power tower runs into the time limit: a ScorerError that shows both sides."""
    monkeypatch.setattr(grader, "VERIFY_TIMEOUT_S", 1)
    with pytest.raises(ScorerError, match=r"gold '70' with '9\^\{9\^\{9\}\}'.*Timeout"):
        math_equal("70", "9^{9^{9}}")
    assert signal.alarm(0) == 0, "the grader left an alarm behind"


def test_an_error_shows_the_start_of_a_long_answer() -> None:
    """The message of an error stays short, whatever the model wrote."""
    error = grader._failure("1", "x" * 10_000, "reason")
    assert len(str(error)) < 400


def test_interruption_is_not_a_grader_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C inside the grader ends the program; it does not become an unscored unit."""

    def interrupted(*_: object, **__: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(grader, "_equal", interrupted)
    with pytest.raises(KeyboardInterrupt):
        math_equal("1", "2")
