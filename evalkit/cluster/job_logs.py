"""What jobs themselves wrote, where no worker's log tells of it: for `evalkit logs`.

A worker that never started has no log of its own: why is in the output of its job, with what Slurm and
the shell said. A gather has nothing but its job's output. Where an attempt tells of a job, its worker's
log says all that matters, and the output stays closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from evalkit.cluster.attempts import AttemptReader
from evalkit.cluster.jobs import read_jobs
from evalkit.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.store.layout import RunFolder

GATHER = "gather"


class JobLog(NamedTuple):
    """The output of one job or array element."""

    path: Path
    origin: str
    """The replica it was to run, or `gather`."""
    element: str
    submitted: float
    """Unix time (s)."""

    @property
    def source(self) -> str:
        """As lines have it before them."""
        return f"job {self.element}"


class JobLogs:
    """Looks for them again and again; records that were read are read again only when they changed."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._attempts = AttemptReader(folder)

    def find(self) -> list[JobLog]:
        """Outputs that hold something, of jobs that no attempt tells of, in the order of submission."""
        try:
            records = read_jobs(self._folder)
        except StoreError:  # a list of jobs that is damaged must not hide the workers' logs
            return []
        logs = [
            JobLog(self._folder.job_log(element), origin, element, record.time)
            for record in records
            for origin, element in zip(record.replicas or (GATHER,), record.elements, strict=False)
        ]
        told = {attempt.job_id for attempt in self._attempts.read()}
        return [log for log in logs if log.element not in told and _has_text(log.path)]


def _has_text(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
