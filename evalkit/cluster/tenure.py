"""One attempt's hold on its job: whether it starts, what signals do to it, what becomes of the job.

USR2 (time limit, preemption where the site says so) drains in the time that is left to the job, TERM
(cancel, preemption, requeue) within Slurm's KillWait. What happens to the job then is not read from
the signal: Slurm is asked, `evalkit.cluster.requeue` decides, and the job is requeued from here, past
submitit, which would keep books of its own about it.

Nothing here knows how work is drained; the worker does. The main thread runs handlers and waits.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster import env as environment
from evalkit.cluster.attempts import begin_attempt, read_attempts, write_attempt
from evalkit.cluster.drain import REQUEUE_S
from evalkit.cluster.executor import REQUEUE_CODE
from evalkit.cluster.failures import Failure, FailureKind, classify
from evalkit.cluster.job import QUERY_TIMEOUT_S, TERMINATED, current_job, load_secrets
from evalkit.cluster.jobs import is_cancelled
from evalkit.cluster.requeue import (
    UNRECORDED_AFTER,
    Action,
    Ending,
    Verdict,
    attempts_of_job,
    decide,
    find_cause,
    nodes_to_avoid,
    refuse,
    seconds_left,
)
from evalkit.cluster.requeue_orders import (
    OUTSIDE,
    empty_record,
    keep_off,
    requeue_job,
    retry_unknown_job,
)
from evalkit.cluster.runlog import note
from evalkit.cluster.slurm import SlurmCommands
from evalkit.errors import ClusterError, StoreError
from evalkit.recipe.schema import Cluster
from evalkit.store.run import load_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType, ModuleType

    from evalkit.cluster.attempts import AttemptRecord, Cause
    from evalkit.cluster.job import JobInfo
    from evalkit.store.layout import RunFolder

log = logging.getLogger("evalkit.worker")

HANDLED = (signal.SIGTERM, signal.SIGUSR2)
ANSWER_S = 4.0
"""For each of Slurm's commands after a TERM. A batch script has more patience, and no KILL soon."""
WARNING_EARLY_S = 90.0
"""Slurm may send the warning a minute before it was asked for."""
CONTINUES = "What is finished is kept: `evalkit submit` continues the run."


class Tenure:
    """One attempt of one replica in its job."""

    def __init__(self, folder: RunFolder, replica: str) -> None:
        self._folder = folder
        self._replica = replica
        self._cluster = Cluster()
        self._job: JobInfo | None = None
        self._worker: ModuleType | None = None
        self._signals: list[str] = []
        self._spent: str | None = None
        self._is_decided = False

    def hold(self, early: Sequence[int] = ()) -> None:
        """Work until nothing is left to lease. `early`: signals that came before this call.

        Raises SystemExit when the attempt was told to stop, what the worker raised when it failed, and
        ClusterError when it would go on but may not.
        """
        for number in HANDLED:
            signal.signal(number, self._hear)
        if early:
            self.leave(*(signal.Signals(number).name for number in early))
        try:
            code = self._work()
        except Exception as error:  # damage of ours too: a job that just ends is lost
            self._fail(error)
            raise
        if code:
            self._finish(None)
            raise SystemExit(code)

    def _work(self) -> int:
        """The worker's exit code. Raises what it or the start of the attempt raised."""
        self._job = current_job()  # first: what fails on the disk needs it to be tried again
        if not self._folder.plan.exists():
            raise StoreError(
                f"{self._folder.plan} is not to be seen here",
                hint="The output folder must be the same on all nodes.",
            )
        self._cluster = load_cluster(self._folder)
        self._check_start(self._job)
        from evalkit.cluster import worker  # heavy: serving and client

        load_secrets(self._folder)
        self._worker = worker
        with self._budget(self._job):
            code: int = worker.run_replica(self._folder.root, self._replica, self._job)
        return code

    def _fail(self, error: BaseException) -> None:
        """What becomes of a job whose attempt raised `error`: SystemExit, or nothing when it just ends.

        What a handler raised when it had decided already is none of this.
        """
        if self._is_decided:
            return
        _ignore_signals()
        if self._job is None:
            retry_unknown_job()
            return
        job = self._job
        failure = classify(error, node=job.nodes[0] if job.nodes else job.host)
        history = attempts_of_job(self._records(), job.job_id)
        if not any(record.restart_count == job.restart_count for record in history):
            unseen = job.restart_count - len(history)
            if not self._record(job, failure) and unseen >= UNRECORDED_AFTER:
                self._spent = f"its attempts cannot leave a record: {failure.reason}"
        self._finish(failure.kind)

    def _record(self, job: JobInfo, failure: Failure) -> bool:
        """Write the record of an attempt that failed before its worker wrote one; whether that worked."""
        try:
            number = begin_attempt(self._folder, self._replica).number
            record = replace(
                empty_record(job, self._replica, number), end="failed", failure=failure
            )
            write_attempt(self._folder, record)
        except (StoreError, OSError) as error:
            log.warning("the attempt leaves no record: %s", error)
            return False
        return True

    def leave(self, *signals: str) -> None:
        """End an attempt that has not begun its work. Raises SystemExit or ClusterError."""
        self._signals.extend(signals)
        self._finish(None)
        raise SystemExit(TERMINATED)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        """Handler of both signals. The first one ends the attempt, a TERM after it makes haste."""
        name = signal.Signals(number).name
        self._signals.append(name)
        if len(self._signals) > 1:
            if name == "SIGTERM" and self._worker is not None and self._signals.count(name) == 1:
                self._worker.request_drain(name, wait_s=0)
            return
        if self._worker is not None and self._job is not None:
            if name == "SIGTERM":
                wait_s = max(1.0, self._job.kill_wait_s - REQUEUE_S)
                self._worker.request_drain(name, wait_s=wait_s)
            else:
                self._worker.drain_before_end(name)
        self._finish(None)
        raise SystemExit(TERMINATED)

    def _check_start(self, job: JobInfo) -> None:
        """End an attempt that nobody wants: Slurm requeues without asking for budgets."""
        if self._is_cancelled(job):
            self._note(f"{self._replica} does not start again: the run was cancelled")
            raise SystemExit(TERMINATED)
        refusal = refuse(attempts_of_job(self._records(), job.job_id), self._cluster)
        if refusal is not None:
            number = begin_attempt(self._folder, self._replica).number
            self._close(empty_record(job, self._replica, number), refusal)
            raise self._refused(refusal)

    @contextlib.contextmanager
    def _budget(self, job: JobInfo) -> Iterator[None]:
        """Drain when `max_hours` are over in the middle of the block."""
        left_s = seconds_left(attempts_of_job(self._records(), job.job_id), self._cluster)
        if left_s is None or self._worker is None:
            yield
            return

        def end(worker: ModuleType) -> None:
            self._spent = f"cluster.max_hours, {self._cluster.max_hours:g}, are over"
            worker.request_drain("max_hours", wait_s=0)

        timer = threading.Timer(left_s, end, (self._worker,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _finish(self, failure: FailureKind | None) -> None:
        """Requeue the job if it goes on: SystemExit. Returns where the attempt just ends.

        Signals are ignored from here on, by scontrol too: a preemption without grace sends TERM to
        every process of the job, right behind USR2, and a requeue of ours does.
        """
        _ignore_signals()
        self._is_decided = True
        job = self._job or current_job()
        records = self._records()
        history = attempts_of_job(records, job.job_id)
        if self._own(history, job, "done") is not None:
            return
        ending = Ending(job.restart_count, tuple(self._signals), failure)
        refusal = self._spent or refuse(history, self._cluster)
        if self._is_cancelled(job):
            verdict = Verdict(Action.END, "the run was cancelled")
            self._say_cause(job, "cancelled")
        elif job.executor == "local":
            # a TERM of a local job is its cancel: nobody else has a say there
            is_ended = failure is not None or "SIGTERM" in ending.signals
            verdict = Verdict(Action.END, "") if is_ended else decide(ending, None, refusal)
        else:
            self._finish_slurm(ending, job, records, refusal)
            return
        if verdict.action is Action.REQUEUE:
            raise SystemExit(LOCAL_REQUEUE_RETURN_CODE)
        self._stop(verdict, refusal, job, history)

    def _finish_slurm(
        self, ending: Ending, job: JobInfo, records: Sequence[AttemptRecord], refusal: str | None
    ) -> None:
        patience_s = ANSWER_S if "SIGTERM" in ending.signals else QUERY_TIMEOUT_S
        commands = SlurmCommands(environment.read_environment(), patience_s)
        view = commands.show(job.job_id) if commands.has("scontrol") else OUTSIDE
        verdict = decide(ending, view, refusal)
        cause = find_cause(ending, view, is_near_limit=self._is_near_limit(job))
        history = attempts_of_job(records, job.job_id)
        if verdict.action is Action.END:
            self._say_cause(job, cause)
            records = self._records() if cause else records
            self._stop(verdict, refusal, job, attempts_of_job(records, job.job_id))
            return
        text = verdict.reason
        if verdict.action is Action.REQUEUE:
            obstacle = requeue_job(commands, view, verdict, job)
            if obstacle is not None:
                self._say_cause(job, cause)
                self._note(f"{self._replica} asks its batch script for a requeue: {text}{obstacle}")
                raise SystemExit(REQUEUE_CODE)
            # Slurm takes this of a job that waits, so not before; it waits as soon as it is requeued
            text += keep_off(commands, job, view, nodes_to_avoid(history, records))
        self._say_cause(job, cause)
        self._note(f"{self._replica} goes back into the queue: {text}")
        raise SystemExit(TERMINATED)

    def _is_near_limit(self, job: JobInfo) -> bool:
        """Whether the warning before the time limit was due."""
        if job.ends is None:
            return False
        return SYSTEM_CLOCK.wall() >= job.ends - self._cluster.signal_delay_s - WARNING_EARLY_S

    def _say_cause(self, job: JobInfo, cause: Cause | None) -> None:
        """Put what Slurm said into this attempt's record, which its worker has written last."""
        history = attempts_of_job(self._records(), job.job_id)
        last = history[-1] if history else None
        if cause is None or last is None or last.restart_count != job.restart_count:
            return
        with contextlib.suppress(StoreError, OSError):  # only status has less to say then
            write_attempt(self._folder, replace(last, cause=cause))

    def _stop(
        self,
        verdict: Verdict,
        refusal: str | None,
        job: JobInfo,
        history: Sequence[AttemptRecord],
    ) -> None:
        """The job ends. Raises ClusterError when only a limit ended it."""
        if not verdict.is_refusal:
            log.info("the job ends: %s", verdict.reason)
            return
        drained = self._own(history, job, "drained")
        if drained is not None and verdict.reason == refusal:
            self._close(drained, refusal)
        raise self._refused(verdict.reason)

    def _refused(self, why: str) -> ClusterError:
        self._is_decided = True
        text = f"{self._replica} is not requeued: {why}"
        self._note(text)
        return ClusterError(text, hint=CONTINUES)

    def _close(self, record: AttemptRecord, reason: str) -> None:
        """Say in an attempt's record that its job went over its limits."""
        failure = Failure(FailureKind.OVER_BUDGET, reason, record.node)
        with contextlib.suppress(StoreError):  # the run's log has it too
            write_attempt(
                self._folder,
                replace(record, end="over_budget", reason=reason, failure=failure),
            )

    def _own(
        self, history: Sequence[AttemptRecord], job: JobInfo, end: str
    ) -> AttemptRecord | None:
        """The record of this attempt, if it ended so."""
        last = history[-1] if history else None
        is_own = last is not None and last.restart_count == job.restart_count and last.end == end
        return last if is_own else None

    def _records(self) -> list[AttemptRecord]:
        """Records of the run; none where they cannot be read, which may not keep a job from its requeue."""
        try:
            return read_attempts(self._folder)
        except OSError as error:
            log.warning("the attempts cannot be read: %s", error)
            return []

    def _is_cancelled(self, job: JobInfo) -> bool:
        try:
            return is_cancelled(self._folder, job.job_id)
        except StoreError as error:
            log.warning("%s", error)
            return False

    def _note(self, text: str) -> None:
        log.info("%s", text)
        with contextlib.suppress(StoreError):
            note(self._folder, SYSTEM_CLOCK, text)


def _ignore_signals() -> None:
    for number in HANDLED:
        signal.signal(number, signal.SIG_IGN)
