"""What replicas say of themselves: the status files that workers replace every few seconds.

Hints: a file may be old, of an attempt that died, half of another version, or absent. What cannot be
read is no report, and a report without a fresh heartbeat says nothing about the present.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.store.layout import RunFolder
    from evalkit.store.records import Outcome

STALE_AFTER_S = 60.0
"""Workers write every 2 s; shared file systems may hide a new file for a minute."""
ENDED = frozenset({"done", "failed", "interrupted"})


@dataclass(slots=True)
class TaskTally:
    """Units of one task that this attempt finished."""

    done: int = 0
    scored: int = 0
    score_sum: float = 0.0
    score_weight: float = 0.0
    """What `score_sum` is a share of: `scored`, or the parts that the scores count."""
    outcomes: dict[str, int] = field(default_factory=dict)
    rate_per_s: float = 0.0
    """Units per second since the attempt's first unit of the task, as of the last heartbeat."""

    def add(self, outcome: Outcome) -> None:
        """Count one unit."""
        self.outcomes[outcome.value] = self.outcomes.get(outcome.value, 0) + 1
        self.done += outcome.is_models_own

    def add_score(self, value: float, weight: float) -> None:
        """Count the score of one unit."""
        self.scored += 1
        self.score_sum += value
        self.score_weight += weight


@dataclass(slots=True)
class ReplicaReport:
    """The state of one attempt of one replica."""

    replica: str
    attempt: int
    host: str
    pid: int
    job_id: str | None
    started: float
    """Unix time (s)."""
    state: str = "starting"
    """starting, loading (the model), ready (and working), draining, stopping, done, failed or
    interrupted."""
    phase: int = 0
    """Index of the deployment that is served."""
    server: dict[str, Any] = field(default_factory=dict)
    """`state` (loading or ready), `log` (path), `restarts`; empty before the first server."""
    tasks: dict[str, TaskTally] = field(default_factory=dict)
    in_flight: int = 0
    programs: int = 0
    """Units of driven tasks that are worked on."""
    tokens_per_s: float = 0.0
    error: str | None = None
    detail: str | None = None
    """What it is doing, in words."""
    warnings: list[str] = field(default_factory=list)
    """What a person should know about this attempt, and stops nothing."""
    heartbeat: float = 0.0
    """Unix time (s) of the last one; 0 before the first."""

    def tally(self, task: str) -> TaskTally:
        """Counters of a task."""
        return self.tasks.setdefault(task, TaskTally())

    def is_fresh(self, now: float) -> bool:
        """Whether the attempt runs and said so lately."""
        return self.state not in ENDED and now - self.heartbeat < STALE_AFTER_S

    def render(self) -> bytes:
        """The status file's content."""
        return _ADAPTER.dump_json(self)

    @classmethod
    def parse(cls, content: bytes) -> ReplicaReport:
        """A status file's report. Raises ValueError for what is none."""
        return _ADAPTER.validate_json(content)


_ADAPTER = TypeAdapter(ReplicaReport)


def read_reports(folder: RunFolder) -> dict[str, ReplicaReport]:
    """All readable reports by replica."""
    try:
        paths = sorted(folder.replicas.glob("*.json"))
    except OSError:
        return {}
    reports = [read_report(path) for path in paths]
    return {report.replica: report for report in reports if report is not None}


def read_reports_by_file(folder: RunFolder) -> list[ReplicaReport]:
    """All readable reports where each execution has a file of its own (graders), the latest first."""
    try:
        found = [read_report(path) for path in folder.replicas.glob("*.json")]
    except OSError:
        return []
    reports = [report for report in found if report is not None]
    return sorted(reports, key=lambda report: (report.started, report.attempt), reverse=True)


def read_report(path: Path) -> ReplicaReport | None:
    """One report; None when it is not readable as one."""
    try:
        return ReplicaReport.parse(path.read_bytes())
    except (OSError, ValueError):
        return None
