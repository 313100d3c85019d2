"""Strict and loose verdicts with checkers of the tests' own."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.errors import ScorerError
from evalkit.scoring.instruction_following import (
    Instruction,
    Verdict,
    build_checker,
    judge,
    loose_variants,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Exactly:
    """Follows a response that is one text; keeps what it was asked."""

    def __init__(self, instruction_id: str) -> None:
        self.id = instruction_id
        self.built: list[dict[str, Any]] = []
        self.seen: list[str] = []

    def build_description(self, **kwargs: Any) -> None:
        self.built.append(kwargs)
        kwargs.get("list", []).clear()

    def get_instruction_args(self) -> Mapping[str, Any] | None:
        return self.built[0] or None

    def check_following(self, value: str) -> bool:
        self.seen.append(value)
        return value == "yes"


class Raises(Exactly):
    """Raises on a response, unless it is `yes`."""

    def __init__(self, error: BaseException) -> None:
        super().__init__("raises")
        self.error = error

    def build_description(self, **kwargs: Any) -> None:
        raise AssertionError

    def check_following(self, value: str) -> bool:
        if value != "yes":
            raise self.error
        return True


def exactly() -> Exactly:
    """A fresh checker."""
    return Exactly("exactly")


def test_variants_are_the_eight_of_ifeval() -> None:
    """Whole, without first line, last line and both, stripped, and each without asterisks."""
    assert loose_variants("*a*\n b* \nc\n") == [
        "*a*\n b* \nc\n",
        "a\n b \nc\n",
        "b* \nc",
        "b \nc",
        "*a*\n b* \nc",
        "a\n b \nc",
        "b* \nc",
        "b \nc",
    ]


@pytest.mark.parametrize(
    ("response", "strict", "loose"),
    [
        ("yes", True, True),
        ("**yes**", False, True),
        ("Sure:\nyes", False, True),
        ("yes\nDone.", False, True),
        ("Sure:\n*yes*\nDone.", False, True),
        ("Sure:\n\nyes", False, True),
        ("Sure: yes", False, False),
        ("a\nb\nyes", False, False),
    ],
)
def test_modes(response: str, strict: bool, loose: bool) -> None:
    """Loose forgives asterisks and a first and last line, strict nothing."""
    assert judge(exactly, response) == Verdict(strict, loose)


@pytest.mark.parametrize("response", ["", " \n\t", "\n\n\n"])
def test_a_blank_response_is_not_shown_to_the_checker(response: str) -> None:
    """Nothing follows no instruction, whatever the checker would say."""
    made: list[Exactly] = []

    def build() -> Exactly:
        made.append(exactly())
        return made[-1]

    assert judge(build, response) == Verdict(False, False)
    assert [checker.seen for checker in made] == [[], []]


def test_each_mode_has_its_own_checker() -> None:
    """A checker that remembers starts anew for the loose mode, which stops at the first success."""
    made: list[Exactly] = []

    def build() -> Exactly:
        made.append(exactly())
        return made[-1]

    judge(build, "*yes*\n")
    assert [checker.seen for checker in made] == [["*yes*\n"], ["*yes*\n", "yes\n", "*yes*", "yes"]]


@pytest.mark.parametrize("error", [ZeroDivisionError("by 0"), KeyError("x"), csv.Error("quote")])
def test_an_exception_of_the_checker_is_not_followed(error: Exception) -> None:
    """It is kept in the verdict, and the other forms of the response are still tried."""
    name = type(error).__name__
    assert judge(lambda: Raises(error), "no") == Verdict(False, False, name)
    assert judge(lambda: Raises(error), "*yes*") == Verdict(False, True, name)
    assert judge(lambda: Raises(error), "yes") == Verdict(True, True)


def test_a_missing_resource_is_no_verdict() -> None:
    """What NLTK raises for data that is not there stops the scoring of the unit, in its own words."""
    missing = LookupError("\n*****\n  Resource punkt not found.\n  Please use ...\n*****\n")
    with pytest.raises(ScorerError, match=r"misses a resource: Resource punkt not found\."):
        judge(lambda: Raises(missing), "no")


@pytest.mark.parametrize("error", [MemoryError(), FileNotFoundError("x"), ImportError("x")])
def test_what_is_not_the_responses_fault_is_raised(error: Exception) -> None:
    """Memory, files and modules are ours."""
    with pytest.raises(type(error)):
        judge(lambda: Raises(error), "no")


def test_building() -> None:
    """Arguments are copied, and the prompt is given to a checker that has it among its arguments."""
    kwargs = {"N": 3.0, "list": ["a"]}
    make: Callable[[str], Exactly] = Exactly
    plain = build_checker(make, Instruction("x", kwargs), "the prompt")
    assert isinstance(plain, Exactly)
    assert (plain.id, plain.built) == ("x", [{"N": 3.0, "list": []}])
    assert kwargs == {"N": 3.0, "list": ["a"]}
    repeats = build_checker(make, Instruction("x", {"prompt": None}), "the prompt")
    assert isinstance(repeats, Exactly)
    assert repeats.built == [{"prompt": None}, {"prompt": "the prompt"}]
    assert [Verdict(True, True).word, Verdict(False, True).word, Verdict(False, False).word] == [
        "strict",
        "loose",
        "no",
    ]
