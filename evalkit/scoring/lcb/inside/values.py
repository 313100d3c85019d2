"""A function's result as JSON, with tags for what JSON lacks, so that it can be compared elsewhere.

list [..]   str, bool, None, float (NaN and infinities included), int as they are
{"tuple": [..]}  {"dict": {..}}  {"int": hexadecimal}  {"complex": [real, imaginary]}
{"decimal": text}  {"fraction": [hexadecimal, hexadecimal]}  {"array": 0}  {"other": type name}
"""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

_PLAIN_INT = 2**53
_DEEPEST = 900
"""Nesting; the JSON module of both sides gives up at about a thousand."""


def encode_value(value: Any) -> bytes:
    """The value; what is nested too deeply counts as some other object."""
    try:
        return json.dumps(_tagged(value, 0)).encode()
    except RecursionError:
        return b'{"other": "deep"}'


def _tagged(value: Any, depth: int) -> Any:  # noqa: PLR0911 - one line per kind of value
    if depth > _DEEPEST:
        raise RecursionError
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        number = int.__index__(value)
        return number if abs(number) < _PLAIN_INT else {"int": hex(number)}
    if isinstance(value, float):
        return float.__add__(value, 0.0)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list):
        return [_tagged(each, depth + 1) for each in value]
    if isinstance(value, tuple):
        return {"tuple": [_tagged(each, depth + 1) for each in value]}
    return _tagged_other(value, depth)


def _tagged_other(value: Any, depth: int) -> Any:  # noqa: PLR0911 - one line per kind of value
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {"dict": {key: _tagged(each, depth + 1) for key, each in value.items()}}
        return {"other": "dict"}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, Decimal):
        return {"decimal": str(value)}
    if isinstance(value, Fraction):
        return {"fraction": [hex(value.numerator), hex(value.denominator)]}
    if type(value).__module__.partition(".")[0] == "numpy":
        if getattr(value, "shape", None) == () and type(value).__name__ != "ndarray":
            return _tagged(value.item(), depth + 1)
        return {"array": 0}
    return {"other": type(value).__name__}
