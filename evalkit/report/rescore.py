"""The same answers by another profile: which parameters of scoring that changes.

What was asked, and how answers were sampled, stays what it was; results say both profiles apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.benchmarks.registry import benchmark_class, make_benchmark

if TYPE_CHECKING:
    from evalkit.plan.model import Plan, TaskPlan
    from evalkit.recipe.schema import Profile


def rescored(plan: Plan, profile: Profile) -> Plan:
    """The plan with all tasks scored by a profile. Raises RecipeError, PlanError.

    A parameter that has the value of its old profile gets that of the new one; one that the recipe
    gave another value keeps it.
    """
    tasks = tuple(_rescored(task, profile) for task in plan.tasks)
    return plan.model_copy(update={"tasks": tasks})


def _rescored(task: TaskPlan, profile: Profile) -> TaskPlan:
    knobs = benchmark_class(task.benchmark).knobs
    before = make_benchmark(task.benchmark, {}, task.profile).params.model_dump(mode="json")
    touched = {*knobs.get(task.profile, {}), *knobs.get(profile, {})}
    kept = {
        name: value
        for name, value in task.params.items()
        if name not in touched or value != before[name]
    }
    params = make_benchmark(task.benchmark, kept, profile).params.model_dump(mode="json")
    return task.model_copy(update={"profile": profile, "params": params})
