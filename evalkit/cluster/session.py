"""One deployment in one attempt: start the server, keep it fed until the queue is empty, stop it.

A server that dies or hangs ends the calls in flight; their units go back to the queue, and a new
server takes over, up to `max_restarts` times. On a drain nothing new is started, what is in flight
may finish within the grace period, and the rest goes back.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from evalkit.client.calls import CallClient
from evalkit.client.spread import SpreadClient
from evalkit.cluster.drain import DrainedError
from evalkit.cluster.failures import is_retryable
from evalkit.cluster.lending import Lending
from evalkit.cluster.running_score import ScoreBudget, ScoresBeside, UnitScore
from evalkit.cluster.startup import Startup
from evalkit.cluster.targets import target_of
from evalkit.cluster.units import do_unit
from evalkit.errors import EvalkitError, InfraError, ServerDiedError
from evalkit.recipe.serving import LocalServing
from evalkit.serving.deployment import make_deployment
from evalkit.serving.watchdog import ProgressWatchdog
from evalkit.store.publish import publish

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from evalkit.benchmarks.contract import Solution
    from evalkit.clock import Clock
    from evalkit.cluster.attempts import Attempt
    from evalkit.cluster.drain import Drain
    from evalkit.cluster.heartbeat import Heartbeat
    from evalkit.cluster.judge_check import HostedJudge
    from evalkit.cluster.replica_report import ReplicaReport
    from evalkit.cluster.units import TaskWork
    from evalkit.plan.model import DeploymentPlan, Plan
    from evalkit.recipe.schema import Client
    from evalkit.serving.deployment import Deployment, ServerContext
    from evalkit.serving.endpoint import Endpoint
    from evalkit.serving.telemetry import Telemetry
    from evalkit.serving.trouble import Trouble
    from evalkit.store.journal import JournalSet
    from evalkit.store.queue import WorkQueue
    from evalkit.store.work import WorkItem

log = logging.getLogger("evalkit.worker")

TALLY_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Attending:
    """What an attempt shares with its sessions."""

    attempt: Attempt
    plan: Plan
    settings: Client
    env: Mapping[str, str]
    clock: Clock
    journals: JournalSet
    report: ReplicaReport
    heartbeat: Heartbeat
    drain: Drain
    server_context: Callable[[int], ServerContext]
    """Context of the n-th server of the attempt."""
    telemetry: Telemetry
    servers: list[dict[str, Any]] = field(default_factory=list)
    """Facts of each server that was ready; times in seconds since the epoch."""
    judges: list[HostedJudge] = field(default_factory=list)
    """Those that were tried."""


class Session:
    """The owed units of one deployment's tasks."""

    def __init__(
        self,
        attending: Attending,
        deployment: DeploymentPlan,
        works: Mapping[str, TaskWork],
        queue: WorkQueue,
        first_server: int,
    ) -> None:
        """`first_server` is the number of servers this attempt has started before."""
        self._all = attending
        self._deployment = deployment
        self._works = works
        self._is_penalised = attending.settings.salvage and any(
            work.plan.generation.presence_penalty
            and "presence_penalty" not in work.plan.request.remove
            for work in works.values()
        )
        self._driven = frozenset(n for n, work in works.items() if work.benchmark.drives)
        self._queue = queue
        self._startup = Startup(attending, works)
        self._budget = ScoreBudget(attending.clock.monotonic)
        self.servers = first_server
        self.is_dry = False
        """Nothing was left to hand out before anybody asked to stop."""

    async def run(self) -> None:
        """Serve until nothing is left. Raises ServingError (a judge that refuses us is one), StoreError,
        DrainedError, and ScorerError where a task needs a sandbox that cannot be had here."""
        await self._startup.before_server()
        serving = self._deployment.serving
        restarts = serving.max_restarts if isinstance(serving, LocalServing) else 0
        while True:
            context = self._all.server_context(self.servers)
            server = make_deployment(self._deployment, context, presence=self._is_penalised)
            try:
                endpoint = await self._start(server)
                await self._preflight(server, endpoint)
                await self._feed(server, endpoint)
            except ServerDiedError as error:
                may_help = is_retryable(error.kind) and not self._all.drain.requested
                if restarts == 0 or not may_help:
                    raise
                restarts -= 1
                log.warning("%s\nstarting a new server; %d restarts left", error, restarts)
                self._all.report.detail = error.message
            else:
                return
            finally:
                self.servers += 1
                self._all.report.state = "stopping"
                await self._stop(server)

    async def _start(self, server: Deployment) -> Endpoint:
        attempt, report = self._all.attempt, self._all.report
        asked = self._all.clock.wall()
        report.state = "loading"
        report.server = {
            "state": "loading",
            "log": str(attempt.folder.server_log(attempt.replica, attempt.number)),
            "restarts": self.servers,
        }
        endpoint = await self._all.drain.unless(server.start())
        facts = (await server.facts()).to_json()
        self._all.servers.append(
            {**facts, "host": report.host, "job": report.job_id, "started": asked, "ended": None}
        )
        self._write_facts()
        report.server["state"] = "ready"
        report.state = "ready"
        return endpoint

    async def _stop(self, server: Deployment) -> None:
        """Stop the server; when drained, what was done is on disk and the leases are free before."""
        try:
            if self._all.drain.requested:
                await self._all.journals.sync()
                await self._queue.close()
        finally:
            await server.stop(self._all.drain.stop_s)
            self._note_end()

    def _note_end(self) -> None:
        if self._all.servers and self._all.servers[-1]["ended"] is None:
            self._all.servers[-1]["ended"] = self._all.clock.wall()
            self._write_facts()

    def _write_facts(self) -> None:
        attempt = self._all.attempt
        lines = b"".join(orjson.dumps(facts) + b"\n" for facts in self._all.servers)
        publish(attempt.folder.server_facts(attempt.replica, attempt.number), lines)

    async def _preflight(self, server: Deployment, endpoint: Endpoint) -> None:
        """One real request of each task. Raises ServerDiedError where the server dies of it."""
        target = target_of(endpoint, self._deployment.serving, server=self.servers)
        try:
            facts = await self._startup.with_server(target)
        except InfraError as error:
            if (trouble := server.failure()) is None:
                raise
            raise death_of(f"the server died in the {error.message}", trouble) from error
        self._all.servers[-1] |= facts
        self._write_facts()

    async def _feed(self, server: Deployment, endpoint: Endpoint) -> None:
        """Keep calls in flight until the queue is empty. Raises what stopped it before."""
        self.is_dry = False
        target = target_of(endpoint, self._deployment.serving, server=self.servers)
        clock, settings = self._all.clock, self._all.settings
        async with (
            CallClient(target, settings, clock) as client,
            SpreadClient(client, settings, clock) as spread,
        ):
            beside = ScoresBeside()
            clients = {name: spread if name in self._driven else client for name in self._works}
            feeders = [self._feeder(clients, beside) for _ in range(settings.parallelism)]
            lending = self._lending()
            guards = [
                *self._loans(lending, endpoint, spread),
                beside.run(),
                self._all.journals.sync_forever(),
                self._tally(client, spread, lending),
                self._end_drain(client),
                self._guard(server, endpoint, client),
                self._all.telemetry.record(endpoint, self.servers),
            ]
            try:
                await until_done(feeders, guards)
            finally:
                beside.close()

    def _lending(self) -> Lending:
        number, serving = self._all.report.phase, self._deployment.serving
        return Lending(self._all.attempt.folder, self._all.report, number, serving, self.servers)

    def _loans(
        self, lending: Lending, endpoint: Endpoint, spread: SpreadClient
    ) -> list[Coroutine[Any, Any, None]]:
        """What lends and borrows servers for driven tasks; nothing without any."""
        if not self._driven:
            return []
        return [
            lending.borrow(spread, self._all.clock, self._all.settings.stall_timeout_s),
            lending.lend(endpoint, self._queue, self._driven, self._all.clock),
        ]

    async def _feeder(
        self, clients: Mapping[str, CallClient | SpreadClient], beside: ScoresBeside
    ) -> None:
        """One stream of units: the next as soon as the last has ended."""
        while (item := await self._queue.next()) is not None:
            name = item.shard.shard.task
            self._all.report.programs += name in self._driven
            try:
                end = await do_unit(self._works[name], item, clients[name])
            except (asyncio.CancelledError, EvalkitError):
                self._queue.give_back(item)
                raise
            finally:
                self._all.report.programs -= name in self._driven
            self._all.report.tally(name).add(end.outcome)
            if end.solution is not None:
                self._score(item, end.solution, beside)
            if self._all.journals.failure is not None:
                raise self._all.journals.failure
            await self._queue.done(item, end.outcome)
        if not self._all.drain.requested:
            self.is_dry = True

    def _score(self, item: WorkItem, solution: Solution, beside: ScoresBeside) -> None:
        """Have an answer scored for the running score, if that needs no finding of a grader."""
        work = self._works[item.shard.shard.task]
        benchmark, sample = work.benchmark, work.samples[item.key.sample]
        tally = self._all.report.tally(work.plan.name)

        def count(score: UnitScore) -> None:
            tally.add_score(*score)
            item.shard.add_score(*score)

        if not benchmark.scores_ungraded(sample):
            return
        if benchmark.parallel_scoring:
            beside.put(benchmark, sample, solution, count)
        elif (score := self._budget.score(benchmark, sample, solution)) is not None:
            count(score)

    async def _guard(self, server: Deployment, endpoint: Endpoint, client: CallClient) -> None:
        """Raises ServerDiedError when the server is dead or hangs."""
        watchdog = ProgressWatchdog(
            endpoint,
            self._all.settings.stall_timeout_s,
            self._all.clock.monotonic,
            server.failure,
        )
        trouble = await watchdog.watch(lambda: client.in_flight, lambda: client.progress)
        raise death_of("the server failed while calls were in flight", trouble)

    async def _tally(self, client: CallClient, spread: SpreadClient, lending: Lending) -> None:
        """Carry the client's counters into the report, up to its end."""
        heartbeat = self._all.heartbeat
        tokens, cost = heartbeat.completion_tokens, heartbeat.cost
        try:
            while True:
                self._all.report.in_flight = client.in_flight
                self._tell(client, spread, lending)
                heartbeat.completion_tokens = tokens + client.completion_tokens
                heartbeat.cost = cost + client.cost
                await asyncio.sleep(TALLY_INTERVAL_S)
        finally:
            heartbeat.completion_tokens = tokens + client.completion_tokens
            heartbeat.cost = cost + client.cost
            self._all.report.in_flight = 0
            self._tell(client, spread, lending)

    def _tell(self, client: CallClient, spread: SpreadClient, lending: Lending) -> None:
        """What a replica does, where units do not say enough: a driven one is thousands of calls."""
        if (pace := client.pace) is not None:
            self._all.report.detail = pace
        elif lending.is_lent:
            self._all.report.detail = "lends its server to a task of another replica"
        elif self._driven:
            borrowed = spread.answered_by_others
            others = f", {borrowed:,} by borrowed ones" if borrowed else ""
            own = client.completed - borrowed
            self._all.report.detail = f"{own:,} calls answered by this server{others}"

    async def _end_drain(self, client: CallClient) -> None:
        """After a request to stop: hand out nothing more, wait, then keep the tokens of what is left
        and end it."""
        await self._all.drain.wait()
        self._all.report.state = "draining"
        self._queue.stop()
        await self._all.drain.end_of_grace()
        if client.in_flight and (silent := await client.interrupt(self._all.drain.times.salvage_s)):
            log.warning("%d calls in flight did not give their last tokens", silent)
        raise DrainedError(f"interrupted: {self._all.drain.reason}")


def death_of(what: str, trouble: Trouble) -> ServerDiedError:
    """The error that says what happened to a server, and why."""
    return ServerDiedError(
        f"{what}: {trouble}",
        hint=trouble.hint,
        kind=trouble.kind,
        evidence=trouble.evidence,
        node=trouble.node,
    )


async def until_done(
    feeders: Sequence[Coroutine[Any, Any, None]], guards: Sequence[Coroutine[Any, Any, None]]
) -> None:
    """Run all until the last feeder has ended; raises what a feeder or guard raised first.

    Nothing of it runs any more when this returns or raises.
    """
    feeding = [asyncio.ensure_future(feeder) for feeder in feeders]
    guarding: list[asyncio.Future[Any]] = [asyncio.ensure_future(guard) for guard in guards]
    fed: asyncio.Future[Any] = asyncio.gather(*feeding)
    try:
        await asyncio.wait([fed, *guarding], return_when=asyncio.FIRST_COMPLETED)
        for task in (*guarding, fed):
            if task.done():
                task.result()
    finally:
        for task in (*feeding, *guarding):
            task.cancel()
        await asyncio.gather(fed, *feeding, *guarding, return_exceptions=True)
