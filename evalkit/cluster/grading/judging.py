"""The judge of a task, for as long as it is asked: hosted by somebody else, or started here.

One that evalkit serves runs on this machine, with everything that a replica's server has: a process
tree that never outlives us, health checks, a watchdog, restarts.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from evalkit.client.calls import CallClient
from evalkit.client.durable import DurableModel
from evalkit.client.replies import ThinkTags
from evalkit.client.request import RequestBuilder
from evalkit.cluster.contexts import Contexts
from evalkit.cluster.failures import is_retryable
from evalkit.cluster.session import death_of, until_done
from evalkit.cluster.targets import target_of
from evalkit.errors import ServerDiedError
from evalkit.recipe.serving import LocalServing
from evalkit.serving.deployment import make_deployment
from evalkit.serving.leftovers import end_leftovers
from evalkit.serving.watchdog import ProgressWatchdog
from evalkit.store.publish import publish

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from evalkit.clock import Clock
    from evalkit.cluster.attempts import Attempt
    from evalkit.cluster.drain import Drain
    from evalkit.cluster.grading.queue import GradingItem
    from evalkit.cluster.job import JobInfo
    from evalkit.cluster.replica_report import ReplicaReport
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
    drain: Drain
    """The order to stop."""
    report: ReplicaReport
    """What status is told."""

    def waits(self, text: str) -> None:
        """Say what is waited for, to status as well."""
        self.report.detail = text
        self.tell(text)


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
    number, servers = 0, JudgeServers(grader)
    try:
        await _clear_node(grader, contexts)
        while True:
            context = contexts.make(number, grader.waits)
            server = make_deployment(judge.deployment, context)
            try:
                endpoint = await _start(grader, server, servers)
                await _ask(grader, plan, judge, server, endpoint, ask)
            except ServerDiedError as error:
                if restarts == 0 or not is_retryable(error.kind) or grader.drain.requested:
                    raise
                restarts -= 1
                log.warning("%s\nstarting the judge again; %d restarts left", error, restarts)
            else:
                return
            finally:
                number += 1
                await server.stop(grader.drain.stop_s)
                servers.end()
    finally:
        contexts.clean()


async def _start(grader: Grader, server: Deployment, servers: JudgeServers) -> Endpoint:
    """The judge, ready. Raises ServingError, and DrainedError where somebody asked to stop before."""
    grader.report.state, asked = "loading", grader.clock.wall()
    endpoint = await grader.drain.unless(server.start())
    grader.report.detail = None
    facts = (await server.facts()).to_json()
    servers.add({**facts, "host": grader.job.host, "started": asked, "ended": None})
    return endpoint


async def _clear_node(grader: Grader, contexts: Contexts) -> None:
    """End judges of graders that were killed here."""
    root = grader.attempt.folder.root
    for text in await asyncio.to_thread(end_leftovers, contexts.marker(0), root):
        log.warning("%s", text)


@dataclass(slots=True)
class JudgeServers:
    """What is known of the judge's servers of one grader, on disk as soon as it is known.

    A judge that somebody else serves has an entry, too, without GPUs.
    """

    grader: Grader
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, row: dict[str, Any]) -> None:
        """One that is ready. Raises StoreError."""
        self.rows.append(row)
        self._write()

    def end(self) -> None:
        """The last one has ended. Raises StoreError."""
        if self.rows and self.rows[-1]["ended"] is None:
            self.rows[-1]["ended"] = self.grader.clock.wall()
            self._write()

    def _write(self) -> None:
        attempt = self.grader.attempt
        path = attempt.folder.server_facts(attempt.replica, attempt.number)
        publish(path, b"".join(orjson.dumps(row) + b"\n" for row in self.rows))


async def _ask(
    grader: Grader,
    plan: Plan,
    judge: JudgePlan,
    server: Deployment,
    endpoint: Endpoint,
    ask: Callable[[JudgeModel], Coroutine[None, None, None]],
) -> None:
    target = target_of(endpoint, judge.deployment.serving)
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
