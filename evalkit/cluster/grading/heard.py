"""What a grader says of itself while it grades, for `evalkit status`: the report that a replica writes, too.

Each execution has a file of its own, for several may share a task. It is a hint: nothing is concluded
from it that the journals do not prove.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from evalkit.cluster.drain import DrainedError
from evalkit.cluster.heartbeat import Heartbeat
from evalkit.cluster.replica_report import ENDED, ReplicaReport
from evalkit.errors import EvalkitError, StoreError
from evalkit.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from evalkit.clock import Clock
    from evalkit.cluster.attempts import Attempt
    from evalkit.cluster.job import JobInfo


@dataclass(slots=True)
class Heard:
    """One grader's report, kept on disk for the time of a block, with its end."""

    job: JobInfo
    report: ReplicaReport
    _heartbeat: Heartbeat
    _hidden: Sequence[str]
    """Secrets."""

    @classmethod
    def of(cls, attempt: Attempt, job: JobInfo, clock: Clock, hidden: Sequence[str]) -> Heard:
        """Of an execution that begins now; nothing is written before its block."""
        report = ReplicaReport(
            replica=attempt.replica,
            attempt=attempt.number,
            host=job.host,
            pid=os.getpid(),
            job_id=job.job_id,
            started=clock.wall(),
        )
        path = attempt.folder.replica(attempt.id)
        return cls(job, report, Heartbeat(path, report, clock), hidden)

    async def beat(self) -> None:
        """Keep the file fresh until cancelled."""
        await self._heartbeat.beat()

    def fails(self, error: EvalkitError) -> None:
        """Take in why the task, or some of its answers, could not be graded."""
        self.report.state = "failed"
        self.report.error = redact(error.message, self._hidden)

    def __enter__(self) -> Self:
        self._write()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, EvalkitError) and not isinstance(error, DrainedError):
            self.fails(error)
        elif self.report.state not in ENDED:
            self.report.state = "done" if error is None else "interrupted"
        self._write()

    def _write(self) -> None:
        with contextlib.suppress(
            StoreError
        ):  # a hint; the journals say what is wrong with the disk
            self._heartbeat.write()
