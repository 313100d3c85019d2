"""Whether a running attempt is still wanted: looked up on disk, because nobody may be able to tell it.

After a node failure Slurm starts the job elsewhere while the old worker may live on, with GPUs that Slurm
takes for free. No signal reaches it, and a cancel of the job ends the new attempt alone. What it can see is
what others write into the run folder: the fence of a cancel, and the record of a later attempt of its job.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from evalkit.cluster.attempts import read_attempts
from evalkit.cluster.jobs import is_cancelled
from evalkit.cluster.recorder import RECORD_EVERY_S
from evalkit.errors import StoreError

if TYPE_CHECKING:
    from evalkit.cluster.drain import Drain
    from evalkit.cluster.job import JobInfo
    from evalkit.store.layout import RunFolder

log = logging.getLogger("evalkit.worker")

CANCELLED = "cancelled"
SUPERSEDED = "superseded"


def why_recalled(folder: RunFolder, replica: str, job: JobInfo) -> str | None:
    """Why the attempt of `job` that runs should stop; None while it is wanted, or nobody can say."""
    try:
        if is_cancelled(folder, job.job_id):
            return CANCELLED
        attempts = read_attempts(folder, replica)
    except (StoreError, OSError) as error:
        log.warning("whether this attempt is wanted cannot be read: %s", error)
        return None
    later = (a for a in attempts if a.job_id == job.job_id and a.restart_count > job.restart_count)
    return SUPERSEDED if any(later) else None


async def heed_recall(folder: RunFolder, replica: str, job: JobInfo, drain: Drain) -> None:
    """Order the drain when the attempt is not wanted any more; looks as often as it writes its record."""
    while not drain.requested:
        await asyncio.sleep(RECORD_EVERY_S)
        why = await asyncio.to_thread(why_recalled, folder, replica, job)
        if why is not None:
            log.warning("this attempt is not wanted any more: %s", why)
            drain.request(why)
