"""What becomes of a job when an attempt in it has ended: Slurm is asked, `requeue` decides, this acts.

The job is requeued from here, past submitit, which would keep books of its own about it. It is the
attempt's own process that comes here, on a signal or with its failure; or, where that process was
killed or never began, `evalkit.cluster.aftermath` in its place. Whoever comes has its signals ignored
by then.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster import env as environment
from evalkit.cluster.attempts import begin_attempt, read_attempts, write_attempt
from evalkit.cluster.batch import REQUEUE_CODE, TERMINATED
from evalkit.cluster.failures import Failure, FailureKind
from evalkit.cluster.job import QUERY_TIMEOUT_S
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
)
from evalkit.cluster.requeue_orders import OUTSIDE, empty_record, keep_off, requeue_job
from evalkit.cluster.runlog import note
from evalkit.cluster.slurm import SlurmCommands
from evalkit.errors import ClusterError, StoreError

if TYPE_CHECKING:
    from evalkit.cluster.attempts import AttemptRecord, Cause
    from evalkit.cluster.job import JobInfo
    from evalkit.recipe.schema import Cluster
    from evalkit.store.layout import RunFolder

log = logging.getLogger("evalkit.worker")

ANSWER_S = 4.0
"""For each of Slurm's commands after a TERM. A batch script has more patience, and no KILL soon."""
WARNING_EARLY_S = 90.0
"""Slurm may send the warning a minute before it was asked for."""
CONTINUES = "What is finished is kept: `evalkit submit` continues the run."


class Departure:
    """The end of one attempt of one replica, as far as its job goes."""

    def __init__(
        self,
        folder: RunFolder,
        replica: str,
        cluster: Cluster,
        job: JobInfo,
        *,
        attempts: RunFolder | None = None,
        goes_on: bool = False,
    ) -> None:
        """`attempts`: where those of the job are on record, if not in the run's own folder; `goes_on`:
        other runs wait for the job."""
        self._folder = folder
        self._attempts = attempts or folder
        self._goes_on = goes_on
        self._replica = replica
        self._cluster = cluster
        self._job = job
        self.is_refused = False
        """A limit of the site or of the recipe has ended the job."""

    def records(self) -> list[AttemptRecord]:
        """Records of the run; none where they cannot be read, which may not keep a job from its requeue."""
        try:
            return read_attempts(self._attempts)
        except OSError as error:
            log.warning("the attempts cannot be read: %s", error)
            return []

    def history(self) -> list[AttemptRecord]:
        """Those of this job."""
        return attempts_of_job(self.records(), self._job.job_id)

    def own(self) -> AttemptRecord | None:
        """The record of this attempt, if it left one."""
        last = self.history()[-1:]
        is_own = bool(last) and last[0].restart_count == self._job.restart_count
        return last[0] if is_own else None

    def is_cancelled(self) -> bool:
        """Whether `evalkit cancel` came over the job."""
        try:
            return is_cancelled(self._folder, self._job.job_id)
        except StoreError as error:
            log.warning("%s", error)
            return False

    def record_failure(self, failure: Failure) -> str | None:
        """Leave a record of an attempt that failed before its worker wrote one.

        Where that does not work, and has not for long: why the job goes no further.
        """
        job = self._job
        unseen = job.restart_count - len(self.history())
        try:
            number = begin_attempt(self._attempts, self._replica).number
            record = empty_record(job, self._replica, number)
            write_attempt(self._attempts, replace(record, end="failed", failure=failure))
        except (StoreError, OSError) as error:
            log.warning("the attempt leaves no record: %s", error)
            if unseen >= UNRECORDED_AFTER:
                return f"its attempts cannot leave a record: {failure.reason}"
        return None

    def finish(self, ending: Ending, spent: str | None = None) -> None:
        """Requeue the job if it goes on: SystemExit. Returns where the attempt just ends.

        `spent`: a limit that is reached, whatever the records say. Raises ClusterError when only a limit
        ended the job.
        """
        own, job = self.own(), self._job
        if own is not None and own.end == "done" and not self._goes_on:
            return
        refusal = spent or refuse(self.history(), self._cluster)
        if self.is_cancelled() and not self._goes_on:
            self._say_cause("cancelled")
            verdict = Verdict(Action.END, "the run was cancelled")
        elif job.executor == "local":
            # a TERM of a local job is its cancel: nobody else has a say there
            is_ended = ending.failure is not None or "SIGTERM" in ending.signals
            verdict = Verdict(Action.END, "") if is_ended else decide(ending, None, refusal)
        else:
            self._finish_slurm(ending, refusal)
            return
        if verdict.action is Action.REQUEUE:
            raise SystemExit(LOCAL_REQUEUE_RETURN_CODE)
        self._stop(verdict, refusal)

    def _finish_slurm(self, ending: Ending, refusal: str | None) -> None:
        job = self._job
        patience_s = ANSWER_S if "SIGTERM" in ending.signals else QUERY_TIMEOUT_S
        commands = SlurmCommands(environment.read_environment(), patience_s)
        view = commands.show(job.job_id) if commands.has("scontrol") else OUTSIDE
        verdict = decide(ending, view, refusal)
        cause = find_cause(ending, view, is_near_limit=self._is_near_limit())
        if verdict.action is Action.END:
            self._say_cause(cause)
            self._stop(verdict, refusal)
            return
        text = verdict.reason
        if verdict.action is Action.REQUEUE:
            obstacle = requeue_job(commands, view, verdict, job)
            if obstacle is not None:
                self._say_cause(cause)
                self.note(f"{self._replica} asks its batch script for a requeue: {text}{obstacle}")
                raise SystemExit(REQUEUE_CODE)
            # Slurm takes this of a job that waits, so not before; it waits as soon as it is requeued
            records = self.records()
            avoid = nodes_to_avoid(attempts_of_job(records, job.job_id), records)
            text += keep_off(commands, job, view, avoid, self._cluster)
        self._say_cause(cause)
        self.note(f"{self._replica} goes back into the queue: {text}")
        raise SystemExit(TERMINATED)

    def _is_near_limit(self) -> bool:
        """Whether the warning before the time limit was due."""
        if self._job.ends is None:
            return False
        early_s = self._cluster.signal_delay_s + WARNING_EARLY_S
        return SYSTEM_CLOCK.wall() >= self._job.ends - early_s

    def _say_cause(self, cause: Cause | None) -> None:
        """Put what Slurm said into this attempt's record, which its worker has written last."""
        own = None if cause is None else self.own()
        if own is not None:
            with contextlib.suppress(StoreError, OSError):  # only status has less to say then
                write_attempt(self._attempts, replace(own, cause=cause))

    def _stop(self, verdict: Verdict, refusal: str | None) -> None:
        """The job ends. Raises ClusterError when only a limit ended it."""
        if not verdict.is_refusal:
            log.info("the job ends: %s", verdict.reason)
            return
        own = self.own()
        if own is not None and own.end == "drained" and verdict.reason == refusal:
            self.close(own, refusal)
        raise self.refused(verdict.reason)

    def refused(self, why: str) -> ClusterError:
        """The error for a job that would go on, but for a limit; the run's log has it too."""
        self.is_refused = True
        text = f"{self._replica} is not requeued: {why}"
        self.note(text)
        return ClusterError(text, hint=CONTINUES)

    def close(self, record: AttemptRecord, reason: str) -> None:
        """Say in an attempt's record that its job went over its limits."""
        failure = Failure(FailureKind.OVER_BUDGET, reason, record.node)
        ended = replace(record, end="over_budget", reason=reason, failure=failure)
        with contextlib.suppress(StoreError):  # the run's log has it too
            write_attempt(self._attempts, ended)

    def note(self, text: str) -> None:
        """Say it in the run's log and in the job's."""
        log.info("%s", text)
        with contextlib.suppress(StoreError):
            note(self._folder, SYSTEM_CLOCK, text)
