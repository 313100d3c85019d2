"""YAML without its traps, with lines, and back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import RecipeError
from evalkit.recipe.yaml_text import parse_scalar, parse_yaml, render_yaml

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
DATA = st.recursive(
    PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10:00:00", "10:00:00"),
        ("2025-01-01", "2025-01-01"),
        ("on", "on"),
        ("No", "No"),
        ("012", "012"),
        ("+5", "+5"),
        ("0x1f", "0x1f"),
        ("1_000", "1_000"),
        ("0", 0),
        ("-7", -7),
        ("1e-5", 1e-5),
        (".5", 0.5),
        ("3.", 3.0),
        ("-.inf", -math.inf),
        (".INF", math.inf),
        ("True", True),
        ("false", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("<<", "<<"),
    ],
)
def test_scalar(text: str, value: object) -> None:
    """Only true and false are booleans, and only plain decimal numbers are numbers."""
    parsed = parse_scalar(text)
    assert (parsed, type(parsed)) == (value, type(value))
    assert parse_yaml(f"k: {text}\n" if text != "<<" else "k: '<<'", "f").data == {"k": value}


def test_nan() -> None:
    """`.nan` is not a number, and a number."""
    assert math.isnan(parse_scalar(".nan"))


@given(DATA)
def test_round_trip(data: object) -> None:
    """What is written reads back equal: quoted exactly where it must be."""
    parsed = parse_yaml(render_yaml(data), "f").data
    assert parsed == data
    assert repr(parsed) == repr(data)


def failure(text: str) -> str:
    """How the message about a text begins, empty for a good one."""
    try:
        parse_yaml(text, "f.yaml")
    except RecipeError as error:
        return error.message[:7]
    return ""


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_parses_or_says_where(text: str) -> None:
    """No text makes the parser fail in another way than with a RecipeError."""
    assert failure(text) in ("", "f.yaml:")


def test_lines() -> None:
    """Every key and list item has the line it stands in."""
    document = parse_yaml("a: 1\nb:\n  c: [x,\n    y]\n", "r.yaml")
    assert document.sources == {
        ("a",): "r.yaml:1",
        ("b",): "r.yaml:2",
        ("b", "c"): "r.yaml:3",
        ("b", "c", 0): "r.yaml:3",
        ("b", "c", 1): "r.yaml:4",
    }


def test_merge_key() -> None:
    """`<<` brings in keys below a mapping's own, from one mapping or several, the first winning."""
    text = "x: &x {p: 1, q: 1}\ny: &y {q: 2, r: 2}\na: {<<: *x, p: 5}\nb:\n  <<: [*x, *y]\n  r: 9\n"
    document = parse_yaml(text, "f")
    assert document.data["a"] == {"p": 5, "q": 1}
    assert document.data["b"] == {"p": 1, "q": 1, "r": 9}
    assert document.sources["b", "r"] == "f:6"


def test_keys_are_text() -> None:
    """A key is the text as written, whatever it looks like."""
    assert parse_yaml("1: a\non: b\n1.50: c\n", "f").data == {"1": "a", "on": "b", "1.50": "c"}


def test_explicit_text_tag() -> None:
    """`!!str` is allowed: it makes nothing but text."""
    assert parse_yaml("a: !!str 5", "f").data == {"a": "5"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "f:2 a: the key is given twice, first in line 1\nKeep one of them."),
        (
            "x:\n  a: 1\n  a: 2",
            "f:3 x.a: the key is given twice, first in line 2\nKeep one of them.",
        ),
        (
            "a: !!python/object:os.system x",
            "f:1: the tag !!python/object:os.system is not allowed here",
        ),
        ("a: !mine x", "f:1: the tag !mine is not allowed"),
        ("a: !!int x", "f:1: the tag !!int is not allowed here"),
        ("a: &a [*a]", "f:1: aliases repeat without end"),
        ("? [a]\n: 1", "f:1: a key must be plain text"),
        ("<<: 3", "f:1: << takes a mapping or a list of mappings"),
        ("a: \x00", "f:1: not valid YAML: a control character"),
        ("[" * 1200, "f: not valid YAML: nested too deeply"),
        ("a\n---\nb", "f:2: not valid YAML: but found another document\n  ---"),
        (
            "a: 1\nb:\n\tc: 2",
            "f:3: not valid YAML: found character '\\t' that cannot start any token\n  \tc: 2\n"
            "YAML is indented with spaces, not tabs.",
        ),
    ],
)
def test_errors(text: str, message: str) -> None:
    """A bad text is answered with its file, its line and what is wrong in it."""
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, "f")
    assert str(caught.value) == message


def test_syntax_error_hides_secrets() -> None:
    """The offending line is shown without the key that it holds."""
    with pytest.raises(RecipeError) as caught:
        parse_yaml("a: [sk-1234567890abcdef: ]]", "f")
    assert "sk-... (19 characters)" in str(caught.value)
    assert "1234567890" not in str(caught.value)


def test_aliases_do_not_explode() -> None:
    """Ten aliases of ten aliases ... are refused before they fill the memory."""
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(RecipeError, match="aliases repeat without end"):
        parse_yaml("\n".join(lines), "f")
