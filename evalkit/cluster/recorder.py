"""Keeps the record of an attempt on disk while it runs, so that a killed one leaves most of the truth.

The record says what the attempt did so far; nothing that is done is concluded from it.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from evalkit.store.publish import publish

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.clock import Clock
    from evalkit.cluster.attempts import AttemptRecord, End
    from evalkit.cluster.failures import Failure

RECORD_EVERY_S = 30.0
"""A killed attempt's time is known to within this."""


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
        cost: float = 0.0,
        startup_s: float,
        restart_s: float,
    ) -> None:
        """Take in what was counted so far; nothing is written."""
        self.record = replace(
            self.record,
            last=self._clock.wall(),
            units=units,
            completion_tokens=completion_tokens,
            cost=round(cost, 6),
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
