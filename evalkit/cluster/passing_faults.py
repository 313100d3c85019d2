"""Storage faults that pass, for who looks at a run again and again.

A file server that restarts, a handle that has gone stale: one look in ten thousand fails, and the next
one does not. Whoever watches for days must not end for that. A fault that stays is raised after all:
a watch that shows nothing new for ever would look like a run that stands still.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from evalkit.clock import SYSTEM_CLOCK
from evalkit.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

PASSES_WITHIN_S = 120.0
"""An NFS server that fails over is back within its grace time, 90 s by default."""


@dataclass(slots=True)
class PassingFaults:
    """How long looks have failed."""

    monotonic: Callable[[], float] = SYSTEM_CLOCK.monotonic
    since: float | None = None
    """Monotonic time (s) of the first failure since the last good look."""

    is_first: bool = False
    """The last look failed, and the one before it did not."""

    def look(self, read: Callable[[], T]) -> T | StoreError:
        """What `read` returns, or its error. Raises the StoreError that did not pass."""
        try:
            found = read()
        except StoreError as error:
            return self._failed(error)
        except OSError as error:
            return self._failed(StoreError(f"cannot read the run: {error.strerror or error}"))
        self.since, self.is_first = None, False
        return found

    def _failed(self, error: StoreError) -> StoreError:
        now = self.monotonic()
        self.is_first = self.since is None
        self.since = now if self.since is None else self.since
        if now - self.since >= PASSES_WITHIN_S:
            raise error
        return error
