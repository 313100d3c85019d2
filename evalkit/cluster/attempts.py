"""Attempts: one execution of a replica each, numbered so that no two ever share a file.

The number is taken by creating the attempt's log folder, which is atomic on every file system: two
live executions of one replica (Slurm can produce them after a node failure) get different numbers,
so they write different journals.

Each attempt keeps a record of itself in that folder, which tells how long it held how many GPUs and
how it ended. A worker that is killed leaves a record without an end: readers take it for ended when
it was last heard. The records are for status and for the decision to requeue; nothing that is done is
concluded from them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import TypeAdapter

from evalkit.cluster.failures import Failure  # noqa: TC001 - pydantic reads it
from evalkit.errors import StoreError
from evalkit.store.layout import attempt_id
from evalkit.store.publish import publish
from evalkit.store.union import attempt_order

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from evalkit.clock import Clock
    from evalkit.store.layout import RunFolder

RECORD_EVERY_S = 30.0
"""A killed attempt's time is known to within this."""
ATTEMPT_FOLDER = "attempt-"

Signature: TypeAlias = tuple[int, int, int]
End = Literal["done", "drained", "failed", "over_budget"]
Cause = Literal["preempted", "time_limit", "cancelled"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a replica."""

    folder: RunFolder
    replica: str
    number: int

    @property
    def id(self) -> str:
        """Name in journals and process markers."""
        return attempt_id(self.replica, self.number)


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """What an attempt says of itself. Times are Unix times (s)."""

    replica: str
    attempt: int
    executor: str
    """`slurm` or `local`."""
    job_id: str
    """`123_4`, `123`, or a process id."""
    restart_count: int
    """Requeues of the job before this attempt."""
    host: str
    nodes: tuple[str, ...]
    """All nodes of the replica."""
    gpus: int
    """GPUs it holds, over all nodes."""
    started: float
    last: float
    """When it was last heard."""
    ended: float | None = None
    """Null: not known to have ended."""
    end: End | None = None
    reason: str | None = None
    """What stopped it: SIGTERM, SIGUSR2, ..."""
    ends: float | None = None
    """When its job was to end at the latest; null where nobody said."""
    server_starts: int = 0
    deployments: int = 0
    """Deployments it started a server for."""
    startup_s: float = 0.0
    """Time before the first server of each deployment was ready."""
    restart_s: float = 0.0
    """Time of loading again after a server had been ready."""
    units: int = 0
    """Units it finished."""
    completion_tokens: int = 0
    """Tokens of its answers that were kept."""
    failure: Failure | None = None
    cause: Cause | None = None
    """Why the job was told to stop, as Slurm said when the attempt ended; null where it did not say."""

    @property
    def id(self) -> str:
        """Name in journals: `r0.a1`."""
        return attempt_id(self.replica, self.attempt)

    @property
    def node(self) -> str:
        """Its first node, as Slurm calls it, which is not always its host name."""
        return self.nodes[0] if self.nodes else self.host

    @property
    def wall_s(self) -> float:
        """How long it held its node, as far as is known (s)."""
        return max(0.0, (self.last if self.ended is None else self.ended) - self.started)

    @property
    def restarts(self) -> int:
        """Servers that were started in place of another."""
        return max(0, self.server_starts - self.deployments)

    @property
    def has_kept(self) -> bool:
        """Whether anything it did is worth something to the run."""
        return self.units > 0 or self.completion_tokens > 0

    def render(self) -> bytes:
        """The record file's content."""
        return _ADAPTER.dump_json(self, indent=1)

    @classmethod
    def parse(cls, content: bytes) -> AttemptRecord:
        """A record file's record. Raises ValueError for what is none."""
        return _ADAPTER.validate_json(content)


_ADAPTER = TypeAdapter(AttemptRecord)


class Recorder:
    """Keeps one attempt's record on disk: now, every `RECORD_EVERY_S`, and at the end."""

    def __init__(self, path: Path, record: AttemptRecord, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._written = clock.monotonic()
        self._writing = threading.Lock()
        self.record = record

    def update(
        self,
        *,
        units: int,
        completion_tokens: int,
        startup_s: float,
        restart_s: float,
    ) -> None:
        """Take in what was counted so far; nothing is written."""
        self.record = replace(
            self.record,
            last=self._clock.wall(),
            units=units,
            completion_tokens=completion_tokens,
            startup_s=round(startup_s, 1),
            restart_s=round(restart_s, 1),
        )

    def server_starts(self, servers: int, deployments: int) -> None:
        """Take in that another server starts: how many that makes, and for how many deployments."""
        self.record = replace(self.record, server_starts=servers, deployments=deployments)

    @property
    def is_due(self) -> bool:
        """Whether it is time to write."""
        return self._clock.monotonic() - self._written >= RECORD_EVERY_S

    def write(self) -> None:
        """Replace the file; any thread may. Raises StoreError."""
        with self._writing:
            self._written = self._clock.monotonic()
            publish(self._path, self.record.render())

    def stopping(self, reason: str) -> None:
        """Take in what stops the attempt; to be written at once, for it may be killed before its end."""
        self.record = replace(self.record, last=self._clock.wall(), reason=reason)

    def end(self, end: End, *, reason: str | None = None, failure: Failure | None = None) -> None:
        """The last words. Raises StoreError."""
        now = self._clock.wall()
        self.record = replace(
            self.record, last=now, ended=now, end=end, reason=reason, failure=failure
        )
        self.write()


class AttemptReader:
    """Reads all records again and again; files that have not changed are not opened again."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._known: dict[Path, tuple[Signature, AttemptRecord]] = {}

    def read(self) -> list[AttemptRecord]:
        """As `read_attempts`."""
        found: dict[Path, tuple[Signature, AttemptRecord]] = {}
        for path in _paths(self._folder, "*"):
            try:
                about = path.stat()
            except OSError:
                continue
            signature = (about.st_ino, about.st_mtime_ns, about.st_size)
            known = self._known.get(path)
            if known is not None and known[0] == signature:
                found[path] = known
            elif (record := read_attempt(path)) is not None:
                found[path] = (signature, record)
        self._known = found
        return _in_order(record for _, record in found.values())


def read_attempts(folder: RunFolder, replica: str | None = None) -> list[AttemptRecord]:
    """Records of all attempts (of one replica), in their order; unreadable ones are left out."""
    records = (read_attempt(path) for path in _paths(folder, replica or "*"))
    return _in_order(record for record in records if record is not None)


def _paths(folder: RunFolder, replica: str) -> Iterable[Path]:
    name = folder.attempt_record("", 0).name
    return folder.stdout.parent.glob(f"{replica}/{ATTEMPT_FOLDER}*/{name}")


def _in_order(records: Iterable[AttemptRecord]) -> list[AttemptRecord]:
    return sorted(records, key=lambda record: attempt_order(record.id))


def read_attempt(path: Path) -> AttemptRecord | None:
    """One record; None when it is not readable as one."""
    try:
        return AttemptRecord.parse(path.read_bytes())
    except (OSError, ValueError):
        return None


def write_attempt(folder: RunFolder, record: AttemptRecord) -> None:
    """Replace a record, to say what its worker could not know yet. Raises StoreError."""
    publish(folder.attempt_record(record.replica, record.attempt), record.render())


def begin_attempt(folder: RunFolder, replica: str) -> Attempt:
    """The replica's next attempt; `latest` points at its logs. Raises StoreError."""
    logs = folder.replica_logs(replica)
    try:
        logs.mkdir(parents=True, exist_ok=True)
        number = last_attempt(folder, replica) + 1
        while True:
            with contextlib.suppress(FileExistsError):
                folder.attempt_logs(replica, number).mkdir()
                break
            number += 1
        _point_latest(folder, replica, number)
    except OSError as error:
        raise StoreError(
            f"cannot create logs in {logs}: {error.strerror or error}",
            hint="The output folder must be writable where the replica runs.",
        ) from error
    return Attempt(folder, replica, number)


def last_attempt(folder: RunFolder, replica: str) -> int:
    """Number of the replica's latest attempt; 0 when there was none."""
    logs = folder.replica_logs(replica)
    numbers = [path.name.removeprefix(ATTEMPT_FOLDER) for path in logs.glob(f"{ATTEMPT_FOLDER}*")]
    return max((int(n) for n in numbers if n.isdigit()), default=0)


def _point_latest(folder: RunFolder, replica: str, number: int) -> None:
    target = folder.attempt_logs(replica, number)
    link = target.parent / f".latest.{os.getpid()}.{number}"
    link.symlink_to(target.name)
    link.replace(target.parent / "latest")
