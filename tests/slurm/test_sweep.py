"""Runs of a sweep that share one job on a real Slurm: preempted between them, and with real models."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.attempts import read_attempts
from evalkit.cluster.jobs import read_jobs
from evalkit.cluster.share import SweepRun, submit_runs
from tests.slurm.served import REPOSITORY, SETTINGS, ServedRun
from tests.slurm.test_end_to_end import evalkit, results
from tests.unit.cluster.builders import make_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.slurm.conftest import SlurmCluster

pytestmark = pytest.mark.slurm


@pytest.fixture
def runs(slurm_cluster: SlurmCluster, tmp_path: Path) -> Iterator[list[ServedRun]]:
    """Three runs in the folder of a sweep; their jobs are gone after the test."""
    root = tmp_path / "out" / "sweep"
    made = [ServedRun(slurm_cluster, root / name, units=24, shards=6) for name in "abc"]
    yield made
    for run in made:
        run.cancel()


def submit(runs: list[ServedRun], faults: str) -> str:
    """Submit them together on the partition that can be preempted; the id of the job that they share.

    Servers have these faults until the job is requeued.
    """
    setup = f'test "$SLURM_RESTART_COUNT" || export FAULTS="{faults}"'
    cluster = make_cluster(
        **SETTINGS,
        share=True,
        partition="low",
        setup=[setup, f"export PYTHONPATH={REPOSITORY}"],
    )
    submit_runs(
        [SweepRun(run.folder, run.plan, cluster) for run in runs],
        clock=SYSTEM_CLOCK,
        env=runs[0].cluster.env,
    )
    ids = {job.job_id for run in runs for job in read_jobs(run.folder) if job.role == "replicas"}
    assert len(ids) == 1
    return ids.pop()


def test_a_shared_job_that_is_preempted(runs: list[ServedRun]) -> None:
    """It goes back into the queue, starts no server for the run that is done, and does the rest."""
    first, second, third = runs
    job = submit(runs, "--hang-after 8")
    first.wait_for_answers(4)
    first.server().go_on()
    second.wait_for_answers(4)
    assert first.status().done == 24
    waiting = third.status()
    assert (waiting.phase, waiting.done) == ("waiting", 0)
    assert f"job {job} works for b now" in waiting.message
    cluster = first.cluster
    with cluster.urgent_job(read_attempts(second.folder)[0].node):
        second.wait_for_drain()
    for run in runs:
        run.finish()
    cluster.wait_for_states(job, "COMPLETED", of=slice(-1, None))
    ends = [
        [(a.end, a.restart_count, a.server_starts) for a in read_attempts(r.folder)] for r in runs
    ]
    assert ends[0] == [("done", 0, 1), ("done", 1, 0)]
    assert ends[1] == [("drained", 0, 1), ("done", 1, 1)]
    assert ends[2] == [("done", 1, 1)]
    assert all(run.results()["complete"] for run in runs)


@pytest.mark.long
@pytest.mark.vllm
@pytest.mark.timeout(1500)
def test_a_learning_curve(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    """The checkpoints of the demo, served by a real vLLM one after the other in one job."""
    done = evalkit(
        *("submit", str(REPOSITORY / "recipes" / "sweep.yaml"), "--wait"),
        *("-o", "cluster.executor=slurm", "-o", "cluster.share=true", "-o", "cluster.time_min=30"),
        cwd=tmp_path,
        env=slurm_cluster.env,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    root = tmp_path / "runs" / "sweep"
    summary = json.loads((root / "summary.json").read_text())
    cells = summary["cells"]
    assert [cell["step"] for cell in cells] == [300, 500, 1600]
    curve = [cell["tasks"]["addition"]["value"] for cell in cells]
    assert curve[0] < 0.5 < 0.8 < curve[1] <= curve[2]
    jobs = {
        job["job_id"]
        for cell in cells
        for line in (root / cell["label"] / "cluster" / "jobs.jsonl").read_text().splitlines()
        if (job := json.loads(line))["role"] == "replicas"
    }
    assert len(jobs) == 1
    assert all(results(root / cell["label"], "addition")["complete"] for cell in cells)
