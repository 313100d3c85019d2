"""The worker: one attempt of one replica, from its first lease to its last flush.

It walks the plan's deployments; where a deployment's tasks have owed units it starts a session (server,
calls, journals), and where nothing is owed no server is started at all.

The event loop runs in a thread of its own: signal handlers run in the main thread only, which
therefore does nothing but wait in short steps. `request_drain` and `drain_before_end` may be called
from such a handler.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from typing import TYPE_CHECKING

from evalkit.clock import SYSTEM_CLOCK, Clock
from evalkit.cluster.attempts import begin_attempt, read_attempts
from evalkit.cluster.contexts import Contexts, remove_caches
from evalkit.cluster.credentials import run_secrets
from evalkit.cluster.drain import Drain, DrainedError
from evalkit.cluster.driving import places
from evalkit.cluster.env import read_environment
from evalkit.cluster.facilities import close_works, load_works
from evalkit.cluster.failures import Failure, classify
from evalkit.cluster.heartbeat import Heartbeat
from evalkit.cluster.holding import begin_record, held_gpus
from evalkit.cluster.orders import (
    drain_before_end,
    replica_begins,
    request_drain,
    take_orders,
)
from evalkit.cluster.parameters import replica_gpus
from evalkit.cluster.recall import heed_recall
from evalkit.cluster.recorder import Recorder
from evalkit.cluster.replica_report import ReplicaReport
from evalkit.cluster.runlog import attempt_logging, note
from evalkit.cluster.session import Attending, Session
from evalkit.errors import EvalkitError, ServingError, StoreError
from evalkit.recipe.serving import LocalServing
from evalkit.redaction import redact
from evalkit.serving.leftovers import end_leftovers
from evalkit.serving.telemetry import Telemetry
from evalkit.store.journal import JournalSet
from evalkit.store.layout import RunFolder
from evalkit.store.queue import Few, WorkQueue
from evalkit.store.run import load_cluster, load_plan

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from evalkit.cluster.attempts import Attempt, End
    from evalkit.cluster.job import JobInfo
    from evalkit.plan.model import DeploymentPlan, Plan
    from evalkit.serving.deployment import ServerContext

__all__ = ["Worker", "drain_before_end", "request_drain", "run_replica"]

log = logging.getLogger("evalkit.worker")

JOIN_POLL_S = 0.2
PASSED = (EvalkitError, OSError, MemoryError)
"""Errors that `run_replica` raises as they are."""
ENDS: Mapping[str, End] = {"done": "done", "interrupted": "drained", "failed": "failed"}
"""How an attempt ended, by the last state of its report."""


def run_replica(run_dir: Path, replica: str, job: JobInfo, clock: Clock = SYSTEM_CLOCK) -> int:
    """Work as `replica` until nothing is left to lease: 0, or 1 when a drain ended it before.

    Raises EvalkitError when the run cannot be read or the model cannot be served, or for an error that
    nobody foresaw; OSError and MemoryError pass.
    """
    with replica_begins():
        folder = RunFolder(run_dir)
        plan = load_plan(folder)
        attempt = begin_attempt(folder, replica)
        hidden = run_secrets(plan, read_environment())
        with attempt_logging(folder.worker_log(replica, attempt.number), hidden):
            worker = Worker(plan, attempt, job, clock)
            take_orders(worker)
            worker.thread.start()
            while worker.thread.is_alive():
                worker.thread.join(JOIN_POLL_S)
    if worker.error is not None:
        raise worker.error
    return 1 if worker.was_interrupted else 0


class Worker:
    """One attempt of one replica; `run` is the body of its thread."""

    def __init__(self, plan: Plan, attempt: Attempt, job: JobInfo, clock: Clock) -> None:
        self._plan = plan
        self._folder = attempt.folder
        self._job = job
        self._clock = clock
        self._cluster = load_cluster(self._folder)
        self._env = read_environment()
        self._report = ReplicaReport(
            replica=attempt.replica,
            attempt=attempt.number,
            host=job.host,
            pid=os.getpid(),
            job_id=job.job_id,
            started=clock.wall(),
        )
        self._recorder = Recorder(
            self._folder.attempt_record(attempt.replica, attempt.number),
            begin_record(attempt, job, held_gpus(job, replica_gpus(plan), self._env), clock.wall()),
            clock,
        )
        path = self._folder.replica(attempt.replica)
        telemetry = Telemetry(
            self._folder.telemetry(attempt.replica, attempt.number),
            self._env if replica_gpus(plan) else {},  # those of others are not ours to watch
            clock.wall,
        )
        heartbeat = Heartbeat(
            path, self._report, clock, self._recorder, lambda: telemetry.tokens_per_s
        )
        self._all = Attending(
            attempt=attempt,
            plan=plan,
            settings=plan.client,
            env=self._env,
            clock=clock,
            journals=JournalSet(),
            report=self._report,
            heartbeat=heartbeat,
            drain=Drain(clock, job.kill_wait_s),
            server_context=self._server_context,
            telemetry=telemetry,
        )
        self._secrets = run_secrets(plan, self._env)
        self._contexts = Contexts(attempt, plan.run_id, job, self._cluster, self._env)
        self._servers = 0
        self._served: set[int] = set()
        self.thread = threading.Thread(target=self.run, name="evalkit-worker")
        self.error: BaseException | None = None

    @property
    def drain(self) -> Drain:
        """Ask it to stop."""
        return self._all.drain

    @property
    def shutdown_s(self) -> float:
        """Longest time a server of this run may take to end (s)."""
        servers = [d.serving for d in self._plan.deployments]
        return max([s.shutdown_timeout_s for s in servers if isinstance(s, LocalServing)] or [0.0])

    def time_left(self) -> float:
        """Time until the job ends (s), when the signal that warns of it has come.

        That signal also announces a preemption, for which nobody says a time: so no more than the
        time by which it precedes a time limit.
        """
        left_s = float(self._cluster.signal_delay_s)
        if self._job.ends is not None:
            left_s = min(left_s, self._job.ends - self._clock.wall())
        return max(0.0, left_s)

    @property
    def was_interrupted(self) -> bool:
        """Whether something may be left that it would have done."""
        return self._report.state == "interrupted"

    def wait(self, timeout_s: float) -> None:
        """Return when the attempt has ended or the time is over."""
        if self.thread.is_alive():
            self.thread.join(timeout_s)

    def run(self) -> None:
        """Run to the end; a failure is left in `error`."""
        failure = None
        try:
            self._recorder.write()
            note(self._folder, self._clock, f"{self._all.attempt.id} starts on {self._report.host}")
            job = self._job
            where = ", ".join(job.nodes)
            log.info("job %s on %s, requeued %d times", job.job_id, where, job.restart_count)
            self._report.state = "done" if asyncio.run(self._main()) else "interrupted"
        except BaseException as error:
            if self._is_stop(error):
                log.info("stopped (%s): %s", self.drain.reason, error)
                self._report.state = "interrupted"
            else:
                log.exception("the attempt failed", exc_info=error)
                failure = self._fail(error)
        finally:
            self._contexts.clean()
        self._say_goodbye(failure)

    def _is_stop(self, error: BaseException) -> bool:
        """Whether the attempt was told to stop, and did.

        Where Slurm signals every process of a step, the server ends before it is told to.
        """
        told = self.drain.requested and isinstance(error, ServingError)
        return told or isinstance(error, DrainedError)

    def _fail(self, error: BaseException) -> Failure:
        self.error = error
        self._report.state = "failed"
        text = str(error) if isinstance(error, EvalkitError) else repr(error)
        self._report.error = redact(text, self._secrets)
        if isinstance(error, Exception) and not isinstance(error, PASSED):
            self.error = EvalkitError(f"unforeseen: {self._report.error}")
            self.error.__cause__ = error
        attempt = self._all.attempt
        return classify(
            error,
            node=self._job.nodes[0] if self._job.nodes else self._job.host,
            log=self._folder.worker_log(attempt.replica, attempt.number),
            root=self._folder.root,
            secrets=self._secrets,
        )

    def _say_goodbye(self, failure: Failure | None) -> None:
        text = f"{self._all.attempt.id} {self._report.state}"
        if self._report.error:
            text += f": {self._report.error.splitlines()[0]}"
        try:
            self._all.heartbeat.write()
            self._recorder.end(
                ENDS[self._report.state],
                reason=None if self._report.state == "done" else self.drain.reason,
                failure=failure,
            )
            note(self._folder, self._clock, text)
        except StoreError as error:
            log.warning("%s", error)

    async def _main(self) -> bool:
        """Whether all is done that was to do."""
        self.drain.attach()
        recall = heed_recall(self._folder, self._all.attempt.replica, self._job, self.drain)
        beat = self._all.heartbeat.beat()
        tasks = [asyncio.create_task(t) for t in (beat, self._note_drain(), recall)]
        try:
            await self._clear_node()
            for index, deployment in enumerate(self._plan.deployments):
                self._report.phase = index
                if self.drain.requested or not await self._attend(index, deployment):
                    return False
            return True
        finally:
            for task in tasks:
                task.cancel()
            await self._all.journals.close()

    async def _clear_node(self) -> None:
        """End what earlier attempts of the run have left on this node."""
        marker = self._contexts.marker(0)
        for text in await asyncio.to_thread(end_leftovers, marker, self._folder.root):
            log.warning("%s", text)
            note(self._folder, self._clock, f"{self._all.attempt.id}: {text}")
        over = [record.id for record in read_attempts(self._folder) if record.end is not None]
        await asyncio.to_thread(remove_caches, self._plan.run_id, over)

    async def _note_drain(self) -> None:
        """Write down what stops the attempt as soon as it is told."""
        await self.drain.wait()
        self._recorder.stopping(self.drain.reason or "")
        try:
            await asyncio.to_thread(self._recorder.write)
        except StoreError as error:
            log.warning("%s", error)

    async def _attend(self, index: int, deployment: DeploymentPlan) -> bool:
        """Do all owed units of the tasks that use one deployment; False when a drain left some."""
        works = load_works(self._all.attempt, self._plan, index, self._env, self._clock)
        driven = frozenset(name for name, work in works.items() if work.benchmark.drives)
        queue = WorkQueue(
            self._folder,
            self._plan,
            {name: work.benchmark.single_call for name, work in works.items()},
            self._all.attempt.id,
            self._all.journals,
            Few(driven, places()),
        )
        try:
            first = await queue.next()
            if first is not None:
                queue.give_back(first)
            elif _is_lent(deployment) and queue.stay(driven):
                log.info("others work on what is owed: this replica lends them its server")
            else:
                log.info("nothing is owed of %s: no server is started", ", ".join(works))
                return True
            session = Session(self._all, deployment, works, queue, self._servers)
            try:
                await session.run()
            finally:
                self._servers = session.servers
            return session.is_dry
        finally:
            await queue.close()
            await close_works(works)

    def _server_context(self, number: int) -> ServerContext:
        self._served.add(self._report.phase)
        self._recorder.server_starts(number + 1, len(self._served))
        return self._contexts.make(number, self._tell)

    def _tell(self, text: str) -> None:
        self._report.detail = text
        log.info("%s", text)


def _is_lent(deployment: DeploymentPlan) -> bool:
    """Whether the recipe lets other nodes ask a server of it: see docs/adr/0029-lent-servers.md."""
    serving = deployment.serving
    return isinstance(serving, LocalServing) and serving.expose
