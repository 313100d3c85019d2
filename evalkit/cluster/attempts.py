"""Attempts: one execution of a replica each, numbered so that no two ever share a file.

The number is taken by creating the attempt's log folder, which is atomic on every file system: two
live executions of one replica (Slurm can produce them after a node failure) get different numbers,
so they write different journals.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit.errors import StoreError
from evalkit.store.layout import attempt_id

if TYPE_CHECKING:
    from evalkit.store.layout import RunFolder


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
    numbers = [path.name.removeprefix("attempt-") for path in logs.glob("attempt-*")]
    return max((int(n) for n in numbers if n.isdigit()), default=0)


def _point_latest(folder: RunFolder, replica: str, number: int) -> None:
    target = folder.attempt_logs(replica, number)
    link = target.parent / f".latest.{os.getpid()}.{number}"
    link.symlink_to(target.name)
    link.replace(target.parent / "latest")
