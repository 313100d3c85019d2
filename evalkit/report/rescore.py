"""The same answers by another profile: which parameters of scoring that changes.

What was asked, and how answers were sampled, stays what it was; results say both profiles apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.benchmarks.registry import benchmark_class, make_benchmark
from evalkit.recipe.schema import Generation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.plan.model import JudgePlan, Plan, TaskPlan
    from evalkit.recipe.schema import Profile


def rescored(plan: Plan, profile: Profile) -> Plan:
    """The plan with all tasks scored by a profile. Raises RecipeError, PlanError.

    Only parameters that scoring and grading read, and how a judge is asked. One that has the value of
    its old profile gets that of the new one; one that the recipe gave another value keeps it.
    """
    tasks = tuple(_rescored(task, profile) for task in plan.tasks)
    return plan.model_copy(update={"tasks": tasks})


def _rescored(task: TaskPlan, profile: Profile) -> TaskPlan:
    benchmark = benchmark_class(task.benchmark)
    before = make_benchmark(task.benchmark, {}, task.profile).params.model_dump(mode="json")
    knobs = {*benchmark.knobs.get(task.profile, {}), *benchmark.knobs.get(profile, {})}
    touched = knobs & {*benchmark.grading_params, *benchmark.scoring_params}
    kept = {
        name: value
        for name, value in task.params.items()
        if name not in touched or value != before[name]
    }
    params = make_benchmark(task.benchmark, kept, profile).params.model_dump(mode="json")
    judge = task.judge and _asked_as(
        task.judge,
        benchmark.judge_generation.get(task.profile, {}),
        benchmark.judge_generation.get(profile, {}),
    )
    return task.model_copy(update={"profile": profile, "params": params, "judge": judge})


def _asked_as(judge: JudgePlan, before: Mapping[str, Any], after: Mapping[str, Any]) -> JudgePlan:
    """The judge, asked as by another profile where it was asked as by its old one."""
    given = judge.generation.model_dump()
    changes = {
        name: after.get(name) for name in {*before, *after} if given[name] == before.get(name)
    }
    generation = Generation.model_validate({**given, **changes})
    shown = generation.model_dump(mode="json", exclude_none=True)
    update = {"generation": generation, "identity": {**judge.identity, "generation": shown}}
    return judge.model_copy(update=update)
