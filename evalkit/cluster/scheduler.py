"""Slurm asked seldom, by somebody who looks at one run again and again.

The controller is shared by everybody, so two queries are some time apart, and longer when nothing
changes; what is new on disk brings the next one forward. Between them the last answer stands.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from evalkit.cluster.accounting import History
from evalkit.cluster.live import Answer, Question, ask, job_ids
from evalkit.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from evalkit.cluster.jobs import JobRecord
    from evalkit.cluster.replica_report import ReplicaReport
    from evalkit.cluster.slurm import SlurmCommands

ASK_EVERY_S = 30.0
ASK_AT_MOST_EVERY_S = 180.0
"""Queries are at least 30 s apart, and up to three minutes while the answers stay the same."""
ASK_SOON_S = 5.0
"""After something has changed on disk (a replica ended or fell silent, a new submit) Slurm may know more."""


@dataclass(slots=True)
class Scheduler:
    """Slurm for somebody who looks at one run again and again: asked seldom, remembered between."""

    commands: SlurmCommands
    answer: Answer = field(default_factory=lambda: Answer({}, History({})))
    asked: float | None = None
    """Monotonic time (s) of the last query."""
    wait_s: float = ASK_EVERY_S
    seen: Hashable = None
    """What was on disk at the last query."""
    known: History = field(default_factory=lambda: History({}))

    def look(
        self,
        records: Sequence[JobRecord],
        unexplained: Sequence[JobRecord],
        *,
        now: float,
        monotonic: float,
        reports: Mapping[str, ReplicaReport],
    ) -> Answer:
        """The last answer, or a new one when it is time. Never raises: see `Answer.error`."""
        if not Question(records, unexplained).on_slurm or not self.commands.has(
            "squeue"
        ):  # nobody to spare
            return ask(records, (), self.commands, now=now, reports=reports)
        seen = _on_disk(records, unexplained, reports, now)
        if self._is_due(seen, monotonic):
            before = self.answer
            self.answer = self._ask(records, unexplained, now, reports)
            is_new = self.asked is None or self.seen != seen or before.rows != self.answer.rows
            self.wait_s = ASK_EVERY_S if is_new else min(2 * self.wait_s, ASK_AT_MOST_EVERY_S)
            self.asked, self.seen = monotonic, seen
        return self.answer

    def _is_due(self, seen: Hashable, monotonic: float) -> bool:
        if self.asked is None:
            return True
        passed = monotonic - self.asked
        return passed >= (ASK_SOON_S if seen != self.seen else self.wait_s)

    def _ask(
        self,
        records: Sequence[JobRecord],
        unexplained: Sequence[JobRecord],
        now: float,
        reports: Mapping[str, ReplicaReport],
    ) -> Answer:
        try:
            found = ask(records, unexplained, self.commands, now=now, reports=reports)
        except ClusterError as error:  # the last rows are old by now: better none than those
            return Answer({}, self.known, error.message)
        executions = {**self.known.executions, **found.history.executions}
        self.known = History(executions, found.history.error)
        return found._replace(history=self.known)


def _on_disk(
    records: Sequence[JobRecord],
    unexplained: Sequence[JobRecord],
    reports: Mapping[str, ReplicaReport],
    now: float,
) -> Hashable:
    """What tells that Slurm may have news: jobs, and attempts that speak, end or fall silent."""
    said = [(r.replica, r.attempt, r.state, r.is_fresh(now)) for r in reports.values()]
    return (tuple(job_ids(records)), tuple(job_ids(unexplained)), tuple(sorted(said)))
