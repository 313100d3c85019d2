"""The pure step from a resolved recipe and frozen samples to a Plan."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evalkit.errors import PlanError
from evalkit.plan.fingerprint import (
    adapter_identity,
    fingerprint,
    model_identity,
    serving_identity,
)
from evalkit.plan.model import DeploymentPlan, JudgePlan, Plan, TaskPlan
from evalkit.recipe.request import Adapters, Reasoning, RequestSettings
from evalkit.recipe.schema import Scoring

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.plan.model import DataProvenance, ModelIdentity
    from evalkit.recipe.schema import Client, Generation, Profile
    from evalkit.recipe.serving import AnyServing

MAX_SHARDS = 1024
"""Journals are files: more shards than this strain a shared file system and gain nothing."""

MIN_SHARDS = 8
UNCHANGED = Adapters()
SHARD_TOKENS = 50_000
"""A fast server makes as many tokens in seconds; leasing and closing a shard takes 2 ms of CPU."""


@dataclass(frozen=True, slots=True)
class PreparedTask:
    """A task whose data is loaded and whose settings are merged."""

    name: str
    benchmark: str
    benchmark_version: str
    profile: Profile
    params: Mapping[str, Any]
    metric: str
    generation: Generation
    repeats: int
    n_samples: int
    expected_tokens: int
    """Typical tokens of one answer: orders the work."""
    serving: AnyServing
    data: DataProvenance
    requests_sha256: str
    prompts: Mapping[str, str]
    """sha256 of each prompt template, by name."""
    n_calls: int | None = None
    """Calls of all samples, once each; null where that depends on the answers."""
    parts: Mapping[str, int] = field(default_factory=dict)
    """What all samples consist of then, once each."""
    limit: int | None = None
    """The recipe's, where samples are not what it limits."""
    judge: JudgePlan | None = None
    loose_params: frozenset[str] = frozenset()
    """Names of parameters on which no answer depends."""
    request: RequestSettings = field(default_factory=RequestSettings)
    reasoning: Reasoning = field(default_factory=Reasoning)
    unit_is_work: bool = False
    """Each unit is work for minutes or hours: it is leased by itself."""


@dataclass(frozen=True, slots=True)
class RunInputs:
    """What a plan is made of, besides its tasks."""

    run: str
    recipe: str
    model: ModelIdentity
    model_source: str
    model_name: str
    """The model's name in the recipe: what it is served as, unless serving says otherwise."""
    revision: str | None
    client: Client
    is_hub: bool = False
    """The model is a hub repository, which its commit names."""
    scoring: Scoring = field(default_factory=Scoring)
    unavailable: Mapping[str, str] = field(default_factory=dict)


def shard_count(units: int, expected_tokens: int) -> int:
    """Number of shards of a task.

    A shard has about sqrt(`units`) units, and more where answers are short, so that it is worth the
    milliseconds of its lease and journal; there are at least `MIN_SHARDS`, for replicas to share, and
    at most `MAX_SHARDS`. Replicas do not enter: any number of them has the same shards.
    """
    size = max(math.isqrt(units), SHARD_TOKENS // expected_tokens, 1)
    return max(1, min(units, MIN_SHARDS), min(MAX_SHARDS, units // size))


def build_plan(inputs: RunInputs, tasks: Sequence[PreparedTask]) -> Plan:
    """The plan of a run. Raises PlanError for a task that cannot work."""
    deployments: list[DeploymentPlan] = []
    planned = []
    for task in sorted(tasks, key=lambda t: -t.expected_tokens):
        _check_context(task)
        deployment = _deployment(inputs, task)
        if deployment not in deployments:
            deployments.append(deployment)
        identity = {
            "model": model_identity(inputs.model, is_hub=inputs.is_hub),
            "serving": serving_identity(task.serving, deployment.served_model_name),
        }
        planned.append(_plan_task(task, identity, deployments.index(deployment)))
    planned.sort(key=lambda t: t.deployment)
    prints = {task.name: task.fingerprint for task in planned}
    return Plan(
        run=inputs.run,
        recipe=inputs.recipe,
        model=inputs.model,
        deployments=tuple(deployments),
        tasks=tuple(planned),
        client=inputs.client,
        scoring=inputs.scoring,
        fingerprint=fingerprint(prints),
        unavailable=dict(inputs.unavailable),
    )


def _deployment(inputs: RunInputs, task: PreparedTask) -> DeploymentPlan:
    return plan_deployment(
        task.serving, inputs.model_name, inputs.model_source, revision=inputs.revision
    )


def plan_deployment(
    serving: AnyServing, name: str, source: str, *, revision: str | None
) -> DeploymentPlan:
    """How a model is served; `name` is what the recipe calls it."""
    default = source if serving.kind == "external" else name
    return DeploymentPlan(
        serving=serving,
        model_source=source,
        revision=revision,
        served_model_name=serving.served_model_name or default,
    )


def plan_judge(
    model: ModelIdentity,
    deployment: DeploymentPlan,
    generation: Generation,
    *,
    parallelism: int,
    is_hub: bool,
    adapters: Adapters = UNCHANGED,
) -> JudgePlan:
    """A judge as it enters a plan."""
    return JudgePlan(
        model=model,
        deployment=deployment,
        generation=generation,
        request=adapters.request,
        reasoning=adapters.reasoning,
        parallelism=parallelism,
        identity={
            "model": model_identity(model, is_hub=is_hub),
            "serving": serving_identity(deployment.serving, deployment.served_model_name),
            "generation": generation.model_dump(mode="json", exclude_none=True),
            **adapter_identity(adapters),
        },
    )


def _plan_task(task: PreparedTask, server: Mapping[str, Any], deployment: int) -> TaskPlan:
    """`server` is the part of the task's identity that says who answers."""
    identity = {
        **server,
        "benchmark": {"name": task.benchmark, "version": task.benchmark_version},
        "profile": task.profile,
        "params": {k: v for k, v in task.params.items() if k not in task.loose_params},
        "generation": task.generation.model_dump(mode="json", exclude_none=True),
        **adapter_identity(Adapters(task.request, task.reasoning)),
        "repeats": task.repeats,
        "samples": task.n_samples,
        # The checksum says it all: the same bytes from another place are the same data.
        "data": {"sha256": task.data.sha256},
        "prompts": dict(task.prompts),
        "requests_sha256": task.requests_sha256,
    }
    units = task.n_samples * task.repeats
    return TaskPlan(
        name=task.name,
        benchmark=task.benchmark,
        benchmark_version=task.benchmark_version,
        profile=task.profile,
        params=dict(task.params),
        metric=task.metric,
        generation=task.generation,
        request=task.request,
        reasoning=task.reasoning,
        repeats=task.repeats,
        n_samples=task.n_samples,
        n_shards=min(units, MAX_SHARDS)
        if task.unit_is_work
        else shard_count(units, task.expected_tokens),
        n_calls=None if task.n_calls is None else task.n_calls * task.repeats,
        parts={name: count * task.repeats for name, count in task.parts.items()},
        limit=task.limit,
        deployment=deployment,
        data=task.data,
        requests_sha256=task.requests_sha256,
        fingerprint=fingerprint(identity),
        identity=identity,
        judge=task.judge,
    )


def _check_context(task: PreparedTask) -> None:
    length, tokens = task.serving.max_model_len, task.generation.max_tokens
    if length is not None and tokens is not None and tokens >= length:
        raise PlanError(
            f"tasks.{task.name}: generation.max_tokens is {tokens}, and serving.max_model_len is "
            f"{length}: there is no room for the prompt",
            hint="Raise serving.max_model_len above prompt plus max_tokens, or lower max_tokens.",
        )
