"""An attempt that nobody wants any more finds out by itself."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from evalkit.cluster import recall
from evalkit.cluster.drain import Drain
from evalkit.cluster.job import JobInfo
from evalkit.cluster.jobs import Fence, JobRecord, append_job, write_fence
from evalkit.cluster.recall import CANCELLED, SUPERSEDED, heed_recall, why_recalled
from tests.unit.cluster.controller import record

if TYPE_CHECKING:
    import pytest

    from evalkit.store.layout import RunFolder

JOB = JobInfo("slurm", "7_0", "7", 1, ("n1",), "n1", None, None)


def test_a_fence_recalls_what_it_covers(run_folder: RunFolder) -> None:
    """The worker of a lost node hears of a cancel that ended its job elsewhere."""
    append_job(
        run_folder, JobRecord(2, 1.0, "h", "slurm", "x", "7", "replicas", ("r0", "r1"), True, None)
    )
    write_fence(run_folder, Fence(1))
    assert why_recalled(run_folder, "r0", JOB) is None
    write_fence(run_folder, Fence(2, gone=True))
    assert why_recalled(run_folder, "r0", JOB) == CANCELLED
    assert why_recalled(run_folder, "r0", replace(JOB, job_id="8_0")) is None


def test_a_later_attempt_of_the_job_takes_its_place(run_folder: RunFolder) -> None:
    """Slurm has requeued the job and started it elsewhere: the GPUs here may be given away."""
    record(run_folder, 1, restart_count=0)
    record(run_folder, 2, restart_count=1)
    record(run_folder, 3, restart_count=5, job_id="9_0")
    assert why_recalled(run_folder, "r0", JOB) is None
    record(run_folder, 4, restart_count=2)
    assert why_recalled(run_folder, "r0", JOB) == SUPERSEDED
    assert why_recalled(run_folder, "r0", replace(JOB, restart_count=2)) is None


def test_what_cannot_be_read_recalls_nobody(run_folder: RunFolder) -> None:
    """A damaged list of jobs stops no worker."""
    write_fence(run_folder, Fence(2))
    run_folder.jobs.write_text("no job\n")
    assert why_recalled(run_folder, "r0", JOB) is None


def test_a_recalled_attempt_drains(run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked again and again, and the drain has the reason; one that is ordered ends the looking."""
    monkeypatch.setattr(recall, "RECORD_EVERY_S", 0.0)
    looks = iter([None, None, SUPERSEDED])
    monkeypatch.setattr(recall, "why_recalled", lambda *_: next(looks))
    drain = Drain()
    asyncio.run(heed_recall(run_folder, "r0", JOB, drain))
    assert drain.reason == SUPERSEDED
    asyncio.run(heed_recall(run_folder, "r0", JOB, drain))
    assert list(looks) == []
