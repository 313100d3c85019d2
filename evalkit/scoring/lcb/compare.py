"""Whether what a program gave is what was expected; runs outside of the sandbox, on plain values.

Lines of standard output are equal as text, or as lists of decimal numbers, without a tolerance. A
function's result is equal as Python's `==` has it (`1 == 1.0 == True`), with one tuple on top taken for
a list. Results come out of the sandbox as JSON with tags for what JSON lacks; an object that says of
itself what it is equal to is equal to nothing here.
"""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any


def same_output(output: str, expected: str) -> bool:
    """Compare standard output, blanks around the whole and around each line aside."""
    found, wanted = _lines(output), _lines(expected)
    return len(found) == len(wanted) and all(map(_same_line, found, wanted))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def _same_line(found: str, wanted: str) -> bool:
    if found == wanted:
        return True
    try:
        return _decimals(found) == _decimals(wanted)
    except InvalidOperation:  # a word that is no number, or a signalling NaN, which equals nothing
        return False


def _decimals(line: str) -> list[Decimal]:
    return [Decimal(word) for word in line.split()]


class UndecidedError(Exception):
    """Comparing raises, as it does for an array in place of a list."""


def same_result(encoded: bytes, expected: str) -> bool:
    """Compare a function's result, as `inside/values.py` writes it, with JSON.

    Raises UndecidedError where the original comparison raises, ValueError for texts that are no JSON.
    """
    found, wanted = json.loads(encoded), json.loads(expected)
    if isinstance(found, dict) and isinstance(found.get("tuple"), list):
        found = found["tuple"]
    return _same(found, wanted)


def _same(found: Any, wanted: Any) -> bool:
    match found:
        case list():
            return (
                isinstance(wanted, list)
                and len(found) == len(wanted)
                and all(map(_same, found, wanted))
            )
        case {"array": _}:
            raise UndecidedError("the result is an array, whose comparison is no single truth")
        case {"dict": dict(content)}:
            return _same_dict(content, wanted)
        case {"tuple": _} | {"other": _}:
            return False
        case dict():
            return bool(_number(found) == wanted)
        case _:
            return bool(found == wanted)


def _same_dict(found: dict[str, Any], wanted: Any) -> bool:
    return (
        isinstance(wanted, dict)
        and found.keys() == wanted.keys()
        and all(_same(value, wanted[key]) for key, value in found.items())
    )


def _number(found: dict[str, Any]) -> int | complex | Decimal | Fraction:
    """A number that JSON lacks. Raises ValueError where it is none."""
    match found:
        case {"int": str(text)}:
            return int(text, 16)
        case {"complex": [int() | float() as real, int() | float() as imaginary]}:
            return complex(real, imaginary)
        case {"decimal": str(text)}:
            try:
                return Decimal(text)
            except InvalidOperation as error:
                raise ValueError(f"no decimal number: {text[:50]!r}") from error
        case {"fraction": [str(numerator), str(denominator)]} if int(denominator, 16):
            return Fraction(int(numerator, 16), int(denominator, 16))
    raise ValueError("a result with an unknown tag")
