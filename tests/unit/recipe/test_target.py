"""`--serving FILE`: another target under the same methodology."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from evalkit.cluster.planning import plan_runs
from evalkit.errors import RecipeError
from evalkit.plan.fingerprint import differences
from evalkit.recipe.load import LoadedRecipe, load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RECIPE = """
name: method
models: {m: {id: here/m, generation: {temperature: 0.1}, serving: {served_model_name: mm}}}
serving: {kind: external, base_url: http://here/v1, api_key_env: HERE_KEY, max_model_len: 4096}
generation: {top_k: 5, top_p: 0.9}
tasks: {addition: {params: {n: 3}, repeats: 2}}
"""
TARGET = """
description: The same model at a provider.
model: ./other
serving: {kind: external, base_url: http://there/v1}
request: {remove: [seed, top_k], rename: {max_completion_tokens: max_tokens}}
reasoning: {start: null}
"""


def loaded(write: Callable[..., Path], target: str, *overrides: str) -> LoadedRecipe:
    """The recipe with a target."""
    path = write(r=RECIPE, there=target)
    return load_recipe(path, serving="there.yaml", overrides=overrides, env={})


def test_target_replaces_models_and_serving(write: Callable[..., Path]) -> None:
    """Nothing of the recipe's own server is left, its key's name least of all; the rest stays."""
    target = TARGET.replace("model: ./other", "models: {m: {id: there/m}}")
    recipe = loaded(write, target).recipe
    assert recipe.models["m"].model_dump(exclude_unset=True) == {"id": "there/m"}
    assert recipe.serving.model_dump(exclude_unset=True) == {
        "kind": "external",
        "base_url": "http://there/v1",
    }
    assert (recipe.generation.top_k, recipe.output.name) == (5, "method-there")
    assert [*recipe.tasks] == ["addition"]


def test_plans_differ_in_the_target_alone(write: Callable[..., Path]) -> None:
    """What is asked, sampled and scored is the same; model, serving, request and reasoning are not."""
    target = TARGET.replace("model: ./other", "models: {o: {id: there/m}}")
    changed = loaded(write, target)
    here = load_recipe("r.yaml", overrides=["~models.m.generation"], env={})
    [one], [two] = (plan_runs(each, lambda _: None) for each in (here, changed))
    found = differences(one.plan, two.plan)
    sections = {key.split(".")[2] for key in found}
    assert sections == {"model", "serving", "request", "reasoning"}
    assert one.frozen == two.frozen
    assert two.plan.tasks[0].request.remove == ("seed", "top_k")


def test_overrides_and_paths(write: Callable[..., Path]) -> None:
    """`-o` wins over the target; a name that the file gives stays; its paths are its own."""
    target = f"{TARGET}output: {{name: mine}}\n"
    found = loaded(write, target, "serving.base_url=http://third/v1")
    assert found.recipe.serving.model_dump()["base_url"] == "http://third/v1"
    assert found.recipe.output.name == "mine"
    assert found.recipe.models["other"].path == "./other"
    assert found.sources["serving.base_url"] == "-o serving.base_url"
    assert found.sources["request.remove"] == "there.yaml:5"


@pytest.mark.parametrize("key", ["tasks", "generation", "profile", "judges", "scoring", "name"])
def test_methodology_is_refused(key: str, write: Callable[..., Path]) -> None:
    """A target that says what is asked would change what is compared."""
    with pytest.raises(RecipeError) as caught:
        loaded(write, f"{key}: {{a: {{}}}}\n")
    assert str(caught.value).startswith(
        f"there.yaml:1 {key}: a file of --serving says who is asked and how, not what\nIt may hold"
    )


def test_collisions_are_found_when_layers_meet(write: Callable[..., Path]) -> None:
    """A field in two places, and one renamed to another that is sent, too."""
    write(r=RECIPE.replace("top_k: 5", "extra_body: {x: 1}"), there="request: {add: {x: 2}}\n")
    with pytest.raises(RecipeError, match=r"request.add: x is in generation.extra_body, too"):
        plan_runs(load_recipe("r.yaml", serving="there.yaml", env={}), lambda _: None)
    write(r=RECIPE, there="request: {rename: {seed: top_p}}\n")
    with pytest.raises(RecipeError, match="seed would take the place of top_p, which is sent"):
        plan_runs(load_recipe("r.yaml", serving="there.yaml", env={}), lambda _: None)
    write(r=RECIPE.replace("repeats: 2", "reasoning: {strip: false}"), there=TARGET)
    task = plan_runs(load_recipe("r.yaml", env={}), lambda _: None)[0].plan.tasks[0]
    assert not task.reasoning.strip
