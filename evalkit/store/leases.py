"""Leases: hints about who works on which shard, so that two replicas rarely do the same work.

A lease is filelock's `SoftFileLease`: a marker file that its holder refreshes, that works on NFS and
Lustre, that is taken over at once when the holder's process is dead on this host, and after
`LEASE_S` without a refresh, measured by the taker's own monotonic clock, when it died elsewhere.
Nothing depends on it for correctness: two holders of one shard write two journals of the same units.

The danger: a worker that is killed between creating that file and writing its name into it leaves an
empty one, which filelock takes for held for ever. A file that stays the same for longer than any
living holder leaves it is therefore removed here, whatever is in it.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from evalkit.clock import SYSTEM_CLOCK
from evalkit.errors import StoreError
from evalkit.store.layout import LEASE_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalkit.plan.model import Shard
    from evalkit.store.layout import RunFolder

LEASE_S = 60.0
"""A lease not refreshed for so long is free. Longer than NFS attribute caches (3 to 60 s by default,
and a refresh every third of it): a shorter one would be taken from the living."""
REFRESH_S = 10.0
GO_ON = "Nothing already written is lost: free space or quota, then `evalkit resume`."


class Leases:
    """The leases of one worker. Any thread may call it; calls wait for each other."""

    def __init__(
        self, folder: RunFolder, monotonic: Callable[[], float] = SYSTEM_CLOCK.monotonic
    ) -> None:
        self._folder = folder
        self._monotonic = monotonic
        self._watched: dict[Shard, tuple[tuple[int, int], float]] = {}
        self._one_at_a_time = threading.RLock()
        self._locks: dict[Shard, SoftFileLease] = {}
        self._seen: dict[Shard, tuple[int, int]] = {}

    def take(self, shard: Shard) -> bool:
        """Lease a shard; False when somebody else holds it. Raises StoreError.

        Keep asking with the same object: how long a foreign lease went unrefreshed is counted from
        the first time it was seen.
        """
        with self._one_at_a_time:
            return self._take(shard)

    def _take(self, shard: Shard) -> bool:
        lock = self._locks.get(shard)
        if lock is None:
            path = self._folder.lease(shard)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(
                    f"cannot create {path.parent}: {error.strerror}", hint=GO_ON
                ) from error
            lock = SoftFileLease(
                path, lease_duration=LEASE_S, heartbeat_interval=REFRESH_S, thread_local=False
            )
            self._locks[shard] = lock
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return self._remove_abandoned(shard) and self._take(shard)
        except (OSError, LeaseSettingsMismatch) as error:
            text = getattr(error, "strerror", None) or error
            raise StoreError(
                f"cannot lease {lock.lock_file}: {text}",
                hint=GO_ON,
            ) from error
        return True

    def is_alive(self, shard: Shard) -> bool:
        """Whether a lease of somebody else was refreshed since it was first looked at."""
        mark = self._mark(shard)
        with self._one_at_a_time:
            return mark is not None and self._seen.setdefault(shard, mark) != mark

    def _remove_abandoned(self, shard: Shard) -> bool:
        """Remove a lease that nobody refreshed and filelock does not break; False if it may be held."""
        mark, now = self._mark(shard), self._monotonic()
        if mark is None:
            return False
        watched, since = self._watched.setdefault(shard, (mark, now))
        if watched != mark:
            self._watched[shard] = (mark, now)
        elif now - since > LEASE_S + REFRESH_S:  # filelock's own expiry goes first
            del self._watched[shard]
            try:
                self._folder.lease(shard).unlink(missing_ok=True)
            except OSError:
                return False  # it stays a hint that somebody is there
            return True
        return False

    def _mark(self, shard: Shard) -> tuple[int, int] | None:
        """What a refresh changes; null when there is no lease."""
        try:
            stat = self._folder.lease(shard).stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns

    def release(self, shard: Shard) -> None:
        """Give a shard back."""
        with self._one_at_a_time:
            lock = self._locks.pop(shard, None)
            if lock is not None:
                with contextlib.suppress(OSError):  # a hint that stays costs others a minute
                    lock.release()

    def release_all(self) -> None:
        """Give everything back."""
        with self._one_at_a_time:
            for shard in list(self._locks):
                self.release(shard)


def forget_leases(folder: RunFolder) -> None:
    """Remove all leases of a run that nobody works on, so that those who come need not wait for the dead.

    A lease that cannot be removed only costs that wait.
    """
    for path in folder.leases.glob(f"*/*{LEASE_SUFFIX}"):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def remove_lease(folder: RunFolder, shard: Shard) -> None:
    """Remove the lease of a complete shard, whoever left it: nobody asks for it any more."""
    with contextlib.suppress(OSError):  # a hint
        folder.lease(shard).unlink(missing_ok=True)
