"""The partial sections of a recipe, merged and validated for one model and one task.

Pure: values in, values out. Precedence of generation settings, weakest first: the benchmark's
defaults, the keys the recipe's `generation` sets, those of the model, those of the task; of `request`
and `reasoning` likewise, without a benchmark's. Serving:
the recipe's, the model's, the task's; another `kind` replaces the whole serving. Cluster: the
template's, the recipe's. A null is a value where a key takes null, else it means the default.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from evalkit.errors import RecipeError
from evalkit.recipe.check import (
    SERVINGS,
    merged_serving,
    raise_problems,
    section_problems,
    serving_problems,
)
from evalkit.recipe.document import Path, merge
from evalkit.recipe.problems import Problem, nearest
from evalkit.recipe.request import Reasoning, RequestSettings
from evalkit.recipe.schema import Cluster, Generation, Judge, Model, Recipe, Task
from evalkit.recipe.shape import drop_nulls, section_shape
from evalkit.recipe.values import SENT_AS_IS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

    from evalkit.recipe.serving import AnyServing

FIXED_SAMPLING = re.compile(r"(?:^|/)o\d|gpt-5", re.IGNORECASE)
"""Ids of OpenAI's reasoning models, which refuse sampling settings; the harness behind the card, which
knows them by the same signs, sends them none either. `max_tokens` is sent under the name they take."""
SAMPLING = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
    }
)
NOT_SETTINGS = ("template", "description", "extends")


def resolve_cluster(recipe: Recipe, template: Mapping[str, Any]) -> Cluster:
    """The recipe's `cluster` over a template. Raises RecipeError."""
    below, over = (
        {k: v for k, v in d.items() if k not in NOT_SETTINGS} for d in (template, recipe.cluster)
    )
    data = drop_nulls(merge(below, over), section_shape(Cluster))
    raise_problems(section_problems(Cluster, data), ("cluster",))
    return Cluster.model_validate(data)


def resolve_serving(recipe: Recipe, model: str, task: str) -> AnyServing:
    """How one model is served for one task. Raises RecipeError."""
    base = recipe.serving.model_dump(exclude_unset=True) | {"kind": recipe.serving.kind}
    the_model, the_task = _entries(recipe, model, task)
    data = merged_serving(base, the_model.serving, the_task.serving)
    raise_problems(
        serving_problems(data), _blame(model, the_model.serving, task, the_task, "serving")
    )
    serving: Any = SERVINGS[data["kind"]].model_validate(data)
    return serving  # type: ignore[no-any-return]


def resolve_generation(
    defaults: Mapping[str, Any], recipe: Recipe, model: str, task: str
) -> Generation:
    """How answers of one model to one task are sampled. Raises RecipeError."""
    the_model, the_task = _entries(recipe, model, task)
    data: dict[str, Any] = dict(defaults)
    raise_problems(section_problems(Generation, data), (task, "the benchmark's generation"))
    own = recipe.generation.model_dump(exclude_unset=True)
    for layer in (own, the_model.generation, the_task.generation):
        data = merge(data, layer)
    data = drop_nulls(data, section_shape(Generation))
    root = _blame(model, the_model.generation, task, the_task, "generation")
    raise_problems(section_problems(Generation, data), root)
    return Generation.model_validate(data)


def resolve_request(
    recipe: Recipe, model: str, task: str, generation: Generation
) -> RequestSettings:
    """How the requests of one model's task are changed. Raises RecipeError, also where that collides with
    what `generation` sends."""
    data, root = _layered(recipe, model, task, "request", RequestSettings)
    request = RequestSettings.model_validate(data)
    twice = sorted(generation.extra_body.keys() & request.add.keys())
    if twice:
        problem = Problem(("add",), f"{twice[0]} is in generation.extra_body, too; give one")
        raise_problems([problem], root)
    sent = _sent_names(generation) - {*request.remove, *request.rename}
    for old, new in request.rename.items():
        if new in sent:
            text = f"{old} would take the place of {new}, which is sent, too; remove that"
            raise_problems([Problem(("rename",), text)], root)
    return request


def resolve_reasoning(recipe: Recipe, model: str, task: str) -> Reasoning:
    """How reasoning is taken out of the answers of one model's task. Raises RecipeError."""
    data, _ = _layered(recipe, model, task, "reasoning", Reasoning)
    return Reasoning.model_validate(data)


def _layered(
    recipe: Recipe, model: str, task: str, name: str, section: type[BaseModel]
) -> tuple[dict[str, Any], Path]:
    """The layers of a section, merged and checked, and where its problems belong."""
    the_model, the_task = _entries(recipe, model, task)
    data: dict[str, Any] = {}
    layers = (getattr(each, name) for each in (the_model, the_task))
    for layer in (getattr(recipe, name).model_dump(exclude_unset=True), *layers):
        # what an upper layer turns off, the keys below it cannot want
        if layer.get("strip") is False:
            data = {}
        elif data.get("strip") is False and layer:
            data = {"strip": True}
        data = merge(data, layer)
    data = drop_nulls(data, section_shape(section))
    root = _blame(model, getattr(the_model, name), task, the_task, name)
    raise_problems(section_problems(section, data), root)
    return data, root


def _sent_names(generation: Generation) -> set[str]:
    """Fields that sampling puts into a request."""
    fields = {name: getattr(generation, name) for name in (*SENT_AS_IS, "seed", "stop")}
    fields["max_completion_tokens"] = generation.max_tokens
    return {name for name, value in fields.items() if value is not None} | {*generation.extra_body}


def resolve_judge(recipe: Recipe, task: str, benchmark: str) -> tuple[str, Judge]:
    """The judge of a task whose benchmark needs one, by name. Raises RecipeError without one."""
    name = recipe.tasks[task].judge
    if name is None and len(recipe.judges) == 1:
        name = next(iter(recipe.judges))
    if name is None:
        names = ", ".join(recipe.judges)
        raise RecipeError(
            f"tasks.{task}: answers to {benchmark} are judged by a model, and the recipe names none",
            hint=f"Set tasks.{task}.judge to one of {names}."
            if names
            else "Add it: judges: {NAME: {id: MODEL, serving: {kind: external, base_url: URL, "
            "api_key_env: VARIABLE}}}, or with path or hub and a serving of its own.",
        )
    return name, recipe.judges[name]


def resolve_judge_generation(defaults: Mapping[str, Any], name: str, judge: Judge) -> Generation:
    """How verdicts are sampled: the benchmark's settings, and the recipe's over them.

    Of the benchmark's, a hosted judge that takes no sampling settings is sent none.
    """
    model = judge.serving.served_model_name or judge.source
    if judge.serving.kind == "external" and FIXED_SAMPLING.search(model):
        defaults = {key: value for key, value in defaults.items() if key not in SAMPLING}
    data = drop_nulls(merge(dict(defaults), judge.generation), section_shape(Generation))
    raise_problems(section_problems(Generation, data), ("judges", name, "generation"))
    return Generation.model_validate(data)


def _entries(recipe: Recipe, model: str, task: str) -> tuple[Model, Task]:
    for noun, name, valid in (("model", model, recipe.models), ("task", task, recipe.tasks)):
        if name not in valid:
            raise RecipeError(
                f"the recipe has no {noun} '{name}'. {nearest(name, [*valid])}"
                f"Valid names: {', '.join(valid)}"
            )
    return recipe.models[model], recipe.tasks[task]


def _blame(model: str, partial: Mapping[str, Any], task: str, the_task: Task, section: str) -> Path:
    """The section a problem is told of: the last that sets something."""
    if getattr(the_task, section):
        return ("tasks", task, section)
    return ("models", model, section) if partial else (section,)
