"""Replicas that come late, leave early and differ in speed, on a real Slurm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest

from evalkit.cluster.jobs import read_jobs
from tests.slurm.served import ServedRun

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.slurm.conftest import SlurmCluster


@pytest.fixture
def run(slurm_cluster: SlurmCluster, tmp_path: Path) -> Iterator[ServedRun]:
    """A run whose jobs are gone after the test."""
    served = ServedRun(slurm_cluster, tmp_path / "out" / "demo", units=48, shards=12, parallelism=1)
    yield served
    served.cancel()


def test_fast_replicas_join_a_slow_one(run: ServedRun) -> None:
    """Two that join do what is free, end and leave their nodes while the slow one works on; the one
    gather waits for all of them."""
    slow, gather = run.submit("--hang-after 3").jobs
    run.wait_for_answers(1)
    assert "--replicas N" in run.submit("--hang-after 3").text
    fast, same = run.submit("--latency-s 0.01", replicas=2).jobs
    assert (fast.replicas, same.job_id) == (("r1", "r2"), gather.job_id)
    shown = run.cluster.run("scontrol", "show", "job", gather.job_id)
    assert f"afterany:{slow.job_id}" in shown
    assert f"afterany:{fast.job_id}" in shown
    for element in fast.elements:
        run.wait_for_state(element, "")
    rows = dict(row.split()[:2] for row in run.queued())
    assert rows[slow.job_id] == "RUNNING", "the slow one works on when the fast ones have ended"
    assert rows[gather.job_id] == "PENDING"
    done = {
        r.name: sum(
            orjson.loads(run.folder.replica(r.name).read_bytes())["tasks"]["sums"][
                "outcomes"
            ].values()
        )
        for r in run.status().replicas
    }
    assert done["r1"] + done["r2"] > done["r0"]
    run.server("r0").go_on()
    status = run.finish()
    assert {job.state for job in status.jobs} == {"done"}
    assert run.results()["complete"] is True
    assert run.results()["counts"]["duplicates"] == 0
    assert run.queued() == []
    assert len([job for job in read_jobs(run.folder) if job.role == "gather"]) == 1


def test_replicas_join_behind_a_gather_that_started(run: ServedRun) -> None:
    """Replicas that were cancelled by hand leave a gather: one that joins then is gathered for too."""
    first, gather = run.submit("--hang-after 3").jobs
    run.wait_for_answers(1)
    run.cluster.run("scontrol", "hold", gather.job_id)
    run.cluster.run("scancel", first.job_id)
    run.wait_for_state(first.job_id, "")
    added = run.submit("", replicas=1)
    assert added.jobs[0].replicas == ("r1",)
    run.cluster.run("scontrol", "release", gather.job_id)
    status = run.finish()
    assert status.done == 48
    assert run.results()["complete"] is True
    assert run.queued() == []
