"""Graded runs on a real Slurm: the job behind the replicas grades, and another one where it could not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.cluster.attempts import read_attempts
from evalkit.cluster.jobs import read_jobs
from tests.faults.harness import Place, Server, finish, serving, wait_for
from tests.faults.test_grading import (
    BOTH,
    N,
    grading_state,
    judge_calls,
    judged_by,
    results_of,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.slurm.conftest import SlurmCluster

CLIENT = {"parallelism": 4, "max_retries": 0, "retry_budget_s": 1}


def graded_recipe(place: Place, judge: Server) -> Path:
    """A replica with a server of its own, and a judge that is there already."""
    cluster: dict[str, Any] = {
        "executor": "slurm",
        "time_min": 10,
        "mem": "400MB",
        "gather": {"mem": "2GB", "cpus-per-task": 1},
        "env": {"PYTHONPATH": place.env["PYTHONPATH"]},
    }
    return place.command(cluster=cluster, tasks=BOTH, judges=judged_by(judge), client=CLIENT)


def test_job_behind_the_replicas_grades(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    """A judge that fails costs no answer: the same submit again sends one job, which only grades."""
    place = Place(tmp_path)
    place.env |= slurm_cluster.env | {"PYTHONPATH": place.env["PYTHONPATH"]}
    with serving() as judge:
        judge.switch(fail_status=500, fail_every=1, fail_times=10**6)
        recipe = graded_recipe(place, judge)
        place.evalkit("submit", recipe, "--wait", code=10)
        assert results_of(place, "programs")["complete"]
        missing = results_of(place, "judged")["missing"]["by_reason"]
        assert missing["judge_error"]["count"] == N
        replicas = sorted(path.name for path in (place.folder.root / "logs").glob("r*"))
        judge.switch(fail_status=0)
        text = place.evalkit("submit", recipe, "--wait")
        assert "every answer is there, some are not graded: submitted as" in text
        assert "(replicas)" not in text
    assert results_of(place, "judged")["complete"]
    assert sorted(path.name for path in (place.folder.root / "logs").glob("r*")) == replicas
    assert "nothing is owed" in place.evalkit("submit", recipe)


def test_grading_goes_on_after_its_time_limit(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    """Warned of its limit the job drains and requeues itself; no call of the judge is made twice."""
    place = Place(tmp_path)
    place.env |= slurm_cluster.env | {"PYTHONPATH": place.env["PYTHONPATH"]}
    with serving() as judge:
        judge.hang_after(5)
        submit = place.start("submit", graded_recipe(place, judge), "--wait")
        wait_for(lambda: judge.counts()["in_flight"] == 4, submit)
        [gather] = [job for job in read_jobs(place.folder) if job.role == "gather"]
        slurm_cluster.run("scancel", "--signal=USR2", gather.job_id)
        wait_for(lambda: grading_state(place, "judged") == "draining", submit)
        judge.go_on()
        finish(submit)
        assert len(judge_calls(place)) == 2 * N
        *asked, tried = sorted(judge.counts()["received_by_hash"].values())
        assert asked == [1] * (2 * N)
        assert tried > 1  # the request that tries a judge, by the submit and by the worker
    ends = [record.end for record in read_attempts(place.folder.gather_place)]
    assert ends == ["drained", "done"]
    assert results_of(place, "judged")["complete"]
    assert results_of(place, "programs")["complete"]
