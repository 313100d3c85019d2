"""BFCL's pure verdicts against the vectors, and what becomes of strange answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.scoring.bfcl_checks import (
    CHECKER_FAILED,
    NO_TEXT,
    NO_TURN,
    WRONG_FORMAT,
    calls_of,
    final_text,
    judge_calls,
    judge_final_text,
    judge_relevance,
    render_calls,
)
from evalkit.scoring.bfcl_package import Entry, load_package
from tests.unit.vectors import Row, load_rows

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def entry(category: str, id_: str) -> tuple[Entry, Any]:
    """An entry with its descriptions unhinted, and its possible answer."""
    package = load_package()
    entries = package.entries(category, language_hint=False)
    number = next(n for n, each in enumerate(entries) if each["id"] == id_)
    return entries[number], package.answers(category)[number]


@pytest.mark.parametrize("row", load_rows("bfcl", kind="ast"), ids=lambda row: row.id)
def test_single_answers_are_judged_as_in_the_vectors(row: Row) -> None:
    """Both whether the answer is right, and the official name of its mistake."""
    category = row.input["category"]
    found, gold = entry(category, row.input["entry"])
    judged = judge_calls(load_package(), row.input["result"], found["function"], gold, category)
    assert {"valid": judged.valid, "error_type": judged.error_type} == row.expected


@pytest.mark.parametrize("row", load_rows("bfcl", kind="relevance"), ids=lambda row: row.id)
def test_relevance_is_judged_as_in_the_vectors(row: Row) -> None:
    """Broken arguments, texts and nothing at all call no function."""
    judged = judge_relevance(load_package(), row.input["result"], row.input["category"])
    assert judged.valid is row.expected["valid"]


@pytest.mark.parametrize("row", load_rows("bfcl", kind="agentic"), ids=lambda row: row.id)
def test_final_texts_are_judged_as_in_the_vectors(row: Row) -> None:
    """Whole words of the whole text, with the traps that the official checker has."""
    turns = [[row.input["last_message"]]]
    judged = judge_final_text(load_package(), turns, row.input["possible_answers"])
    assert judged.valid is row.expected["valid"]


@pytest.mark.parametrize(
    "row", load_rows("bfcl", kind="convert_to_function_call"), ids=lambda row: row.id
)
def test_calls_are_rendered_as_in_the_vectors(row: Row) -> None:
    """Arguments by name, each as Python's repr; where there is nothing to render, nothing is called."""
    expected = row.expected
    if isinstance(expected, list):
        assert render_calls(row.input["result"]) == expected
    assert calls_of(row.input["result"]) == (expected if isinstance(expected, list) else [])


@pytest.mark.parametrize(
    "step",
    ["text", "", [""], [None], [], [{}], [{"f": "{bad"}], [{"f": "[1]"}], [{"f": None}], None, 7],
)
def test_what_is_no_call_is_not_executed(step: Any) -> None:
    """Texts, empty answers and arguments that are no JSON object end a turn."""
    assert calls_of(step) == []


def test_the_last_text_of_a_dialogue_counts() -> None:
    """Calls after it do not hide it; without any text, or with another number of turns, it is wrong."""
    package = load_package()
    call = [{"f": "{}"}]
    assert final_text(["first", call, "second", call]) == "second"
    assert final_text([call]) is None
    assert judge_final_text(package, [["no", call, "It is 42."]], ["42"]).valid
    assert judge_final_text(package, [[call]], ["42"]).error_type == NO_TEXT
    assert judge_final_text(package, [["42"], ["42"]], ["42"]).error_type == NO_TURN
    assert judge_final_text(package, [], ["42"]).error_type == NO_TURN


def test_arguments_that_are_no_object_have_the_wrong_format() -> None:
    """JSON that is a list decodes, and is no call with arguments by name."""
    found, gold = entry("simple_python", "simple_python_0")
    step = [{"calculate_triangle_area": "[10, 5]"}]
    judged = judge_calls(load_package(), step, found["function"], gold, "simple_python")
    assert (judged.valid, judged.error_type) == (False, WRONG_FORMAT)


def test_a_checker_that_raises_on_an_answer_means_not_right() -> None:
    """A list of numbers where dictionaries are wanted breaks the official checker of their keys."""
    function = {
        "name": "f",
        "parameters": {
            "properties": {"a": {"type": "array", "items": {"type": "dict"}}},
            "required": ["a"],
        },
    }
    step, gold = [{"f": '{"a": [{"k": 1}]}'}], [{"f": {"a": [[7]]}}]
    judged = judge_calls(load_package(), step, [function], gold, "simple_python")
    assert (judged.valid, judged.error_type) == (False, CHECKER_FAILED)


@settings(max_examples=50)
@given(arguments=JSON, name=st.text(max_size=5))
def test_no_answer_breaks_the_verdict(arguments: Any, name: str) -> None:
    """Whatever JSON a call has, it is judged, and never right for another function."""
    found, gold = entry_of_triangle()
    step = [{name: json.dumps(arguments)}]
    assert not judge_calls(load_package(), step, found["function"], gold, "simple_python").valid
    assert judge_relevance(load_package(), step, "irrelevance").valid is not isinstance(
        arguments, dict
    )


_TRIANGLE: list[tuple[Entry, Any]] = []


def entry_of_triangle() -> tuple[Entry, Any]:
    """Read once."""
    if not _TRIANGLE:
        _TRIANGLE.append(entry("simple_python", "simple_python_0"))
    return _TRIANGLE[0]
