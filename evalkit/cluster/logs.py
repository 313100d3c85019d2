"""Follow the logs of all replicas, attempts and silent jobs of a run as one stream of prefixed lines.

Plain files are polled: they grow on other nodes, where no notification reaches us, and new ones appear
with every attempt. Log text decides nothing anywhere here; it is for people.
"""

from __future__ import annotations

import re
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.attempts import read_attempt
from evalkit.cluster.env import read_environment
from evalkit.cluster.job_logs import JobLogs
from evalkit.cluster.jobs import read_jobs
from evalkit.cluster.live import live_elements
from evalkit.cluster.log_tail import LogLine, Tail
from evalkit.cluster.log_times import line_time
from evalkit.cluster.passing_faults import PassingFaults
from evalkit.cluster.replica_report import read_reports
from evalkit.cluster.slurm import SlurmCommands
from evalkit.errors import ClusterError, StoreError, UsageError
from evalkit.store.layout import attempt_id
from evalkit.store.union import attempt_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from evalkit.cluster.replica_report import ReplicaReport
    from evalkit.store.layout import RunFolder

POLL_S = 0.25
DISCOVER_ROUNDS = 8
"""New files are looked for, and files without news looked at, every 8th poll: a run may have thousands."""
ASK_SLURM_EVERY_S = 30.0
"""Slurm is asked whether a job lives only when no replica says so."""
ATTEMPT = re.compile(r"attempt-(\d+)")
SOURCE = re.compile(r"worker|server|server-node(\d+)")
DEFAULT_LINES = 20


def _quiet(_problem: StoreError) -> None:
    """Nobody is told."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines are asked for."""

    replica: str | None = None
    """A replica, `r0`, or an attempt, `r0.a2`."""
    server: bool = False
    """The servers' logs beside the workers'."""
    since: float | None = None
    """Unix time (s): only what was written then or later."""
    grep: re.Pattern[str] | None = None
    """Only lines that it is found in."""
    lines: int | None = None
    """Most lines of each file that were there before; None: all when `since` or `grep` choose, and
    `DEFAULT_LINES` else."""

    @property
    def is_filtered(self) -> bool:
        """Whether lines are chosen by what they are."""
        return self.since is not None or self.grep is not None

    @property
    def backlog(self) -> int | None:
        """Most lines of what was there before."""
        return DEFAULT_LINES if self.lines is None and not self.is_filtered else self.lines

    def has_source(self, source: str) -> bool:
        """Whether lines of this source are asked for."""
        return self.server or source == "worker"

    def has_attempt(self, attempt: str) -> bool:
        """Whether lines of this attempt are asked for."""
        return self.replica in (None, attempt, attempt.rpartition(".")[0])

    def has_job(self, origin: str) -> bool:
        """Whether the output of a replica's job, or of a gather, is asked for."""
        return self.replica in (None, origin)


@dataclass(slots=True)
class Follower:
    """All logs of a run that were asked for."""

    folder: RunFolder
    wanted: Wanted
    now: Callable[[], float] = SYSTEM_CLOCK.wall
    tails: dict[Path, Tail] = field(default_factory=dict)
    rounds: int = 0
    jobs: JobLogs = field(init=False)

    def __post_init__(self) -> None:
        self.jobs = JobLogs(self.folder)

    def begin(self) -> Iterator[LogLine]:
        """What is there already, file by file, as much of it as was asked for."""
        self.discover()
        last = self.wanted.backlog
        for tail in self.tails.values():
            if last is not None and not self.wanted.is_filtered:
                tail.skip_to_last(last)
            found = self._chosen(tail)
            yield from found if last is None else deque(found, maxlen=last)

    def discover(self) -> None:
        """Take in files that are new."""
        for path, attempt, source in find_logs(self.folder, self.wanted):
            if path not in self.tails:
                record = read_attempt(self.folder.attempt_record(*_split(attempt)))
                started = None if record is None else record.started
                self.tails[path] = Tail(path, attempt, source, time=started)
        for log in self.jobs.find():
            if log.path not in self.tails and self.wanted.has_job(log.origin):
                self.tails[log.path] = Tail(log.path, log.origin, log.source, time=log.submitted)

    @property
    def is_thorough(self) -> bool:
        """Whether this round looks for new files, and at those without news."""
        return self.rounds % DISCOVER_ROUNDS == 0

    def look_around(self, is_over: Callable[[], bool]) -> bool:
        """Whether the run is over. Before the last look, and now and then, new files are taken in."""
        ending = is_over()
        if ending or self.is_thorough:
            self.discover()
        return ending

    def read(self, *, thorough: bool = True) -> Iterator[LogLine]:
        """All new lines, file by file; of files without news lately only when `thorough`."""
        for tail in list(self.tails.values()):
            if thorough or not tail.quiet:
                yield from self._chosen(tail, is_new=True)

    def finish(self) -> Iterator[LogLine]:
        """What is left without a line break."""
        for tail in self.tails.values():
            yield from self._filter(tail, tail.finish())

    def _chosen(self, tail: Tail, *, is_new: bool = False) -> Iterator[LogLine]:
        while True:
            yield from self._filter(tail, tail.read(), is_new=is_new)
            if tail.quiet:  # a line may be longer than what is read at once
                break

    def _filter(
        self, tail: Tail, lines: Iterable[LogLine], *, is_new: bool = False
    ) -> Iterator[LogLine]:
        """The lines that were asked for. `is_new`: they were not there before, so they are of now,
        whatever their own clock says."""
        since, grep = self.wanted.since, self.wanted.grep
        for line in lines:
            if since is not None:
                now = self.now()
                when = now if is_new else line_time(line.text, now)
                tail.time = tail.time if when is None else when
                if tail.time is not None and tail.time < since:
                    continue
            if grep is None or grep.search(line.text):
                yield line


def follow(
    folder: RunFolder,
    wanted: Wanted,
    *,
    follow: bool,
    is_over: Callable[[], bool] | None = None,
    on_problem: Callable[[StoreError], None] = _quiet,
) -> Iterator[LogLine]:
    """The lines that are there, then, with `follow`, what comes until the run is over.

    `is_over` tells when nothing of the run lives any more; by default the replicas' reports and Slurm
    do. `on_problem` is told of faults while following that may pass. Raises UsageError, and StoreError
    when the run cannot be read.
    """
    _check_replica(folder, wanted.replica)
    follower = Follower(folder, wanted)
    over = is_over or RunWatch(folder).is_over
    faults = PassingFaults()
    yield from follower.begin()
    while follow:
        # asked before the last look: nothing written before it is lost
        ending = faults.look(lambda: follower.look_around(over))
        if isinstance(ending, StoreError) and faults.is_first:
            on_problem(ending)
        is_last = ending is True
        yield from follower.read(thorough=is_last or follower.is_thorough)
        if is_last:
            break
        follower.rounds += 1
        time.sleep(POLL_S)
    yield from follower.finish()


@dataclass(slots=True)
class RunWatch:
    """Whether a run is over, asked often and answered cheaply."""

    folder: RunFolder
    monotonic: Callable[[], float] = SYSTEM_CLOCK.monotonic
    asked: float | None = None
    answer: bool = False

    def is_over(self) -> bool:
        """No replica reports, and no job lives, as of at most `ASK_SLURM_EVERY_S` ago."""
        now = SYSTEM_CLOCK.wall()
        reports = read_reports(self.folder)
        if any(report.is_fresh(now) for report in reports.values()):
            return False
        if self.asked is not None and self.monotonic() - self.asked < ASK_SLURM_EVERY_S:
            return self.answer
        self.answer = not self._lives(now, reports)
        self.asked = self.monotonic()
        return self.answer

    def _lives(self, now: float, reports: Mapping[str, ReplicaReport]) -> bool:
        replicas = [record for record in read_jobs(self.folder) if record.role == "replicas"]
        commands = SlurmCommands(read_environment())
        try:
            return bool(live_elements(replicas, commands, now=now, reports=reports))
        except ClusterError:
            return True  # not known: keep following


def find_logs(folder: RunFolder, wanted: Wanted) -> list[tuple[Path, str, str]]:
    """Logs that exist, as (path, attempt, source), in the order of replicas and attempts."""
    found = []
    for path in folder.stdout.parent.glob("*/attempt-*/*.log"):
        number = ATTEMPT.fullmatch(path.parent.name)
        kind = SOURCE.fullmatch(path.stem)
        if number is None or kind is None:
            continue
        attempt = attempt_id(path.parent.parent.name, int(number[1]))
        source = path.stem if kind[1] is None else f"server@{kind[1]}"
        if wanted.has_source(source) and wanted.has_attempt(attempt):
            found.append((path, attempt, source))
    return sorted(found, key=lambda log: (attempt_order(log[1]), attempt_order(log[2])))


def _split(attempt: str) -> tuple[str, int]:
    """Replica and number of an attempt's name."""
    replica, _, number = attempt.rpartition(".a")
    return replica, int(number)


def _check_replica(folder: RunFolder, replica: str | None) -> None:
    """Raise UsageError for a replica or attempt that the run does not have."""
    if replica is None:
        return
    planned = {name for record in read_jobs(folder) for name in record.replicas}
    logs = folder.stdout.parent
    logged = {path.name for path in logs.glob("*") if path.is_dir()}
    known = sorted(planned | logged, key=attempt_order)
    numbers = [
        (path.parent.name, ATTEMPT.fullmatch(path.name)) for path in logs.glob("*/attempt-*")
    ]
    attempts = sorted((attempt_id(r, int(n[1])) for r, n in numbers if n), key=attempt_order)
    if replica not in (*known, *attempts):
        of = replica.rpartition(".a")[0]
        own = [attempt for attempt in attempts if attempt.rpartition(".a")[0] == of]
        choice = (
            f"Attempts: {', '.join(own)}" if own else f"Replicas: {', '.join(known) or 'none yet'}"
        )
        what = "attempt" if own else "replica"
        raise UsageError(f"no {what} {replica!r} in this run", hint=f"{choice}.")
