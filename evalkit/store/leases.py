"""Leases: hints about who works on which shard, so that two replicas rarely do the same work.

A lease is filelock's `SoftFileLease`: a marker file that its holder refreshes, that works on NFS and
Lustre, that is taken over at once when the holder's process is dead on this host, and after
`LEASE_S` without a refresh, measured by the taker's own monotonic clock, when it died elsewhere.
Nothing depends on it for correctness: two holders of one shard write two journals of the same units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from filelock import SoftFileLease, Timeout

from evalkit.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.plan.model import Shard
    from evalkit.store.layout import RunFolder

LEASE_S = 60.0
"""A lease not refreshed for so long is free. Longer than NFS attribute caches (3 to 60 s by default,
and a refresh every third of it): a shorter one would be taken from the living."""
REFRESH_S = 10.0


class Leases:
    """The leases of one worker. Call it from one thread at a time."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._locks: dict[Shard, SoftFileLease] = {}
        self._seen: dict[Shard, tuple[int, int]] = {}

    def take(self, shard: Shard) -> bool:
        """Lease a shard; False when somebody else holds it. Raises StoreError.

        Keep asking with the same object: how long a foreign lease went unrefreshed is counted from
        the first time it was seen.
        """
        lock = self._locks.get(shard)
        if lock is None:
            path = self._folder.lease(shard)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"cannot create {path.parent}: {error.strerror}") from error
            lock = SoftFileLease(
                path, lease_duration=LEASE_S, heartbeat_interval=REFRESH_S, thread_local=False
            )
            self._locks[shard] = lock
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        except OSError as error:
            raise StoreError(
                f"cannot lease {lock.lock_file}: {error.strerror or error}",
                hint="Nothing already written is lost: free space or quota, then `evalkit resume`.",
            ) from error
        return True

    def is_alive(self, shard: Shard) -> bool:
        """Whether a lease of somebody else was refreshed since it was first looked at."""
        try:
            stat = self._folder.lease(shard).stat()
        except FileNotFoundError:
            return False
        now = (stat.st_ino, stat.st_mtime_ns)
        return self._seen.setdefault(shard, now) != now

    def release(self, shard: Shard) -> None:
        """Give a shard back."""
        lock = self._locks.pop(shard, None)
        if lock is not None:
            lock.release()

    def release_all(self) -> None:
        """Give everything back."""
        for shard in list(self._locks):
            self.release(shard)


def holder(path: Path) -> str | None:
    """Who holds a lease, as `host pid`, for people; null when free or unreadable."""
    try:
        fields = dict(
            line.split("=", 1) for line in path.read_text("utf-8").splitlines() if "=" in line
        )
    except (OSError, UnicodeDecodeError):
        return None
    return f"{fields['host']} pid {fields['pid']}" if {"host", "pid"} <= fields.keys() else None
