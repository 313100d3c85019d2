"""One execution of the job behind the replicas: it grades, gathers, and leaves as a replica does.

A grading runs in a thread of its own, for it may take as long as its job may: a signal drains it, and
then Slurm is asked what becomes of the job (see `evalkit.cluster.departure`), within the limits that
replicas have, over the attempts of this job. A gather can start over at any time and takes a minute:
there the warning before a time limit is not heard, unless the job is preempted.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from typing import TYPE_CHECKING

from evalkit.benchmarks.registry import benchmark_class
from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster import env as environment
from evalkit.cluster.attempts import begin_attempt
from evalkit.cluster.batch import TERMINATED
from evalkit.cluster.credentials import remove_secrets, secrets_file
from evalkit.cluster.departure import Departure
from evalkit.cluster.drain import REQUEUE_S, Drain, DrainedError, grace_before_end
from evalkit.cluster.failures import Failure, classify
from evalkit.cluster.holding import begin_record
from evalkit.cluster.job import QUERY_TIMEOUT_S, current_job, load_secrets
from evalkit.cluster.parameters import GATHER_WARNING_S
from evalkit.cluster.recorder import Recorder
from evalkit.cluster.requeue import Ending, refuse, seconds_left
from evalkit.cluster.requeue_orders import empty_record
from evalkit.cluster.runlog import note
from evalkit.cluster.slurm import SlurmCommands
from evalkit.errors import EvalkitError, IncompleteError, StoreError
from evalkit.recipe.serving import LocalServing
from evalkit.store.run import load_cluster, load_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from evalkit.cluster.grading import GradingProgress
    from evalkit.plan.model import Plan
    from evalkit.store.layout import RunFolder

log = logging.getLogger("evalkit.grading")

NAME = "gather"
"""In the place of a replica's."""
HANDLED = (signal.SIGTERM, signal.SIGUSR2)
JOIN_POLL_S = 0.2
UNWARNED_S = GATHER_WARNING_S / 2
"""A grading is drained so long before the end of its job where no signal has come by then (s)."""


class Gathering:
    """One execution of the job behind the replicas."""

    def __init__(self, folder: RunFolder) -> None:
        """Raises StoreError."""
        self._folder = folder
        self._job = current_job()
        self._cluster = load_cluster(folder)
        self._drain = Drain(SYSTEM_CLOCK, self._job.kill_wait_s)
        self._reasons: list[str] = []
        """Signals, and what else asked it to stop."""
        self._spent: str | None = None
        self._recorder: Recorder | None = None
        self._is_grading = False
        self._deadline: float | None = None
        """Monotonic time (s) by which a drained grading has ended, or is left as it is."""
        self._shutdown_s = 0.0

    def run(self, wait: Callable[[], None]) -> None:
        """Grade and gather, after `wait`. Raises SystemExit when the job was told to stop, and
        IncompleteError while units are missing."""
        for number in HANDLED:
            signal.signal(number, self._hear)
        wait()
        plan = load_plan(self._folder)
        load_secrets(self._folder)
        if any(benchmark_class(task.benchmark).grader is not None for task in plan.tasks):
            self._check_start()
            self._begin()
        try:
            if self._recorder is not None:
                self._grade(plan)
            self._gather(plan)
        except IncompleteError:
            self._end(None)
            raise
        except Exception as error:
            self._end(classify(error, node=self._job.host, root=self._folder.root))
            raise
        self._end(None)

    def leave(self, reason: str) -> None:
        """End a job that has not begun its work. Raises SystemExit."""
        self._reasons.append(reason)
        self._finish()

    def _check_start(self) -> None:
        """End a job that nobody wants: Slurm requeues without asking for limits."""
        departure = self._departure()
        if departure.is_cancelled():
            departure.note("the grading does not start again: the run was cancelled")
            raise SystemExit(TERMINATED)
        if (refusal := refuse(departure.history(), self._cluster)) is not None:
            number = begin_attempt(self._folder.gather_place, NAME).number
            departure.close(empty_record(self._job, NAME, number), refusal)
            raise departure.refused(refusal)

    def _begin(self) -> None:
        """Put the attempt on record. Raises StoreError."""
        place = self._folder.gather_place
        attempt = begin_attempt(place, NAME)
        record = begin_record(attempt, self._job, 0, SYSTEM_CLOCK.wall())
        path = place.attempt_record(NAME, attempt.number)
        self._recorder = Recorder(path, record, SYSTEM_CLOCK)
        self._recorder.write()

    def _grade(self, plan: Plan) -> None:
        """Grade what is owed. Raises SystemExit where that was interrupted, what else it raised."""
        judges = [task.judge.deployment.serving for task in plan.tasks if task.judge is not None]
        self._shutdown_s = max(
            [s.shutdown_timeout_s for s in judges if isinstance(s, LocalServing)] or [0.0]
        )
        ended: list[BaseException] = []
        thread = threading.Thread(
            target=self._grade_all, args=(plan, ended), name="evalkit-grading"
        )
        self._is_grading = True
        with self._timers():
            thread.start()
            while thread.is_alive():
                thread.join(JOIN_POLL_S)
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    self._finish()
        self._is_grading = False
        if ended and not isinstance(ended[0], DrainedError):
            raise ended[0]
        if ended or "SIGTERM" in self._reasons:
            self._finish()
        self._reasons.clear()  # it has finished within its time

    def _grade_all(self, plan: Plan, ended: list[BaseException]) -> None:
        """Body of the thread; what it raised is left in `ended`."""
        from evalkit.cluster.grading import Watching, grade_run  # heavy: serving and client

        try:
            failures = grade_run(
                self._folder,
                plan,
                tasks=plan.tasks,
                env=environment.read_environment(),
                clock=SYSTEM_CLOCK,
                watching=Watching(self._follow(), self._say, self._drain),
            )
            for failure in failures:  # what it leaves ungraded, the gather says in the end
                self._say(str(failure))
        except BaseException as error:
            if not isinstance(error, EvalkitError):
                log.exception("the grading failed")
            ended.append(error)

    def _follow(self) -> Callable[[GradingProgress], None]:
        """Counts the graded units of all tasks into the attempt's record."""
        counts: dict[str, int] = {}
        recorder = self._recorder

        def follow(progress: GradingProgress) -> None:
            counts[progress.task] = progress.now
            if recorder is not None:
                recorder.update(
                    units=sum(counts.values()), completion_tokens=0, startup_s=0.0, restart_s=0.0
                )
                if recorder.is_due:
                    with contextlib.suppress(StoreError):
                        recorder.write()

        return follow

    @contextlib.contextmanager
    def _timers(self) -> Iterator[None]:
        """Drain where `max_hours` end in the middle of the block, and near the end of the job."""
        spent_s = seconds_left(self._departure().history(), self._cluster)
        timers = []
        if spent_s is not None:
            text = f"cluster.max_hours, {self._cluster.max_hours:g}, are over"
            timers.append(threading.Timer(spent_s, self._stop_for, ("max_hours", text)))
        left_s = None if self._job.ends is None else self._job.ends - SYSTEM_CLOCK.wall()
        if left_s is not None and left_s > 2 * UNWARNED_S:
            near = threading.Timer(
                left_s - UNWARNED_S, self._stop_for, ("near its time limit", None)
            )
            timers.append(near)
        for timer in timers:
            timer.daemon = True
            timer.start()
        try:
            yield
        finally:
            for timer in timers:
                timer.cancel()

    def _stop_for(self, reason: str, spent: str | None) -> None:
        """Drain for a reason that is no signal; a limit that is reached is `spent`."""
        self._reasons.append(reason)
        self._spent = spent
        self._request(reason, 0.0 if spent else self._grace())

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        """Handler of both signals."""
        name = signal.Signals(number).name
        if not self._is_grading:
            self._hear_gathering(name)
            return
        if name in self._reasons:
            return
        self._reasons.append(name)
        if name == "SIGTERM":
            self._request(name, None)
            self._deadline = time.monotonic() + max(1.0, self._job.kill_wait_s - REQUEUE_S)
        else:
            self._request(name, self._grace())

    def _hear_gathering(self, name: str) -> None:
        """A TERM is the end of this execution; a USR2 is, where the job is preempted: it would not be
        requeued if it just ended in its grace time."""
        if name == "SIGTERM" or self._is_preempted():
            self._reasons.append(name)
            self._finish()

    def _is_preempted(self) -> bool:
        commands = SlurmCommands(environment.read_environment(), QUERY_TIMEOUT_S)
        if self._job.executor != "slurm" or not commands.has("scontrol"):
            return False
        view = commands.show(self._job.job_id)
        return view is not None and view.is_running and view.is_preempted

    def _grace(self) -> float:
        """Time for what is begun (s) when the job is near its end."""
        left_s = float(GATHER_WARNING_S)
        if self._job.ends is not None:
            left_s = min(left_s, self._job.ends - SYSTEM_CLOCK.wall())
        return grace_before_end(left_s, self._shutdown_s)

    def _request(self, reason: str, grace_s: float | None) -> None:
        if self._recorder is not None:
            self._recorder.stopping(reason)
        self._drain.request(reason, grace_s)

    def _gather(self, plan: Plan) -> None:
        """Raises IncompleteError while units are missing; the job then counts as failed."""
        from evalkit.report.gather import gather_run

        gather_run(self._folder, plan, on_progress=_ignore, clock=SYSTEM_CLOCK.wall)
        remove_secrets(secrets_file(self._folder, plan))

    def _end(self, failure: Failure | None) -> None:
        """Say in the attempt's record how it ended."""
        if self._recorder is not None:
            with contextlib.suppress(StoreError):  # a hint
                self._recorder.end("failed" if failure else "done", failure=failure)

    def _finish(self) -> None:
        """Requeue the job if it goes on. Raises SystemExit, and ClusterError when only a limit ended it."""
        for number in HANDLED:  # a requeue sends a TERM to this process, and to scontrol
            signal.signal(number, signal.SIG_IGN)
        if self._recorder is not None:
            with contextlib.suppress(StoreError):
                self._recorder.end("drained", reason=self._reasons[0] if self._reasons else None)
        ending = Ending(self._job.restart_count, tuple(self._reasons))
        self._departure().finish(ending, self._spent)
        raise SystemExit(TERMINATED)

    def _departure(self) -> Departure:
        return Departure(
            self._folder, NAME, self._cluster, self._job, attempts=self._folder.gather_place
        )

    def _say(self, text: str) -> None:
        note(self._folder, SYSTEM_CLOCK, text)


def _ignore(_progress: object) -> None:
    """A job has nobody who watches; what was found goes to the run's log."""
