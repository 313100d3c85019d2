"""What equals what: lines of output, and results that have come through JSON."""

import collections
import contextlib
import json
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.scoring.lcb.compare import UndecidedError, same_output, same_result
from evalkit.scoring.lcb.inside.values import encode_value

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("6\n", "6", True),
        ("6.0", "6", True),
        ("6.000000001", "6", False),
        ("1 2.50", "1.0 2.5", True),
        ("1_0", "10", True),
        (" a \n b ", "a\nb", True),
        ("a  b", "a b", False),
        ("a\n\nb", "a\nb", False),
        ("6\r\n7", "6\n7", True),
        ("1.0 a", "1 a", False),
        ("nan", "NaN", False),
        ("sNaN 1", "1 1", False),
        ("Infinity", "inf", True),
        ("", "\n", True),
        ("Yes", "YES", False),
    ],
)
def test_outputs(output: str, expected: str, same: bool) -> None:
    """As text by line, or as decimals by word."""
    assert same_output(output, expected) is same


@given(st.text())
def test_an_output_equals_itself(text: str) -> None:
    """Whatever it is."""
    assert same_output(text, text)


@pytest.mark.parametrize(
    ("result", "expected", "same"),
    [
        ((2, 1), "[2, 1]", True),
        ([(2, 1)], "[[2, 1]]", False),
        (1, "1.0", True),
        (True, "1", True),
        (0.1 + 0.2, "0.3", False),
        ("6", "6", False),
        (None, "null", True),
        ({1: 2}, '{"1": 2}', False),
        ({"a": (1,)}, '{"a": [1]}', False),
        (collections.Counter("a"), '{"a": 1}', True),
        (collections.deque([6]), "[6]", False),
        ({1}, "[1]", False),
        (6 + 0j, "6", True),
        (Decimal(6), "6", True),
        (Fraction(1, 2), "0.5", True),
        (2**70, str(2**70), True),
        (-(2**70), str(2**70), False),
        ([np.int64(6), np.float64(0.5), np.bool_(True)], "[6, 0.5, true]", True),
        (np.str_("a"), '"a"', True),
        (math.inf, "Infinity", True),
        (math.nan, "NaN", False),
        ({"other": "x"}, '{"other": "x"}', True),
        ({"tuple": [1]}, "[1]", False),
        ({}, "{}", True),
        ([], "{}", False),
    ],
)
def test_results(result: Any, expected: str, same: bool) -> None:
    """As Python compares them, one tuple on top aside."""
    assert same_result(encode_value(result), expected) is same


def test_an_object_that_equals_everything_equals_nothing() -> None:
    """What it says of itself stays behind."""

    class Anything:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    assert not same_result(encode_value(Anything()), "[1]")
    assert not same_result(encode_value([Anything()]), "[1]")


def test_nesting_without_end_is_some_other_object() -> None:
    """A list that holds itself is a result like any other wrong one."""
    endless: list[Any] = []
    endless.append(endless)
    assert not same_result(encode_value(endless), "[[]]")


@pytest.mark.parametrize("result", [np.array([1, 2]), [np.array([1])]])
def test_arrays_cannot_be_compared(result: Any) -> None:
    """Their comparison is an array, which the original graders stumble over."""
    with pytest.raises(UndecidedError):
        same_result(encode_value(result), "[1, 2]" if len(result) > 1 else "[[1]]")


@given(JSON, JSON)
def test_json_values_compare_as_in_python(result: Any, expected: Any) -> None:
    """Whatever JSON holds comes through unchanged."""
    assert same_result(encode_value(result), json.dumps(expected)) is (result == expected)
    assert same_result(encode_value(result), json.dumps(result))


@given(st.recursive(JSON, lambda inner: st.dictionaries(
    st.sampled_from(["int", "complex", "decimal", "fraction", "dict", "tuple", "other", "x"]),
    inner, max_size=2)))  # fmt: skip
def test_forged_results_raise_nothing_else(forged: Any) -> None:
    """The bytes come from the program: they are a result, or a ValueError."""
    with contextlib.suppress(ValueError, UndecidedError):
        same_result(json.dumps(forged).encode(), "[1]")
