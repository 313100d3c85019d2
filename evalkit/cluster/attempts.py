"""Attempts: one execution of a replica each, numbered so that no two ever share a file.

The number is taken by creating the attempt's log folder, which is atomic on every file system: two
live executions of one replica (Slurm can produce them after a node failure) get different numbers,
so they write different journals.

Each attempt keeps a record of itself in that folder, which tells how long it held how many GPUs and
how it ended. A worker that is killed leaves a record without an end: readers take it for ended when
it was last heard. Of an attempt that could not even begin, its batch script may have left a line (see
`evalkit.cluster.deaths`): readers take it for a failed one. The records are for status and for the
decision to requeue; nothing that is done is concluded from them.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import TypeAdapter

from evalkit.cluster.deaths import Death, deaths_file, ended_without_a_word, read_deaths
from evalkit.cluster.failures import Failure, FailureKind
from evalkit.cluster.jobs import find_replica
from evalkit.errors import StoreError
from evalkit.store.layout import attempt_id
from evalkit.store.publish import publish
from evalkit.store.union import attempt_order

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from evalkit.store.layout import RunFolder

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
    cost: float = 0.0
    """Of its answered calls, by the recipe's prices; 0 without any."""
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
        return _in_order(self._folder, [record for _, record in found.values()])


def read_attempts(folder: RunFolder, replica: str | None = None) -> list[AttemptRecord]:
    """Records of all attempts (of one replica), in their order; unreadable ones are left out."""
    records = (read_attempt(path) for path in _paths(folder, replica or "*"))
    found = _in_order(folder, [record for record in records if record is not None])
    return [record for record in found if replica in (None, record.replica)]


def _paths(folder: RunFolder, replica: str) -> Iterable[Path]:
    name = folder.attempt_record("", 0).name
    return folder.stdout.parent.glob(f"{replica}/{ATTEMPT_FOLDER}*/{name}")


def _in_order(folder: RunFolder, records: list[AttemptRecord]) -> list[AttemptRecord]:
    every = [*records, *_without_record(folder, records)]
    return sorted(every, key=lambda record: attempt_order(record.id))


def _without_record(folder: RunFolder, records: Iterable[AttemptRecord]) -> list[AttemptRecord]:
    """The failed attempts of which batch scripts alone tell, numbered behind their replica's others."""
    if not (deaths := read_deaths(folder)):
        return []
    told = {(record.job_id, record.restart_count) for record in records}
    found: list[AttemptRecord] = []
    for death in deaths:
        replica = find_replica(folder, death.job_id)
        if replica is not None and (death.job_id, death.restart_count) not in told:
            earlier = sum(record.replica == replica for record in found)
            number = last_attempt(folder, replica) + 1 + earlier
            found.append(_record_of(death, replica, number, folder))
    return found


def _record_of(death: Death, replica: str, number: int, folder: RunFolder) -> AttemptRecord:
    output = str(folder.job_log(death.job_id).relative_to(folder.root))
    reason = f"{ended_without_a_word(death.code)}, and evalkit does not start on its node"
    return AttemptRecord(
        replica=replica,
        attempt=number,
        executor="slurm",
        job_id=death.job_id,
        restart_count=death.restart_count,
        host=death.node,
        nodes=(death.node,) if death.node else (),
        gpus=0,
        started=death.time,
        last=death.time,
        ended=death.time,
        end="failed",
        failure=Failure(FailureKind.UNKNOWN, reason, death.node or None, output),
    )


def settle_deaths(folder: RunFolder, replica: str, job_id: str) -> None:
    """Make records of what the job's batch script left, before its next attempt takes a number."""
    try:
        for record in read_attempts(folder, replica):
            if (
                record.job_id == job_id
                and not folder.attempt_record(replica, record.attempt).exists()
            ):
                number = begin_attempt(folder, replica).number
                write_attempt(folder, replace(record, attempt=number))
        deaths_file(folder, job_id).unlink(missing_ok=True)
    except (StoreError, OSError):
        return  # readers go on to read the lines


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
