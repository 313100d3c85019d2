"""Follow the logs of all replicas and attempts of a run as one stream of prefixed lines.

Plain files are polled: they grow on other nodes, where no notification reaches us, and new ones appear
with every attempt. A file that shrinks or is replaced is read again from its start. Log text decides
nothing anywhere in evalkit; it is for people.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.env import read_environment
from evalkit.cluster.jobs import read_jobs
from evalkit.cluster.live import live_elements
from evalkit.cluster.replica_report import read_reports
from evalkit.cluster.slurm import SlurmCommands
from evalkit.errors import ClusterError, UsageError
from evalkit.store.layout import attempt_id
from evalkit.store.union import attempt_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from evalkit.cluster.replica_report import ReplicaReport
    from evalkit.store.layout import RunFolder

POLL_S = 0.25
ASK_SLURM_EVERY_S = 30.0
"""Slurm is asked whether a job lives only when no replica says so."""
TAIL_BLOCK = 64 * 1024
MAX_READ = 4 * 1024 * 1024
"""Bytes of one file between two looks at the others."""
ATTEMPT = re.compile(r"attempt-(\d+)")


class LogLine(NamedTuple):
    """One line of one log."""

    attempt: str
    """`r0.a1`."""
    source: str
    """`worker` or `server`."""
    text: str
    """Without its line break."""

    def __str__(self) -> str:
        return f"{self.attempt} {self.source}| {self.text}"


@dataclass(slots=True)
class Tail:
    """One file as far as it was read."""

    path: Path
    attempt: str
    source: str
    offset: int = 0
    inode: int | None = None
    rest: bytes = b""

    def skip_to_last(self, lines: int) -> None:
        """Start before the last `lines` lines of what is there now."""
        try:
            with self.path.open("rb") as file:
                self.offset = tail_offset(file.read, file.seek, self.path.stat().st_size, lines)
        except OSError:
            return  # not there yet: it is read from its start

    def read(self) -> list[LogLine]:
        """Lines that were completed since the last call."""
        try:
            with self.path.open("rb") as file:
                about = self.path.stat()
                is_other = self.inode is not None and about.st_ino != self.inode
                if is_other or about.st_size < self.offset:
                    self.offset, self.rest = 0, b""
                self.inode = about.st_ino
                file.seek(self.offset)
                block = file.read(MAX_READ)
        except OSError:
            return []  # vanished, or not visible on this node yet: looked at again
        self.offset += len(block)
        *whole, self.rest = (self.rest + block).split(b"\n")
        return [self._line(line) for line in whole]

    def finish(self) -> list[LogLine]:
        """The last line, when the file does not end in a line break."""
        rest, self.rest = self.rest, b""
        return [self._line(rest)] if rest else []

    def _line(self, line: bytes) -> LogLine:
        text = line.decode("utf-8", errors="replace").rstrip("\r")
        return LogLine(self.attempt, self.source, text)


@dataclass(slots=True)
class Follower:
    """All logs of a run that were asked for."""

    folder: RunFolder
    replica: str | None
    sources: tuple[str, ...]
    tails: dict[Path, Tail] = field(default_factory=dict)

    def discover(self, lines: int | None) -> None:
        """Take in files that are new; only their last `lines` lines, None for all."""
        for path, attempt, source in find_logs(self.folder, self.replica, self.sources):
            if path not in self.tails:
                self.tails[path] = Tail(path, attempt, source)
                if lines is not None:
                    self.tails[path].skip_to_last(lines)

    def read(self) -> Iterator[LogLine]:
        """All new lines, file by file."""
        for tail in list(self.tails.values()):
            while found := tail.read():
                yield from found

    def finish(self) -> Iterator[LogLine]:
        """What is left without a line break."""
        for tail in self.tails.values():
            yield from tail.finish()


def follow(
    folder: RunFolder,
    *,
    follow: bool,
    replica: str | None = None,
    server: bool = False,
    lines: int = 20,
    is_over: Callable[[], bool] | None = None,
) -> Iterator[LogLine]:
    """The last `lines` lines of each log, then, with `follow`, what comes until the run is over.

    `replica` names one of them, `server` adds the servers' logs. `is_over` tells when nothing of the
    run lives any more; by default the replicas' reports and Slurm do. Raises UsageError.
    """
    _check_replica(folder, replica)
    follower = Follower(folder, replica, ("worker", "server") if server else ("worker",))
    over = is_over or RunWatch(folder).is_over
    follower.discover(lines)
    yield from follower.read()
    while follow:
        ending = over()  # asked before the last look: nothing written before it is lost
        follower.discover(None)
        yield from follower.read()
        if ending:
            break
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
        self.asked = self.monotonic()
        self.answer = not self._lives(now, reports)
        return self.answer

    def _lives(self, now: float, reports: Mapping[str, ReplicaReport]) -> bool:
        replicas = [record for record in read_jobs(self.folder) if record.role == "replicas"]
        commands = SlurmCommands(read_environment())
        try:
            return bool(live_elements(replicas, commands, now=now, reports=reports))
        except ClusterError:
            return True  # not known: keep following


def find_logs(
    folder: RunFolder, replica: str | None, sources: tuple[str, ...]
) -> list[tuple[Path, str, str]]:
    """Logs that exist, as (path, attempt, source), in the order of replicas and attempts."""
    logs = folder.stdout.parent
    found = []
    for path in logs.glob("*/attempt-*/*.log"):
        number = ATTEMPT.fullmatch(path.parent.name)
        owner = path.parent.parent.name
        if number and path.stem in sources and replica in (None, owner):
            found.append((path, attempt_id(owner, int(number[1])), path.stem))
    return sorted(found, key=lambda log: (attempt_order(log[1]), log[2]))


def tail_offset(
    read: Callable[[int], bytes], seek: Callable[[int], int], size: int, lines: int
) -> int:
    """Where the last `lines` lines of a file of `size` bytes start; an unfinished line counts."""
    if lines <= 0:
        return size
    position, wanted = size, lines
    while position > 0:
        start = max(0, position - TAIL_BLOCK)
        seek(start)
        block = read(position - start)
        if position == size and block.endswith(b"\n"):
            wanted += 1  # the last line break ends a line, it does not start one
        breaks = [index for index, byte in enumerate(block) if byte == 0x0A]
        if len(breaks) >= wanted:
            return start + breaks[-wanted] + 1
        wanted -= len(breaks)
        position = start
    return 0


def _check_replica(folder: RunFolder, replica: str | None) -> None:
    if replica is None:
        return
    planned = {name for record in read_jobs(folder) for name in record.replicas}
    logged = {p.name for p in folder.stdout.parent.glob("*") if p.is_dir()}
    known = sorted(planned | logged, key=attempt_order)
    if replica not in known:
        raise UsageError(
            f"no replica {replica!r} in this run",
            hint=f"Replicas: {', '.join(known) or 'none yet'}.",
        )
