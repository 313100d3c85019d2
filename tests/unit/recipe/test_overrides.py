"""`-o`, `-t` and `--limit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import RecipeError
from evalkit.recipe.document import Document, get
from evalkit.recipe.load import LoadedRecipe
from evalkit.recipe.overrides import parse_override
from evalkit.recipe.yaml_text import render_yaml

if TYPE_CHECKING:
    from pathlib import Path

Load = Callable[..., LoadedRecipe]

TWO = "models: {m: /m}\ntasks:\n  a: {limit: 5, params: {x: {y: 1}}}\n  v.1: {}\n  v: {}\n"
PARAMS = st.recursive(
    st.booleans() | st.integers() | st.text() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("a.limit=7", "tasks.a.limit", 7),
        ("tasks.a.limit=7", "tasks.a.limit", 7),
        ("v.1.limit=7", "tasks.v.1.limit", 7),
        ("v.limit=7", "tasks.v.limit", 7),
        ("tasks.new.limit=7", "tasks.new.limit", 7),
        ("a.params.x.z=[1, b]", "tasks.a.params.x.z", [1, "b"]),
        ("generation.stop=['=']", "generation.stop", ["="]),
        ("request.system_message=", "request.system_message", ""),
        ("generation.seed=null", "generation.seed", None),
        ("serving.extra_args.a.b=true", "serving.extra_args.a.b", True),
        ("serving.env.A=1", "serving.env.A", 1),
        ("cluster.time_min=10", "cluster.time_min", 10),
        ("cluster.template=x", "cluster.template", "x"),
        (" description =on", "description", "on"),
    ],
)
def test_set(override: str, path: str, value: object, load: Load) -> None:
    """A key is set by its path; a task's name alone will do; names may hold dots."""
    loaded = load(TWO, override)
    keys = path.split(".")
    if "v.1" in path:
        keys = ["tasks", "v.1", "limit"]
    if "a.b" in path:
        keys = ["serving", "extra_args", "a.b"]
    assert get(loaded.raw, tuple(keys)) == value
    assert loaded.sources[path] == "-o " + override.partition("=")[0]


@given(PARAMS)
def test_any_value(value: Any) -> None:
    """Whatever YAML says after the equals sign is the value, equals signs included."""
    text = render_yaml(value)
    document = Document({"tasks": {"a": {}}})
    parsed = parse_override(f"a.params.p={text}", document)
    assert parsed.data == {"tasks": {"a": {"params": {"p": value}}}}


def failure(text: str) -> str:
    """How the message about an override begins, empty for a good one."""
    try:
        parse_override(text, Document({"tasks": {"a": {}}}))
    except RecipeError as error:
        return error.message[:3]
    return ""


@given(st.text())
def test_any_text(text: str) -> None:
    """A text is an override or a RecipeError that begins with it, never another failure."""
    assert failure(text) in ("", "-o ")


def test_mapping_merges(load: Load) -> None:
    """A mapping is merged into what is there; a later override wins."""
    task = load(TWO, "a={repeats: 2, limit: 1}", "a.limit=2").recipe.tasks["a"]
    assert (task.repeats, task.limit, task.params) == (2, 2, {"x": {"y": 1}})


def test_short_forms(load: Load, tmp_path: Path) -> None:
    """Short forms work in an override; a path is relative to where it is typed."""
    assert list(load(TWO, "tasks=[v, a]").recipe.tasks) == ["v", "a"]
    assert load(TWO, "models.m=o/n").recipe.models["m"].hub == "o/n"
    loaded = load(TWO, "model=./ck")
    assert {name: model.path for name, model in loaded.recipe.models.items()} == {"ck": "./ck"}


def test_other_kind(load: Load) -> None:
    """Another kind of serving replaces the old one whole."""
    text = TWO + "serving: {max_num_seqs: 4}\n"
    serving = load(text, "serving.kind=external", "serving.base_url=http://x/v1").recipe.serving
    assert serving.kind == "external"


def test_delete(load: Load) -> None:
    """`~KEY` deletes, by a task's name too."""
    loaded = load(TWO, "~a.limit", "~tasks.v")
    assert loaded.recipe.tasks["a"].limit is None
    assert list(loaded.recipe.tasks) == ["a", "v.1"]
    assert "tasks.a.limit" not in loaded.sources


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a", "-o a: not of the form KEY=VALUE\nTo delete a key, write -o '~KEY'."),
        ("=1", "-o =1: not of the form KEY=VALUE\nTo delete a key, write -o '~KEY'."),
        (
            "a.limt=1",
            "-o a.limt: tasks.a: unknown key 'limt'. Did you mean 'limit'? Valid keys: benchmark",
        ),
        (
            "a.top_p=1",
            "-o a.top_p: tasks.a: unknown key 'top_p'. Did you mean 'generation.top_p'? ",
        ),
        ("taks.a=1", "-o taks.a: unknown key 'taks'. Did you mean 'tasks'? Valid keys: name, "),
        (
            "zzz=1",
            "-o zzz: unknown key 'zzz'. Valid keys: name, description, profile, models, serving",
        ),
        (
            "a.limit.x=1",
            "-o a.limit.x: tasks.a.limit takes a whole number of at least 1, or null; ",
        ),
        ("a.limit=[", "-o a.limit:1: not valid YAML: "),
        ("~a.limt", "-o ~a.limt: there is no a.limt to delete."),
        (
            "~tasks.a.limt",
            "-o ~tasks.a.limt: there is no tasks.a.limt to delete. Did you mean 'tasks.a.limit'?",
        ),
        ("~a.limit=3", "-o ~a.limit=3: a deletion takes no value\nWrite -o '~KEY'."),
        (
            "a.limit=x",
            "-o a.limit tasks.a.limit: expected a whole number of at least 1, or null, found 'x'",
        ),
        ("cluster.sbatch=3", "-o cluster.sbatch cluster.sbatch: expected a mapping, found 3"),
    ],
)
def test_errors(override: str, message: str, load: Load) -> None:
    """A wrong override is answered with itself, the key and the nearest valid one."""
    with pytest.raises(RecipeError) as caught:
        load(TWO, override)
    assert str(caught.value).startswith(message)


def test_select_tasks(load: Load) -> None:
    """`-t` keeps tasks in the recipe's order."""
    assert list(load(TWO, tasks=["v", "a"]).recipe.tasks) == ["a", "v"]


def test_select_unknown_task(load: Load) -> None:
    """An unknown task is answered with the tasks there are."""
    with pytest.raises(RecipeError) as caught:
        load(TWO, tasks=["v.2"])
    assert str(caught.value) == (
        "-t v.2: the recipe has no such task. Did you mean 'v.1'? Tasks: a, v.1, v"
    )


def test_limit(load: Load) -> None:
    """`--limit` is the most a task gets; a smaller limit of its own stays."""
    loaded = load(TWO + "  w: {limit: '${env:W}'}\n", limit=6, env={"W": "9"})
    assert {name: task.limit for name, task in loaded.recipe.tasks.items()} == {
        "a": 5,
        "v.1": 6,
        "v": 6,
        "w": 6,
    }
    assert loaded.raw["tasks"]["w"]["limit"] == 6
    assert loaded.sources["tasks.v.limit"] == "--limit"


def test_limit_zero(load: Load) -> None:
    """A limit below one sample is refused."""
    with pytest.raises(RecipeError, match="--limit 0: expected a whole number of at least 1"):
        load(TWO, limit=0)


def test_wrong_tasks(load: Load) -> None:
    """Tasks of a wrong type are left to validation, whatever is selected or limited."""
    with pytest.raises(RecipeError) as caught:
        load("model: /m\ntasks: 5", tasks=["a"], limit=3)
    assert str(caught.value) == "r.yaml:2 tasks: expected a mapping with at least 1 entry, found 5"
