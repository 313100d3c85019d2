"""The merged recipe that is recorded with a run loads again to the same one."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.recipe.load import LoadedRecipe, load_recipe
from evalkit.recipe.sweep import WILDCARD
from evalkit.recipe.values import SENT_BY_US
from evalkit.recipe.yaml_text import render_yaml
from evalkit.shipped import shipped_recipes

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)
# A reference that is not well formed is refused, wherever it stands.
TEXTS = st.text(max_size=12).filter(lambda text: "${" not in text) | st.sampled_from(
    ["${env:X}", "$${env:Y:-z}", "10:00", "on", "0"]
)
PATHS = TEXTS.filter(lambda text: not WILDCARD.search(text))  # a pattern must match something
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
GENERATION = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.none() | st.floats(0, 2),
        "stop": st.none() | st.lists(TEXTS, max_size=2),
        "seed": st.none() | st.just("repeat") | st.integers(),
        "extra_body": st.dictionaries(
            TEXTS.filter(lambda key: key not in SENT_BY_US), JSON, max_size=2
        ),
    },
)
SERVING = st.one_of(
    st.fixed_dictionaries({"kind": st.just("vllm")}, optional={"dtype": st.none() | TEXTS}),
    st.fixed_dictionaries({"kind": st.just("command"), "command": st.lists(TEXTS, min_size=1)}),
    st.fixed_dictionaries({"kind": st.just("external"), "base_url": st.just("http://x/v1")}),
)
TASK = st.fixed_dictionaries(
    {},
    optional={
        "repeats": st.integers(1, 9),
        "params": st.dictionaries(TEXTS, JSON, max_size=3),
        "generation": GENERATION,
        "data": st.fixed_dictionaries({"path": st.none() | TEXTS}),
    },
)
RECIPES = st.fixed_dictionaries(
    {
        "name": NAMES,
        "description": TEXTS,
        "models": st.dictionaries(
            NAMES, st.fixed_dictionaries({"path": PATHS}), min_size=1, max_size=2
        ),
        "tasks": st.dictionaries(NAMES, TASK, min_size=1, max_size=3),
        "serving": SERVING,
        "generation": GENERATION,
    },
)


def reload(text: str) -> LoadedRecipe:
    """Load YAML."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "other_name.yaml"
        path.write_text(text, encoding="utf-8", newline="")
        return load_recipe(path, env={"X": "value"})


@given(RECIPES)
def test_round_trip(data: dict[str, Any]) -> None:
    """What is recorded loads to an equal recipe, and what was set stays set."""
    loaded = reload(render_yaml(data))
    again = reload(render_yaml(loaded.raw))
    assert again.recipe == loaded.recipe
    assert again.recipe.generation.model_fields_set == loaded.recipe.generation.model_fields_set
    assert again.raw == loaded.raw


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_round_trip(name: str) -> None:
    """Every shipped recipe loads again from what is recorded of it."""
    loaded = load_recipe(name, env={})
    assert reload(render_yaml(loaded.raw)).recipe == loaded.recipe


def test_raw_loads_again(load: Callable[..., LoadedRecipe], tmp_path: Path) -> None:
    """The recorded form of a recipe holds names of variables and loads to the same recipe."""
    loaded = load("model: '${env:M}'\ntasks: [a, b]", tasks=["a"], limit=2, env={"M": "o/n"})
    (tmp_path / "again.yaml").write_text(render_yaml(loaded.raw))
    assert load_recipe(tmp_path / "again.yaml", env={"M": "o/n"}).recipe == loaded.recipe
