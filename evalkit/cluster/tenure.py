"""One attempt's hold on its job: whether it starts, and what signals do to it.

USR2 (time limit, preemption where the site says so) drains in the time that is left to the job, TERM
(cancel, preemption, requeue) within Slurm's KillWait. What happens to the job then is not read from
the signal: see `evalkit.cluster.departure`.

Nothing here knows how work is drained; the worker does. The main thread runs handlers and waits.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from typing import TYPE_CHECKING

from evalkit.cluster.attempts import begin_attempt, settle_deaths
from evalkit.cluster.batch import ENDED_CODE, TERMINATED
from evalkit.cluster.departure import Departure
from evalkit.cluster.drain import REQUEUE_S
from evalkit.cluster.failures import classify
from evalkit.cluster.job import current_job, load_secrets
from evalkit.cluster.requeue import Ending, refuse, seconds_left
from evalkit.cluster.requeue_orders import empty_record, retry_unknown_job
from evalkit.errors import StoreError
from evalkit.recipe.schema import Cluster
from evalkit.store.run import load_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType, ModuleType

    from evalkit.cluster.failures import FailureKind
    from evalkit.cluster.job import JobInfo
    from evalkit.store.layout import RunFolder

log = logging.getLogger("evalkit.worker")

HANDLED = (signal.SIGTERM, signal.SIGUSR2)


class Tenure:
    """One attempt of one replica in its job."""

    def __init__(self, folder: RunFolder, replica: str, *, goes_on: bool = False) -> None:
        """`goes_on`: the job works for other runs after this one."""
        self._folder = folder
        self._goes_on = goes_on
        self._replica = replica
        self._cluster = Cluster()
        self._job: JobInfo | None = None
        self._worker: ModuleType | None = None
        self._signals: list[str] = []
        self._spent: str | None = None
        self._is_decided = False
        self.is_over = False
        """What `hold` raised is the end of the job, by decision."""

    @property
    def heard(self) -> list[int]:
        """Numbers of the signals that came."""
        return [signal.Signals[name] for name in self._signals]

    def hold(self, early: Sequence[int] = ()) -> None:
        """Work until nothing is left to lease. `early`: signals that came before this call.

        Raises SystemExit when the attempt was told to stop, what the worker raised when it failed, and
        ClusterError when it would go on but may not. Returns where the job goes on with another run.
        """
        for number in HANDLED:
            signal.signal(number, self._hear)
        if early:
            self.leave(*(signal.Signals(number).name for number in early))
        try:
            code = self._work()
        except Exception as error:  # damage of ours too: a job that just ends is lost
            if not self._is_decided:
                self._fail(error)
                self.is_over = True
            raise
        if code and not self._is_left_out():
            self._finish(None)
            is_local = self._job is None or self._job.executor == "local"
            raise SystemExit(code if is_local else ENDED_CODE)

    def _work(self) -> int:
        """The worker's exit code. Raises what it or the start of the attempt raised."""
        self._job = current_job()  # first: what fails on the disk needs it to be tried again
        if not self._folder.plan.exists():
            raise StoreError(
                f"{self._folder.plan} is not to be seen here",
                hint="The output folder must be the same on all nodes.",
            )
        self._cluster = load_cluster(self._folder)
        if not self._may_start(self._job):
            return 0
        from evalkit.cluster import worker  # heavy: serving and client

        load_secrets(self._folder)
        self._worker = worker
        with self._budget(self._job):
            code: int = worker.run_replica(self._folder.root, self._replica, self._job)
        return code

    def _fail(self, error: BaseException) -> None:
        """What becomes of a job whose attempt raised `error`: SystemExit, or nothing when it just ends."""
        _ignore_signals()
        if self._job is None:
            retry_unknown_job()
            return
        job = self._job
        failure = classify(error, node=job.nodes[0] if job.nodes else job.host)
        departure = self._departure(job)
        if not any(r.restart_count == job.restart_count for r in departure.history()):
            self._spent = departure.record_failure(failure)
        self._finish(failure.kind)

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

    def _is_left_out(self) -> bool:
        """Whether only this run was cancelled, and the job is there for others."""
        job = self._job
        if not self._goes_on or self._signals or job is None:
            return False
        return self._departure(job).is_cancelled()

    def _may_start(self, job: JobInfo) -> bool:
        """End an attempt that nobody wants: Slurm requeues without asking for budgets. False where the
        job goes on without this run."""
        departure = self._departure(job)
        if self._is_left_out():
            departure.note(f"{self._replica} leaves this run out: it was cancelled")
            return False
        if departure.is_cancelled():
            departure.note(f"{self._replica} does not start again: the run was cancelled")
            raise SystemExit(TERMINATED)
        settle_deaths(self._folder, self._replica, job.job_id)
        refusal = refuse(departure.history(), self._cluster)
        if refusal is not None:
            number = begin_attempt(self._folder, self._replica).number
            departure.close(empty_record(job, self._replica, number), refusal)
            self._is_decided = self.is_over = True
            raise departure.refused(refusal)
        return True

    @contextlib.contextmanager
    def _budget(self, job: JobInfo) -> Iterator[None]:
        """Drain when `max_hours` are over in the middle of the block."""
        left_s = seconds_left(self._departure(job).history(), self._cluster)
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
        ending = Ending(job.restart_count, tuple(self._signals), failure)
        departure = self._departure(job)
        try:
            departure.finish(ending, self._spent)
        finally:
            self.is_over = departure.is_refused

    def _departure(self, job: JobInfo) -> Departure:
        return Departure(self._folder, self._replica, self._cluster, job, goes_on=self._goes_on)


def _ignore_signals() -> None:
    for number in HANDLED:
        signal.signal(number, signal.SIG_IGN)
