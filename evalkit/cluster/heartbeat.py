"""What a replica says of itself while it runs: one small JSON file, replaced every two seconds.

A hint for `evalkit status`: a heartbeat that stands still means a dead or stalled worker. Nothing is
computed from it that the journals do not prove.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from evalkit.errors import StoreError
from evalkit.store.publish import publish

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.clock import Clock
    from evalkit.store.records import Outcome

HEARTBEAT_S = 2.0


@dataclass(slots=True)
class TaskTally:
    """Units of one task that this attempt finished."""

    done: int = 0
    scored: int = 0
    score_sum: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)

    def add(self, outcome: Outcome, score: float | None) -> None:
        """Count one unit."""
        self.outcomes[outcome.value] = self.outcomes.get(outcome.value, 0) + 1
        self.done += outcome.is_models_own
        if score is not None:
            self.scored += 1
            self.score_sum += score


@dataclass(slots=True)
class ReplicaReport:
    """The state of one attempt; `Heartbeat` writes it."""

    replica: str
    attempt: int
    host: str
    pid: int
    job_id: str | None
    started: float
    state: str = "starting"
    """starting, loading, ready, running, draining, stopping, done, failed or interrupted."""
    phase: int = 0
    """Index of the deployment that is served."""
    server: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, TaskTally] = field(default_factory=dict)
    in_flight: int = 0
    tokens_per_s: float = 0.0
    error: str | None = None
    detail: str | None = None
    """What it is doing, in words."""
    heartbeat: float = 0.0
    sequence: int = 0

    def tally(self, task: str) -> TaskTally:
        """Counters of a task."""
        return self.tasks.setdefault(task, TaskTally())


class Heartbeat:
    """Writes a report now and every `HEARTBEAT_S`, with rates computed from its counters."""

    def __init__(self, path: Path, report: ReplicaReport, clock: Clock) -> None:
        self._path = path
        self._report = report
        self._clock = clock
        self._began: dict[str, float] = {}
        self._previous = clock.monotonic()
        self._tokens = (self._previous, 0)
        self.completion_tokens = 0

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
        report.heartbeat = self._clock.wall()
        report.sequence += 1
        payload = asdict(report)
        for name, tally in report.tasks.items():
            payload["tasks"][name]["rate_per_s"] = self._rate(name, now, tally.done)
        self._previous = now
        return orjson.dumps(payload)

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
            except StoreError as error:
                self._report.detail = f"heartbeat not written: {error.message}"
            await asyncio.sleep(HEARTBEAT_S)
