"""What a replica says of itself while it runs: one small JSON file, replaced every two seconds.

A hint for `evalkit status`: a heartbeat that stands still means a dead or stalled worker. Nothing is
computed from it that the journals do not prove. The attempt's record is kept on the same beat.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from evalkit.errors import StoreError
from evalkit.store.publish import publish

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from evalkit.clock import Clock
    from evalkit.cluster.recorder import Recorder
    from evalkit.cluster.replica_report import ReplicaReport

HEARTBEAT_S = 2.0
SERVED = frozenset({"ready", "draining"})
LOADING = frozenset({"starting", "loading"})


class Heartbeat:
    """Writes a report now and every `HEARTBEAT_S`, with rates computed from its counters."""

    def __init__(
        self,
        path: Path,
        report: ReplicaReport,
        clock: Clock,
        recorder: Recorder | None = None,
        engine_rate: Callable[[], float | None] = lambda: None,
    ) -> None:
        """`engine_rate` says how many tokens a second the engine generates, where it counts them: calls
        that are not streamed count for nothing here until they end."""
        self._path = path
        self._report = report
        self._clock = clock
        self._began: dict[str, float] = {}
        self._previous = clock.monotonic()
        self._tokens = (self._previous, 0)
        self.completion_tokens = 0
        self.cost = 0.0
        self._recorder = recorder
        self._engine_rate = engine_rate
        self._served: set[int] = set()
        self._startup_s = 0.0
        self._restart_s = 0.0

    def write(self) -> None:
        """Replace the file. Raises StoreError."""
        publish(self._path, self._render())

    def _render(self) -> bytes:
        report = self._report
        now = self._clock.monotonic()
        then, tokens = self._tokens
        if now - then >= HEARTBEAT_S:
            report.tokens_per_s = round((self.completion_tokens - tokens) / (now - then), 2)
            self._tokens = (now, self.completion_tokens)
        if (rate := self._engine_rate()) is not None:
            report.tokens_per_s = round(rate, 2)
        report.heartbeat = self._clock.wall()
        for name, tally in report.tasks.items():
            tally.rate_per_s = self._rate(name, now, tally.done)
        self._account(now - self._previous)
        self._previous = now
        return report.render()

    def _account(self, elapsed_s: float) -> None:
        """Put the time since the last beat down as what it was spent on."""
        report = self._report
        if report.state in SERVED:
            self._served.add(report.phase)
        elif report.state in LOADING and report.phase in self._served:
            self._restart_s += elapsed_s
        elif report.state in LOADING:
            self._startup_s += elapsed_s
        if self._recorder is not None:
            self._recorder.update(
                units=sum(tally.done for tally in report.tasks.values()),
                completion_tokens=self.completion_tokens,
                cost=self.cost,
                startup_s=self._startup_s,
                restart_s=self._restart_s,
            )

    def _rate(self, task: str, now: float, done: int) -> float:
        """Units per second since the heartbeat before the task's first unit."""
        elapsed = now - self._began.setdefault(task, self._previous)
        return round(done / elapsed, 4) if elapsed > 0 else 0.0

    async def beat(self) -> None:
        """Write until cancelled. A heartbeat that cannot be written stops nothing: it is a hint."""
        while True:
            try:
                # The report changes in this thread only, so it is read here too.
                await asyncio.to_thread(publish, self._path, self._render())
                if self._recorder is not None and self._recorder.is_due:
                    await asyncio.to_thread(self._recorder.write)
            except StoreError as error:
                self._report.detail = f"heartbeat not written: {error.message}"
            await asyncio.sleep(HEARTBEAT_S)
