"""Whether a response follows its instructions, strictly and loosely, as IFEval and IFBench define it.

A checker belongs to somebody else and may raise on a strange response: that response then does not
follow the instruction, and the verdict says so (as the harness behind the card does). What is not the
response's fault is never a verdict: a missing resource, memory, a file or a module raises.

The loose mode accepts a response that follows the instruction after the usual wrapping is taken off.
Source: IFEval (Zhou et al. 2023, arXiv 2311.07911), whose rule IFBench keeps.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from evalkit.errors import ScorerError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Checker(Protocol):
    """One instruction's checker, as the official packages write them."""

    def build_description(self, **kwargs: Any) -> Any:
        """Take the instruction's arguments."""

    def get_instruction_args(self) -> Mapping[str, Any] | None:
        """The arguments it was built with."""

    def check_following(self, value: str) -> Any:
        """Whether a response follows the instruction."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of a prompt."""

    id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of its checker; none of them is null."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a response makes of one instruction."""

    strict: bool
    loose: bool
    error: str | None = None
    """Class of what the checker raised first, if it did: that form of the response is not followed."""

    @property
    def word(self) -> str:
        """`strict`, `loose` (only) or `no`."""
        return "strict" if self.strict else "loose" if self.loose else "no"


def build_checker(make: Callable[[str], Checker], instruction: Instruction, prompt: str) -> Checker:
    """A fresh checker for an instruction; raises whatever it raises on arguments it does not know."""
    checker = make(instruction.id)
    checker.build_description(**copy.deepcopy(dict(instruction.kwargs)))
    arguments = checker.get_instruction_args()
    if arguments and "prompt" in arguments:
        checker.build_description(prompt=prompt)
    return checker


def judge(build: Callable[[], Checker], response: str) -> Verdict:
    """The verdict on a response; each mode has a checker of its own, since some remember.

    Raises ScorerError where the checker needs a resource that is not here, and MemoryError, OSError
    and ImportError as they come.
    """
    errors: list[str] = []
    strict = _follows(build(), response, errors)
    checker = build()
    loose = any(_follows(checker, text, errors) for text in loose_variants(response))
    return Verdict(strict, loose, errors[0] if errors else None)


def loose_variants(response: str) -> list[str]:
    """The eight texts of which one must pass: whole and without first, last or both lines, each
    also without asterisks."""
    lines = response.split("\n")
    cut = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    return [text for whole in (response, *cut) for text in (whole, whole.replace("*", ""))]


def _follows(checker: Checker, text: str, errors: list[str]) -> bool:
    """Whether a text follows the instruction; a blank one never does, and is not shown to the checker."""
    if not text.strip():
        return False
    try:
        return bool(checker.check_following(text))
    except (MemoryError, OSError, ImportError):
        raise
    except Exception as error:  # a checker may raise anything, csv.Error included
        if (
            type(error) is LookupError
        ):  # what NLTK raises for a resource; an index or a key has its own
            raise ScorerError(f"a checker misses a resource: {_first_words(error)}") from error
        errors.append(type(error).__name__)
        return False


def _first_words(error: Exception) -> str:
    """The line that says something, in an error that NLTK frames with asterisks."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line.strip("*")), type(error).__name__)
