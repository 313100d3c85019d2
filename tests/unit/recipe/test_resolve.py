"""Partial sections: precedence, replacement, errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from evalkit.errors import RecipeError
from evalkit.recipe.load import LoadedRecipe
from evalkit.recipe.resolve import (
    resolve_cluster,
    resolve_generation,
    resolve_judge_generation,
    resolve_serving,
)
from evalkit.recipe.schema import Cluster, Generation, Judge, Model, Recipe
from evalkit.recipe.serving import ExternalServing, VllmServing

Load = Callable[..., LoadedRecipe]

TEXT = """
models:
  m: {path: /m, generation: {top_k: 3}, serving: {max_num_seqs: 3, env: {B: m}}}
  n: /n
serving: {tensor_parallel_size: 2, env: {A: r, B: r}}
generation: {temperature: 0.2, top_k: 2, extra_body: {x: {p: 1}}}
tasks:
  t: {generation: {min_p: 0.4, extra_body: {x: {q: 2}}}, serving: {env: {B: t}}}
  u: {serving: {kind: external, base_url: "http://x/v1"}}
  v: {generation: {temperature: null, extra_body: null}, serving: {env: null, max_num_seqs: null}}
"""


@pytest.fixture
def recipe(load: Load) -> Recipe:
    """A recipe with partial sections at every level."""
    return load(TEXT).recipe


def make_recipe(**changes: object) -> Recipe:
    """A recipe that was not loaded, so nothing checked its partial sections."""
    base = {"name": "r", "models": {"m": {"path": "/m"}}, "tasks": {"t": {}}}
    return Recipe.model_validate(base | changes)


def test_generation_precedence(recipe: Recipe) -> None:
    """Benchmark < recipe (what it sets) < model < task; mappings merge."""
    defaults = {"temperature": 1.0, "top_p": 0.1, "top_k": 1, "min_p": 0.1, "seed": 5}
    assert resolve_generation(defaults, recipe, "m", "t") == Generation(
        temperature=0.2, top_p=0.1, top_k=3, min_p=0.4, seed=5, extra_body={"x": {"p": 1, "q": 2}}
    )
    assert resolve_generation(defaults, recipe, "n", "u").top_k == 2


def test_generation_null(recipe: Recipe) -> None:
    """A task's null is the value null, or the default where null is no value."""
    generation = resolve_generation({}, recipe, "m", "v")
    assert (generation.temperature, generation.extra_body) == (None, {})


def test_serving_merges(recipe: Recipe) -> None:
    """Recipe < model < task; mappings merge; null brings back the default."""
    serving = resolve_serving(recipe, "m", "t")
    assert serving == VllmServing(tensor_parallel_size=2, max_num_seqs=3, env={"A": "r", "B": "t"})
    cleared = resolve_serving(recipe, "m", "v")
    assert cleared == VllmServing(tensor_parallel_size=2)


def test_serving_other_kind(recipe: Recipe) -> None:
    """Another kind replaces the serving whole."""
    assert resolve_serving(recipe, "m", "u") == ExternalServing(
        kind="external", base_url="http://x/v1"
    )


def test_cluster(load: Load) -> None:
    """The recipe's keys win over the template's; null brings back a default."""
    template = {"description": "x", "partition": "a", "time_min": 5, "sbatch": {"p": 1}, "mem": "1"}
    recipe = load(
        "model: /m\ntasks: [t]\n"
        "cluster: {template: y, time_min: null, sbatch: {q: null}, partition: b, mem: null}"
    ).recipe
    assert resolve_cluster(recipe, template) == Cluster(partition="b", sbatch={"p": 1, "q": None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"serving": {"gpu": 1}},
            "tasks.t.serving: unknown key 'gpu'. Did you mean 'gpus'? Valid keys: served_model_name",
        ),
        (
            {"serving": {"kind": "x"}},
            "tasks.t.serving.kind: expected one of vllm, command, external, found 'x'",
        ),
        (
            {"serving": {"kind": "external"}},
            "tasks.t.serving.base_url: missing. It takes a URL with http:// or https://",
        ),
    ],
)
def test_serving_errors(changes: dict[str, object], message: str) -> None:
    """A wrong partial serving is named with its dotted key."""
    with pytest.raises(RecipeError) as caught:
        resolve_serving(make_recipe(tasks={"t": changes}), "m", "t")
    assert str(caught.value).startswith(message)


def test_model_serving_error() -> None:
    """A wrong serving of a model is named as the model's."""
    recipe = make_recipe(models={"m": {"path": "/m", "serving": {"dtyp": "x"}}})
    with pytest.raises(RecipeError, match=r"^models\.m\.serving: unknown key 'dtyp'"):
        resolve_serving(recipe, "m", "t")


def test_generation_errors() -> None:
    """A wrong partial generation is named with its dotted key; a benchmark's own with the task."""
    recipe = make_recipe(tasks={"t": {"generation": {"topp": 1}}})
    with pytest.raises(
        RecipeError, match=r"^tasks\.t\.generation: unknown key 'topp'. Did you mean"
    ):
        resolve_generation({}, recipe, "m", "t")
    with pytest.raises(
        RecipeError, match=r"^t\.the benchmark's generation\.top_p: expected a number"
    ):
        resolve_generation({"top_p": 3}, make_recipe(), "m", "t")


def test_cluster_error() -> None:
    """A wrong key of the cluster is named with the nearest one."""
    with pytest.raises(RecipeError, match=r"^cluster: unknown key 'node'. Did you mean 'nodes'\?"):
        resolve_cluster(make_recipe(cluster={"node": 1}), {})


def test_source(recipe: Recipe) -> None:
    """A model says where it is, whichever way that was given."""
    models = [{"path": "/m"}, {"hub": "o/n"}, {"id": "x"}]
    assert [Model.model_validate(model).source for model in models] == ["/m", "o/n", "x"]


def test_unknown_names(recipe: Recipe) -> None:
    """A model or task that the recipe does not have is answered with those it has."""
    with pytest.raises(
        RecipeError, match=r"^the recipe has no model 'mm'. Did you mean 'm'\? Valid names: m, n$"
    ):
        resolve_serving(recipe, "mm", "t")
    with pytest.raises(RecipeError, match=r"^the recipe has no task 'x'. Valid names: t, u, v$"):
        resolve_generation({}, recipe, "m", "x")


HOSTED = ExternalServing(kind="external", base_url="http://h/v1")
VERDICTS = {"temperature": 0.0, "top_p": 0.95, "presence_penalty": 1.0, "max_tokens": 9}


@pytest.mark.parametrize(
    ("judge", "sampling"),
    [
        (Judge(id="gpt-4o", serving=HOSTED), (0.0, 0.95, 1.0)),
        (Judge(id="o3-mini-20250131", serving=HOSTED), (None, None, None)),
        (Judge(id="openai/o1", serving=HOSTED), (None, None, None)),
        (Judge(id="azure/GPT-5-mini", serving=HOSTED), (None, None, None)),
        (Judge(id="gpt-5", serving=HOSTED, generation={"top_p": 0.5}), (None, 0.5, None)),
        (Judge(id="olmo-2", serving=HOSTED), (0.0, 0.95, 1.0)),
        (Judge(path="./o3", serving=VllmServing()), (0.0, 0.95, 1.0)),
    ],
)
def test_judges_without_sampling(judge: Judge, sampling: tuple[float | None, ...]) -> None:
    """OpenAI's reasoning models are sent none, unless the recipe says so; what else is set stays."""
    found = resolve_judge_generation(VERDICTS, "j", judge)
    assert (found.temperature, found.top_p, found.presence_penalty) == sampling
    assert (found.max_tokens, found.seed) == (9, "repeat")
