"""The journal: one append-only file per (attempt, shard), one line per finished call.

Written: all lines of one turn of the event loop go to the kernel in one write at the end of that
turn, so a killed process loses at most what no caller has seen yet; `fsync` runs in a thread at most
every `SYNC_INTERVAL_S`, so a killed node loses at most that much. `evalkit.store.reading` reads it back.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from evalkit.errors import StoreError
from evalkit.store.codec import Record, encode, header, seal

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.plan.model import Plan, Shard

SYNC_INTERVAL_S = 0.5
"""Group commit. An fsync on a parallel file system takes 1 to 50 ms: far too slow per record, and
unnoticeable twice a second."""


class JournalSet:
    """The journals one attempt has open, with one group commit for all of them."""

    def __init__(self) -> None:
        self._dirty: list[JournalWriter] = []
        self._unsynced: set[JournalWriter] = set()
        self._open: set[JournalWriter] = set()
        self._failure: StoreError | None = None
        self._syncing = asyncio.Lock()

    @property
    def failure(self) -> StoreError | None:
        """The first error of a write or sync; nothing may go on after it."""
        return self._failure

    def open(self, path: Path, plan: Plan, shard: Shard, attempt: str) -> JournalWriter:
        """Journal of one shard for this attempt. Raises StoreError."""
        writer = JournalWriter(self, path)
        writer.append_payload(header(plan.fingerprint, shard.task, shard.index, attempt))
        self._open.add(writer)
        return writer

    def touched(self, writer: JournalWriter) -> None:
        """Note that `writer` has lines for the end of this turn of the loop."""
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._write_dirty)
        self._dirty.append(writer)

    def _write_dirty(self) -> None:
        dirty, self._dirty = self._dirty, []
        for writer in dirty:
            try:
                writer.write_pending()
            except StoreError as error:
                self._failure = self._failure or error
            self._unsynced.add(writer)

    async def sync(self) -> None:
        """Write and fsync everything appended so far. Raises StoreError.

        One at a time: who waits for a sync that is under way must not close a file under it.
        """
        async with self._syncing:
            self._write_dirty()
            writers, self._unsynced = self._unsynced, set()
            syncing = asyncio.ensure_future(
                asyncio.to_thread(self._sync_all, [w for w in writers if not w.closed])
            )
            try:
                await asyncio.shield(syncing)
            except asyncio.CancelledError:
                await asyncio.wait([syncing])  # the thread still uses the files
                raise
        if self._failure is not None:
            raise self._failure

    def _sync_all(self, writers: list[JournalWriter]) -> None:
        for writer in writers:
            try:
                writer.fsync()
            except StoreError as error:
                self._failure = self._failure or error

    async def sync_forever(self) -> None:
        """Group commit until cancelled. Raises StoreError."""
        while True:
            await asyncio.sleep(SYNC_INTERVAL_S)
            await self.sync()

    async def close(self) -> None:
        """Sync and close all journals."""
        try:
            await self.sync()
        finally:
            for writer in list(self._open):
                self.release(writer)

    def release(self, writer: JournalWriter) -> None:
        """Close one journal whose lines are written."""
        writer.close()
        self._open.discard(writer)


class JournalWriter:
    """Appends records to one file. The only writer of that file, ever."""

    def __init__(self, owner: JournalSet, path: Path) -> None:
        self.path = path
        self._owner = owner
        self._pending: list[bytes] = []
        self._broken = False
        self.closed = False
        self._fd = _create(path)

    def append(self, record: Record) -> None:
        """Take a record; it is in the file when this turn of the event loop ends."""
        self.append_payload(encode(record))

    def append_payload(self, payload: dict[str, Any]) -> None:
        """As `append`, for a payload that is already encoded. Raises StoreError when it is closed."""
        if self.closed:
            raise StoreError(f"{self.path} is closed: a call wrote after its unit had ended")
        if not self._pending:
            self._owner.touched(self)
        self._pending.append(seal(payload))

    def write_pending(self) -> None:
        """Hand all pending lines to the kernel. Raises StoreError; lines already written stay.

        After an error nothing more is written, so that a line that was cut off stays the last one.
        """
        data = b"".join(self._pending)
        self._pending.clear()
        if self._broken:
            return
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            self._broken = True
            raise StoreError(
                f"cannot write {self.path}: {error.strerror or error}",
                hint="Nothing already written is lost: free space or quota, then `evalkit resume`.",
            ) from error

    def fsync(self) -> None:
        """Force written lines to the disk. Raises StoreError."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise StoreError(f"cannot sync {self.path}: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the file; idempotent."""
        if not self.closed:
            self.closed = True
            os.close(self._fd)


def _create(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
    except OSError as error:
        if isinstance(error, FileExistsError) and path.exists():
            raise StoreError(
                f"{path} exists: two workers run as the same attempt",
                hint="Attempts are numbered by their log folders; do not copy or delete those.",
            ) from error
        raise StoreError(
            f"cannot create {path}: {error.strerror or error}",
            hint="The run folder must be writable where the replica runs.",
        ) from error
