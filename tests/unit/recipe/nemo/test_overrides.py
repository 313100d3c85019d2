"""`-o` and `-t` of the launcher."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import RecipeError
from evalkit.recipe.document import Document, get, merge, nested, walk
from evalkit.recipe.nemo.overrides import apply, assigned, parse, selected
from evalkit.recipe.yaml_text import render_yaml
from tests.unit.recipe.nemo.launcher import document, hosted, task

KEYS = st.sampled_from(["a", "b", "c", "with.dot", "x-y"])
SCALARS = st.none() | st.booleans() | st.integers() | st.text("ab:=~+ ", max_size=5)
TREES = st.recursive(SCALARS, lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=8)
MAPPINGS = st.dictionaries(KEYS, TREES, max_size=3)
PATHS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map(tuple)
NAMES = ["nemo_skills.ns_gpqa", "ns_hle", "x.ns_ruler", "y.ns_ruler"]


def leaves(data: Any) -> dict[Any, Any]:
    """Values by path, without the mappings around them."""
    paths = walk(data)
    return {path: get(data, path) for path in paths if not isinstance(get(data, path), dict)}


@given(MAPPINGS, PATHS, TREES)
def test_assigning_is_merging(data: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """`++PATH=VALUE` leaves what a merge of VALUE at PATH leaves, and VALUE's own places."""
    blocked = any(not isinstance(get(data, path[:n]), dict | None) for n in range(1, len(path)))
    text = f"++{'.'.join(path)}={render_yaml(value) if value != '' else ''}"
    if blocked:
        with pytest.raises(RecipeError, match="there are no keys below a value"):
            apply(text, document(data))
        return
    result = apply(text, document(data))
    whole = merge(data, nested(path, value))
    assert result.data == whole
    origin = f"-o ++{'.'.join(path)}"
    assert all(result.sources[path + below] == origin for below in leaves(value))


@given(MAPPINGS, PATHS, SCALARS)
def test_nothing_else_changes(data: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Values beside the path are as before, and the document that was given is too."""
    before = document(data)
    if any(not isinstance(get(data, path[:n]), dict | None) for n in range(1, len(path))):
        return
    after = assigned(before, path, value, "-o x")
    beside = (p for p in leaves(data) if p[: len(path)] != path[: len(p)])
    others = {p: get(data, p) for p in beside}
    assert {p: v for p, v in leaves(after.data).items() if p in others} == others
    assert before == document(data)


@given(MAPPINGS, PATHS, SCALARS)
def test_deleting_undoes_adding(data: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """A key that was added at the top and deleted again was never there."""
    key = "new"
    added = assigned(document(data), (key, *path), value, "-o x")
    again = apply(f"~{key}", added)
    assert again.data == data
    assert not [p for p in again.sources if p[0] == key]


@given(st.text("abc.=~+ {}[]:'\"\n", max_size=12))
def test_any_text_is_an_override_or_an_error(text: str) -> None:
    """No text ends in another exception."""
    base = document(hosted())
    with contextlib.suppress(RecipeError):
        assert isinstance(apply(text, base).data, dict)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=3", 3),
        ("a.b=[1, x]", [1, "x"]),
        ("a.b={c: null}", {"c": None}),
        ("a.b=", ""),
        ("a.b=null", None),
        ("a.b=10:00:00", "10:00:00"),
        ("a.b=x=y", "x=y"),
        ("a.b='++p=[q::R]'", "++p=[q::R]"),
    ],
)
def test_values(text: str, value: Any) -> None:
    """Values are YAML 1.2 in our reading: no times as numbers, an empty one is empty text."""
    assert get(apply(f"++{text}", Document({})).data, ("a", "b")) == value


def test_a_plain_assignment_needs_a_key_that_is_known() -> None:
    """Keys that the launcher has may be set where they are not; others need `++`."""
    base = document(hosted())
    limit = "evaluation.nemo_evaluator_config.config.params.limit_samples"
    result = apply(f"{limit}=10", base)
    assert get(result.data, tuple(limit.split("."))) == 10
    with pytest.raises(
        RecipeError, match=r"unknown key 'limit_sample'\. Did you mean 'limit_samples'\?"
    ):
        apply(f"{limit[:-1]}=10", base)
    assert apply(f"++{limit[:-1]}=10", base) != base
    with pytest.raises(RecipeError, match=r"-o \+execution\.output_dir: the key is there"):
        apply("+execution.output_dir=x", base)
    assert apply("+execution.mode=parallel", base).data["execution"]["mode"] == "parallel"


def test_deleting() -> None:
    """A key that is not there, another value and an item of a list are errors."""
    base = document(hosted())
    assert "output_dir" not in apply("~execution.output_dir", base).data["execution"]
    assert apply("~execution.output_dir=./out", base).data["execution"] == {}
    with pytest.raises(RecipeError, match=r"no execution\.output_dirs to delete\. Did you mean"):
        apply("~execution.output_dirs", base)
    with pytest.raises(RecipeError, match="its value is another one"):
        apply("~execution.output_dir=x", base)
    with pytest.raises(RecipeError, match="keep their positions"):
        apply("~evaluation.tasks.0", base)


@pytest.mark.parametrize(
    ("name", "index"), [("nemo_skills.ns_gpqa", 0), ("ns_gpqa", 0), ("ns_hle", 1), ("2", 2)]
)
def test_tasks_are_named(name: str, index: int) -> None:
    """By the whole name, by the end behind a dot, or by position."""
    base = document(hosted(*NAMES))
    result = apply(f"evaluation.tasks.{name}.container=c", base)
    assert result.data["evaluation"]["tasks"][index]["container"] == "c"
    assert result.sources["evaluation", "tasks", index, "container"].endswith(f"{name}.container")


@pytest.mark.parametrize(
    ("names", "name", "words"),
    [
        (NAMES, "ns_gqpa", "no task is named ns_gqpa"),
        (NAMES, "ns_ruler", r"more than one task \(x\.ns_ruler, y\.ns_ruler\) is named"),
        (NAMES, "9", "the list has no item 9. Items: 0 to 3"),
        (["a", "b", "a"], "b", "the tasks a are there several times, so tasks cannot be named"),
    ],
)
def test_tasks_that_are_not_named(names: list[str], name: str, words: str) -> None:
    """A name of none, of two, or beside one that is there twice is an error."""
    with pytest.raises(RecipeError, match=words):
        apply(f"evaluation.tasks.{name}.container=c", document(hosted(*names)))


def test_a_task_that_is_there_twice_has_positions() -> None:
    """Positions work where names do not."""
    base = document(hosted("a", "b", "a"))
    result = apply("evaluation.tasks.2.container=c", base)
    assert [t.get("container") for t in result.data["evaluation"]["tasks"]] == [None, None, "c"]


def test_selecting() -> None:
    """A name selects all instances, NAME.N one, in the file's order; what is not there is an error."""
    names = ["ns_a", "h.ns_b", "ns_a", "ns_c"]
    assert selected(names, []) == [0, 1, 2, 3]
    assert selected(names, ["ns_c", "ns_a"]) == [0, 2, 3]
    assert selected(names, ["ns_a.2", "h.ns_b"]) == [1, 2]
    assert selected(names, ["ns_b"]) == [1]
    with pytest.raises(RecipeError, match=r"-t ns_a\.1: the file has no such task") as caught:
        selected(names, ["ns_a.1"])
    assert caught.value.hint == "Tasks: ns_a.0, h.ns_b.1, ns_a.2, ns_c.3."


def test_what_is_no_override() -> None:
    """Text without a value is one only behind `~`."""
    assert parse("~a.b").value is None
    assert parse("++a=").value == ""
    for text in ("a.b", "=3", "", "+~a=1"):
        with pytest.raises(RecipeError, match="not of the form PATH=VALUE"):
            parse(text)


def test_nested_parameters_reach_a_task() -> None:
    """The documented example: repeats of one task."""
    base = document(hosted(task("ns_gpqa", {"num_repeats": 8}), "ns_wmt24pp"))
    path = "nemo_evaluator_config.config.params.extra.num_repeats"
    result = apply(f"evaluation.tasks.ns_gpqa.{path}=2", base)
    assert result.data["evaluation"]["tasks"][0] == task("ns_gpqa", {"num_repeats": 2})
    below_nothing = apply(f"evaluation.tasks.ns_wmt24pp.{path}=2", base)
    assert below_nothing.data["evaluation"]["tasks"][1] == task("ns_wmt24pp", {"num_repeats": 2})
