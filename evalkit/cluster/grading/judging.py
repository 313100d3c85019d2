"""The judge of a task, for as long as it is asked: hosted by somebody else, or started here.

One that evalkit serves runs on this machine, with everything that a replica's server has: a process
tree that never outlives us, health checks, a watchdog, restarts.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from evalkit.client.calls import CallClient
from evalkit.client.durable import DurableModel
from evalkit.client.replies import ThinkTags
from evalkit.client.request import RequestBuilder
from evalkit.client.target import Target
from evalkit.cluster.contexts import Contexts
from evalkit.cluster.failures import is_retryable
from evalkit.cluster.session import death_of, until_done
from evalkit.errors import ServerDiedError
from evalkit.recipe.serving import LocalServing, VllmServing
from evalkit.serving.deployment import make_deployment
from evalkit.serving.leftovers import end_leftovers
from evalkit.serving.watchdog import ProgressWatchdog
from evalkit.store.publish import publish

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from evalkit.clock import Clock
    from evalkit.cluster.attempts import Attempt
    from evalkit.cluster.grading.work import GradingItem
    from evalkit.cluster.job import JobInfo
    from evalkit.plan.model import JudgePlan, Plan
    from evalkit.recipe.schema import Cluster
    from evalkit.serving.deployment import Deployment
    from evalkit.serving.endpoint import Endpoint

log = logging.getLogger("evalkit.grading")


@dataclass(frozen=True, slots=True)
class Grader:
    """Who grades: one execution, numbered, with its own logs in the grading's folder."""

    attempt: Attempt
    job: JobInfo
    cluster: Cluster
    env: Mapping[str, str]
    clock: Clock
    tell: Callable[[str], None]
    """Says what is waited for."""


@dataclass(frozen=True, slots=True)
class JudgeModel:
    """A judge that answers."""

    client: CallClient
    builder: RequestBuilder
    plan: JudgePlan

    def for_unit(self, item: GradingItem) -> DurableModel:
        """The judge as one unit sees it."""
        return DurableModel(
            self.client,
            self.builder,
            ThinkTags.of(self.plan.reasoning),
            item.unit.key,
            item.work,
        )


async def with_judge(
    grader: Grader,
    plan: Plan,
    judge: JudgePlan,
    ask: Callable[[JudgeModel], Coroutine[None, None, None]],
) -> None:
    """Start the judge and ask it; one that dies is started again, and `ask` with it.

    Raises ServingError, and what `ask` raises.
    """
    serving = judge.deployment.serving
    restarts = serving.max_restarts if isinstance(serving, LocalServing) else 0
    contexts = Contexts(grader.attempt, plan.run_id, grader.job, grader.cluster, grader.env)
    number = 0
    try:
        await _clear_node(grader, contexts)
        while True:
            server = make_deployment(judge.deployment, contexts.make(number, grader.tell))
            try:
                endpoint = await server.start()
                await _note_facts(grader, server)
                await _ask(grader, plan, judge, server, endpoint, ask)
            except ServerDiedError as error:
                if restarts == 0 or not is_retryable(error.kind):
                    raise
                restarts -= 1
                log.warning("%s\nstarting the judge again; %d restarts left", error, restarts)
            else:
                return
            finally:
                number += 1
                await server.stop()
    finally:
        contexts.clean()


async def _clear_node(grader: Grader, contexts: Contexts) -> None:
    """End judges of graders that were killed here."""
    root = grader.attempt.folder.root
    for text in await asyncio.to_thread(end_leftovers, contexts.marker(0), root):
        log.warning("%s", text)


async def _note_facts(grader: Grader, server: Deployment) -> None:
    attempt = grader.attempt
    facts = (await server.facts()).to_json()
    path = attempt.folder.server_facts(attempt.replica, attempt.number)
    publish(path, orjson.dumps({**facts, "host": grader.job.host}) + b"\n")


async def _ask(
    grader: Grader,
    plan: Plan,
    judge: JudgePlan,
    server: Deployment,
    endpoint: Endpoint,
    ask: Callable[[JudgeModel], Coroutine[None, None, None]],
) -> None:
    serving = judge.deployment.serving
    target = Target(
        base_url=endpoint.base_url,
        model=endpoint.model,
        headers=endpoint.request_headers(),
        proxy=endpoint.proxy,
        is_ours=isinstance(serving, LocalServing),
        max_model_len=endpoint.max_model_len,
        counts_reasoning=isinstance(serving, VllmServing) and bool(serving.reasoning_parser),
    )
    # Verdicts are short: one that is interrupted is asked for again.
    settings = plan.client.model_copy(update={"parallelism": judge.parallelism, "salvage": False})
    async with CallClient(target, settings, grader.clock) as client:
        builder = RequestBuilder(judge.generation, endpoint.model, judge.request)
        watchdog = ProgressWatchdog(
            endpoint, settings.stall_timeout_s, grader.clock.monotonic, server.failure
        )
        asking = ask(JudgeModel(client, builder, judge))
        await until_done([asking], [_guard(watchdog, client)])


async def _guard(watchdog: ProgressWatchdog, client: CallClient) -> None:
    trouble = await watchdog.watch(lambda: client.in_flight, lambda: client.progress)
    raise death_of("the judge failed while calls were in flight", trouble)
