"""Hosted judges are tried before anything is generated: a key that they refuse costs seconds, not hours.

Only a refusal is an error. A judge that cannot be reached from here, or that is busy, may well answer
who grades later, maybe on another machine: that is a warning. Judges that evalkit serves are started
when the answers are there, and are not tried.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.benchmarks.registry import benchmark_for
from evalkit.client.replies import (
    MalformedReplyError,
    error_message,
    filtered_reply,
    parse_reply,
)
from evalkit.client.request import RequestBuilder
from evalkit.client.retry import REDIRECT_STATUS, is_retried
from evalkit.client.trial import Answered, Patience, send_trial
from evalkit.cluster.failures import is_retryable
from evalkit.cluster.targets import target_of
from evalkit.errors import EndpointError, FailureKind, InfraError
from evalkit.recipe.serving import ExternalServing
from evalkit.report.artifacts import find_complete
from evalkit.serving.external import ExternalDeployment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from evalkit.client.target import Target
    from evalkit.plan.model import JudgePlan, Plan, TaskPlan
    from evalkit.store.layout import RunFolder

PATIENCE = Patience(connect_s=10.0, answer_s=60.0, retries=1)
"""Nodes without a way out often drop packets instead of refusing: nobody waits longer for that."""
QUESTION = "Is 1 + 1 = 2? Answer with yes or no, in JSON where that is the form you are asked for."
"""Some endpoints want the word JSON in a question that asks for it by `response_format`."""


@dataclass(frozen=True, slots=True)
class HostedJudge:
    """A judge that somebody else serves, with the fields that a benchmark adds to its requests."""

    task: str
    """One that needs it."""
    plan: JudgePlan
    serving: ExternalServing
    overrides: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Its key in the recipe."""
        return f"judges.{self.plan.model.name}"

    @property
    def trial(self) -> tuple[JudgePlan, ExternalServing, Mapping[str, Any]]:
        """All that a trial of it depends on, the environment aside."""
        return self.plan, self.serving, self.overrides

    @property
    def text(self) -> str:
        """Who it is, for a message."""
        model = self.plan.deployment.served_model_name
        return f"{self.key}: the judge {model} at {self.serving.base_url}"


def find_judges(folder: RunFolder, plan: Plan, tasks: Iterable[TaskPlan]) -> list[HostedJudge]:
    """The hosted judges that these tasks still need, each once. Raises PlanError."""
    found: list[HostedJudge] = []
    for task in tasks:
        if task.judge is None or find_complete(folder, plan, task) is not None:
            continue
        serving = task.judge.deployment.serving
        if not isinstance(serving, ExternalServing):
            continue
        overrides = benchmark_for(task).judge_overrides()
        found.append(HostedJudge(task.name, task.judge, serving, overrides))
    return distinct(found)


def distinct(judges: Iterable[HostedJudge]) -> list[HostedJudge]:
    """Without those that would be asked the same in the same way: runs of a sweep share theirs."""
    found: list[HostedJudge] = []
    for judge in judges:
        if judge.trial not in [each.trial for each in found]:
            found.append(judge)
    return found


async def check_judges(judges: Sequence[HostedJudge], env: Mapping[str, str]) -> list[str]:
    """One real request to each of them; warnings about those that gave no answer.

    Raises EndpointError when one refuses it.
    """
    found = await asyncio.gather(*(_check(judge, env) for judge in judges))
    return [text for text in found if text is not None]


def check_judges_here(judges: Sequence[HostedJudge], env: Mapping[str, str]) -> list[str]:
    """As `check_judges`, for callers without an event loop, or within somebody's: a notebook's."""
    if not judges:
        return []
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(check_judges(judges, env))).result()


async def _check(judge: HostedJudge, env: Mapping[str, str]) -> str | None:
    deployment = ExternalDeployment(judge.plan.deployment, judge.serving, env)
    try:
        target = target_of(deployment.endpoint(), judge.serving)
        if (trouble := await _ask(judge, target)) is not None:
            return _warning(judge, trouble)
        await deployment.start()  # as grading will: it may ask for the list of models
    except InfraError as error:
        return _warning(judge, error.message)
    except EndpointError as error:
        if is_retryable(error.kind):
            return _warning(judge, error.message)
        if not error.message.startswith(f"{judge.key}: "):
            error.message = f"{judge.text} cannot judge tasks.{judge.task}: {error.message}"
        error.kind = FailureKind.JUDGE
        raise
    return None


async def _ask(judge: HostedJudge, target: Target) -> str | None:
    """Why there was no answer, or null. Sent whole, as grading sends it: some endpoints stream only for
    accounts that they have verified. Raises EndpointError for a refusal, InfraError."""
    builder = RequestBuilder(judge.plan.generation, target.model)
    question = [{"role": "user", "content": QUESTION}]
    request = builder.chat(question, repeat=0, overrides=judge.overrides)
    answered = await send_trial(target, request, stream=False, patience=PATIENCE)
    if answered.status == 200:
        try:
            parse_reply(answered.body, None)
        except MalformedReplyError as error:
            raise EndpointError(target.hide(str(error)), hint=_hint(judge, 404)) from None
        return None
    if filtered_reply(answered.status, answered.body) is not None:
        return None
    if is_retried(answered.status):
        return f"it answers {_words(answered)}"
    raise EndpointError(
        f"{judge.text} refuses what would be asked of it for tasks.{judge.task}: "
        f"{_words(answered)}",
        hint=_hint(judge, answered.status),
    )


def _words(answered: Answered) -> str:
    return f"HTTP {answered.status}: {error_message(answered.body)[0][:400]}"


def _hint(judge: HostedJudge, status: int) -> str:
    """What to look at, by the recipe's keys."""
    nothing = "Nothing was generated by this attempt, and nothing is lost."
    if status in (401, 403):
        name = judge.serving.api_key_env
        if name is None:
            return (
                f"It wants a key: name its variable in {judge.key}.serving.api_key_env. {nothing}"
            )
        return f"Check the key in {name} ({judge.key}.serving.api_key_env). {nothing}"
    if status == 404 or status in REDIRECT_STATUS:
        return f"Check {judge.key}.id and {judge.key}.serving.base_url. {nothing}"
    return f"Check {judge.key}.generation, where null leaves a field out. {nothing}"


def _warning(judge: HostedJudge, trouble: str) -> str:
    return (
        f"{judge.text} gave no answer when it was tried: {trouble}. Answers are generated all the "
        f"same; where grading does not reach it either, `evalkit score` on a machine that does."
    )
