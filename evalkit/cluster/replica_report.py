"""What replicas say of themselves: the status files that workers replace every few seconds.

Hints: a file may be old, of an attempt that died, half of another version, or absent. What cannot be
read is no report, and a report without a fresh heartbeat says nothing about the present.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.store.layout import RunFolder

STALE_AFTER_S = 60.0
"""Workers write every 2 s; shared file systems may hide a new file for a minute."""
ENDED = frozenset({"done", "failed", "interrupted"})


@dataclass(frozen=True, slots=True)
class TaskReport:
    """One task in one attempt."""

    done: int = 0
    rate_per_s: float = 0.0
    scored: int = 0
    score_sum: float = 0.0


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """One replica's last words."""

    replica: str
    attempt: int
    state: str
    """starting, loading, ready, running, draining, stopping, done, failed or interrupted."""
    host: str
    pid: int
    job_id: str | None
    heartbeat: float
    """Unix time (s)."""
    started: float
    server: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, TaskReport] = field(default_factory=dict)
    in_flight: int = 0
    tokens_per_s: float = 0.0
    error: str | None = None

    def is_fresh(self, now: float) -> bool:
        """Whether the attempt runs and said so lately."""
        return self.state not in ENDED and now - self.heartbeat < STALE_AFTER_S


def read_reports(folder: RunFolder) -> dict[str, ReplicaReport]:
    """All readable reports by replica."""
    try:
        paths = sorted(folder.replicas.glob("*.json"))
    except OSError:
        return {}
    reports = [read_report(path) for path in paths]
    return {report.replica: report for report in reports if report is not None}


def read_report(path: Path) -> ReplicaReport | None:
    """One report; None when it is not readable as one."""
    try:
        given: dict[str, Any] = orjson.loads(path.read_bytes())
        tasks = {
            name: TaskReport(
                int(task.get("done", 0)),
                float(task.get("rate_per_s") or 0.0),
                int(task.get("scored", 0)),
                float(task.get("score_sum", 0.0)),
            )
            for name, task in (given.get("tasks") or {}).items()
        }
        return ReplicaReport(
            replica=given["replica"],
            attempt=given["attempt"],
            state=given["state"],
            host=given["host"],
            pid=given["pid"],
            job_id=given.get("job_id"),
            heartbeat=float(given["heartbeat"]),
            started=float(given["started"]),
            server=given.get("server") or {},
            tasks=tasks,
            in_flight=given.get("in_flight") or 0,
            tokens_per_s=given.get("tokens_per_s") or 0.0,
            error=given.get("error"),
        )
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return None
