"""The settings a task's numbers were made with, and where they differ from the benchmark's profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.benchmarks.prompt_templates import stands_in_for
from evalkit.recipe.schema import Generation
from evalkit.report.judging import bare_url
from evalkit.report.results import Difference, Settings
from evalkit.store.gradings import grading_plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from evalkit.benchmarks.contract import Benchmark
    from evalkit.plan.model import JudgePlan, Plan, TaskPlan
    from evalkit.recipe.request import Reasoning, RequestSettings


def describe_settings(plan: Plan, task: TaskPlan, benchmark: Benchmark[Any]) -> Settings:
    """All settings of one task."""
    deployment = plan.deployments[task.deployment]
    return Settings(
        profile=task.profile,
        differs_from_profile=tuple(find_differences(task, benchmark)),
        params=task.params,
        generation=task.generation.model_dump(mode="json"),
        request=task.request.model_dump(mode="json"),
        reasoning=task.reasoning.model_dump(mode="json"),
        serving=deployment.serving.model_dump(mode="json"),
        served_model_name=deployment.served_model_name,
        prompts=(prompts := task.identity.get("prompts", {})),
        stand_ins={name: other for name in prompts if (other := stands_in_for(name))},
        identity=task.identity,
        fingerprint=task.fingerprint,
        grader=grader_of(plan, task, benchmark),
        judge=None if task.judge is None else _shown_judge(task.judge),
        plan_fingerprint=plan.fingerprint,
        requests_sha256=task.requests_sha256,
    )


def _shown_judge(judge: JudgePlan) -> dict[str, Any]:
    """The judge as results show it: nothing in its address that may be a secret."""
    shown = judge.model_dump(mode="json")
    serving = shown["deployment"]["serving"]
    if "base_url" in serving:
        serving["base_url"] = bare_url(serving["base_url"])
    return shown


def grader_of(plan: Plan, task: TaskPlan, benchmark: Benchmark[Any]) -> str | None:
    """Fingerprint of what grades the task's answers; null where nothing does."""
    if benchmark.grader is None:
        return None
    return grading_plan(plan, task, benchmark.grading_params).fingerprint


def find_differences(task: TaskPlan, benchmark: Benchmark[Any]) -> Iterator[Difference]:
    """Parameters, sampling, requests, repeats and number of samples that are not the profile's.

    A sampling setting that the profile does not name has its default there: not sent.
    """
    yield from _params_differences(task, benchmark)
    generation = task.generation.model_dump(mode="json")
    profile = Generation(**benchmark.generation.get(task.profile, {})).model_dump(mode="json")
    for key, value in generation.items():
        if value != profile[key]:
            yield Difference(key=f"generation.{key}", profile=profile[key], value=value)
    yield from _section_differences("request", task.request)
    yield from _section_differences("reasoning", task.reasoning)
    if task.judge is not None:
        yield from _judge_differences(task.judge, benchmark.judge_generation.get(task.profile, {}))
    if task.repeats != benchmark.repeats:
        yield Difference(key="repeats", profile=benchmark.repeats, value=task.repeats)
    if benchmark.counts_itself:
        if task.limit is not None:
            yield Difference(key="limit", profile=None, value=task.limit)
    elif task.n_samples < task.data.n_rows:
        yield Difference(key="limit", profile=task.data.n_rows, value=task.n_samples)


def _params_differences(task: TaskPlan, benchmark: Benchmark[Any]) -> Iterator[Difference]:
    """No profile has a value for what every recipe must give."""
    knobs = benchmark.knobs.get(task.profile, {})
    for key, field in benchmark.params_type.model_fields.items():
        if key not in knobs and field.is_required():
            continue
        wanted = knobs.get(key, field.get_default(call_default_factory=True))
        value = task.params.get(key, wanted)
        if _json(value) != _json(wanted):
            yield Difference(key=f"params.{key}", profile=wanted, value=value)


def _section_differences(name: str, section: RequestSettings | Reasoning) -> Iterator[Difference]:
    """What is said of how requests are changed or answers cleaned: no profile says anything of that."""
    wanted = type(section)().model_dump(mode="json")
    for key, value in section.model_dump(mode="json").items():
        if value != wanted[key]:
            yield Difference(key=f"{name}.{key}", profile=wanted[key], value=value)


def _judge_differences(judge: JudgePlan, profile: Mapping[str, Any]) -> Iterator[Difference]:
    wanted = Generation.model_validate(profile).model_dump(mode="json")
    for key, value in judge.generation.model_dump(mode="json").items():
        if value != wanted[key]:
            yield Difference(key=f"judge.generation.{key}", profile=wanted[key], value=value)


def _json(value: Any) -> Any:
    """Tuples and lists are one thing in a plan."""
    return list(value) if isinstance(value, (list, tuple)) else value
