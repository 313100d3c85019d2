"""Whatever is written under the keys of a recipe, it is a recipe or a RecipeError."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import RecipeError
from evalkit.recipe.check import check_recipe
from evalkit.recipe.document import Document
from evalkit.recipe.overrides import limits, parse_override, select_tasks
from evalkit.recipe.references import Substitution
from evalkit.recipe.resolve import resolve_generation, resolve_serving
from evalkit.recipe.shape import recipe_shape
from evalkit.recipe.shorthand import expand

KEYS = sorted(
    {"model", "m", "t", "path", "hub", "kind", "base_url", "command", "template", "limit", "data"}
    | set(recipe_shape().keys or {})
    | {
        "max_model_len",
        "temperature",
        "stop",
        "extra_body",
        "env",
        "headers",
        "extra_args",
        "secrets",
    }
)
VALUES = st.sampled_from(
    [
        None,
        True,
        0,
        1,
        -1,
        0.5,
        "",
        "x",
        "vllm",
        "external",
        "http://x",
        "/m",
        "${env:X}",
        "${env:Y}",
    ]
)
ANYTHING = st.recursive(
    VALUES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=8,
)
GENERATION = st.fixed_dictionaries(
    {}, optional={"temperature": VALUES, "stop": VALUES, "extra_body": ANYTHING, "seed": VALUES}
)
SERVING = st.fixed_dictionaries(
    {}, optional={"kind": VALUES, "base_url": VALUES, "env": ANYTHING, "max_model_len": VALUES}
)
PARTS = {"generation": GENERATION | ANYTHING, "serving": SERVING | ANYTHING}
TASK = st.fixed_dictionaries({}, optional={"limit": VALUES, "data": ANYTHING, **PARTS})
MODEL = st.fixed_dictionaries({"path": st.just("/m")}, optional=PARTS)
RECIPE = st.fixed_dictionaries(
    {
        "models": st.fixed_dictionaries({"m": MODEL}, optional={"n": ANYTHING}) | ANYTHING,
        "tasks": st.fixed_dictionaries({"t": TASK}, optional={"u.v": TASK | ANYTHING}),
    },
    optional={"cluster": ANYTHING, "client": ANYTHING, "x": VALUES, **PARTS},
)


def load(data: dict[str, object], override: str) -> str:
    """The steps of loading without a file; the error's text, empty for a valid recipe."""
    env = {"X": "1"}
    try:
        document = expand(Document({"name": "r", **data}), Path("/nowhere"), env)
        document = expand(parse_override(override, document), Path("/nowhere"), env).over(document)
        resolved = Substitution(env).document(select_tasks(document, ["t"]))
        limits(resolved.data, 3)
        recipe = check_recipe(resolved, "r.yaml")
    except RecipeError as error:
        return str(error)
    for model in recipe.models:
        for task in recipe.tasks:
            resolve_serving(recipe, model, task)
            resolve_generation({}, recipe, model, task)
    return ""


@given(RECIPE, st.sampled_from(["t.limit=1", "serving.kind=external", "models.m=a/b", "name=n"]))
def test_any_recipe(data: dict[str, object], override: str) -> None:
    """It loads and then resolves for every pair, or says why in words of ours."""
    text = load(data, override)
    assert "pydantic" not in text
    assert "Input should" not in text
