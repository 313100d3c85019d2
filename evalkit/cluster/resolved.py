"""What a loaded recipe means, key by key: its cluster, and each task's benchmark and settings.

Used where a plan is made, and by `evalkit info`, which shows it. Reads template files; loads no data
set and no checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.benchmarks.registry import make_benchmark
from evalkit.cluster.nodes import check_nodes
from evalkit.errors import RecipeError
from evalkit.plan.build import plan_deployment
from evalkit.recipe.resolve import (
    resolve_cluster,
    resolve_generation,
    resolve_judge,
    resolve_judge_generation,
    resolve_reasoning,
    resolve_request,
    resolve_serving,
)
from evalkit.recipe.serving import ExternalServing
from evalkit.recipe.template import load_template

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.benchmarks.contract import Benchmark
    from evalkit.recipe.load import LoadedRecipe
    from evalkit.recipe.request import Reasoning, RequestSettings
    from evalkit.recipe.schema import Cluster, Generation, Judge
    from evalkit.recipe.serving import AnyServing


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """How one model is asked one task."""

    generation: Generation
    request: RequestSettings
    reasoning: Reasoning
    serving: AnyServing
    repeats: int


def describe(loaded: LoadedRecipe, env: Mapping[str, str]) -> dict[str, Any]:
    """The recipe with every key resolved, as JSON data.

    The settings that depend on the model are below `tasks.<t>.models`. Raises RecipeError, PlanError.
    """
    recipe = loaded.recipe
    described: dict[str, Any] = recipe.model_dump(mode="json")
    described["cluster"] = cluster_settings(loaded, env).model_dump(mode="json")
    described["tasks"] = {name: _describe_task(loaded, name) for name in recipe.tasks}
    return described


def cluster_settings(loaded: LoadedRecipe, env: Mapping[str, str]) -> Cluster:
    """The recipe's cluster over its template. Raises RecipeError, also for nodes that do not fit the servers."""
    name = str(loaded.recipe.cluster.get("template") or "default")
    template = load_template(name, base=loaded.base, env=env)
    cluster = resolve_cluster(loaded.recipe, template)
    check_nodes(loaded.recipe, cluster)
    return cluster


def task_benchmark(loaded: LoadedRecipe, name: str) -> Benchmark[Any]:
    """The benchmark of a task, with the parameters of the recipe. Raises PlanError, RecipeError."""
    task = loaded.recipe.tasks[name]
    benchmark = make_benchmark(
        task.benchmark or name, task.params, task.profile or loaded.recipe.profile
    )
    if benchmark.counts_itself and task.repeats not in (None, 1):
        raise RecipeError(
            f"tasks.{name}.repeats: {task.benchmark or name} asks for its repeats itself",
            hint=f"Set tasks.{name}.params.repeats: {task.repeats} in its place.",
        )
    return benchmark


def task_settings(
    loaded: LoadedRecipe, model: str, name: str, benchmark: Benchmark[Any]
) -> TaskSettings:
    """All layers of one model's settings for one task. Raises RecipeError."""
    recipe = loaded.recipe
    if benchmark.no_repeats is not None and (recipe.tasks[name].repeats or 1) > 1:
        raise RecipeError(
            f"tasks.{name}.repeats: {benchmark.name} repeats by itself", hint=benchmark.no_repeats
        )
    generation = resolve_generation(
        benchmark.generation.get(benchmark.profile, {}), recipe, model, name
    )
    return TaskSettings(
        generation=generation,
        request=resolve_request(recipe, model, name, generation),
        reasoning=resolve_reasoning(recipe, model, name),
        serving=resolve_serving(recipe, model, name),
        repeats=recipe.tasks[name].repeats or benchmark.repeats,
    )


def _describe_task(loaded: LoadedRecipe, name: str) -> dict[str, Any]:
    task, benchmark = loaded.recipe.tasks[name], task_benchmark(loaded, name)
    settings = {m: task_settings(loaded, m, name, benchmark) for m in loaded.recipe.models}
    return {
        "benchmark": benchmark.name,
        "version": benchmark.version,
        "profile": benchmark.profile,
        "repeats": task.repeats or benchmark.repeats,
        "limit": task.limit,
        "params": benchmark.params.model_dump(mode="json"),
        "data": task.data.model_dump(mode="json"),
        "judge": _describe_judge(loaded, name, benchmark),
        "models": {
            model: {
                "generation": each.generation.model_dump(mode="json"),
                "request": each.request.model_dump(mode="json"),
                "reasoning": each.reasoning.model_dump(mode="json"),
                "serving": each.serving.model_dump(mode="json"),
            }
            for model, each in settings.items()
        },
    }


def _describe_judge(
    loaded: LoadedRecipe, task: str, benchmark: Benchmark[Any]
) -> dict[str, Any] | None:
    """Who judges a task, and how it is asked; null where nobody does. Raises RecipeError."""
    if benchmark.grader != "judge":
        return None
    name, judge = resolve_judge(loaded.recipe, task, benchmark.name)
    serving = judge.serving
    deployment = plan_deployment(serving, name, judge.source, revision=judge.revision)
    generation = judge_generation(benchmark, name, judge)
    described: dict[str, Any] = {
        "name": name,
        "where": "served by evalkit, once the answers are there",
        "source": judge.source,
        "model": deployment.served_model_name,
    }
    if isinstance(serving, ExternalServing):
        key = {"base_url": serving.base_url, "api_key_env": serving.api_key_env}
        described |= {"where": "hosted", **key}
    return {
        **described,
        "parallelism": judge.parallelism,
        "generation": generation.model_dump(mode="json"),
    }


def judge_generation(benchmark: Benchmark[Any], name: str, judge: Judge) -> Generation:
    """How a benchmark's judge is asked. Raises RecipeError."""
    defaults = benchmark.judge_generation.get(benchmark.profile, {})
    return resolve_judge_generation(defaults, name, judge)
