"""Runs that cannot be read beside runs that can; runs that came from a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest

from evalkit.cluster.jobs import JobRecord, append_job, read_jobs
from evalkit.store.layout import RunFolder
from evalkit.store.run import load_plan
from tests.builders import answer_all

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Shell


@pytest.fixture
def folder(shell: Shell) -> RunFolder:
    """A run that can be read, and beside it one of a later evalkit."""
    shell("prepare", "recipe.yaml")
    shell("prepare", "recipe.yaml", "-o", "output.name=later")
    plan = shell.folder / "runs" / "later" / "plan.json"
    plan.write_bytes(orjson.dumps({**orjson.loads(plan.read_bytes()), "version": 99}))
    return RunFolder(shell.folder / "runs" / "test")


def test_lists_skip_what_they_cannot_read(shell: Shell, folder: RunFolder) -> None:
    """The others are shown with code 0; stderr names the one that was left out, and why."""
    for command in (("status",), ("ls", "runs")):
        said = shell(*command, "--json")
        assert said.code == 0
        assert [each["run"] for each in orjson.loads(said.out)] == ["test"]
        assert "skipped: " in said.err
        assert "later/plan.json has version 99" in said.err


def test_a_run_is_found_beside_one_that_cannot_be_read(shell: Shell, folder: RunFolder) -> None:
    """The beginning of an id finds its run; an unknown name lists those that can be read."""
    run_id = load_plan(folder).run_id
    [status] = orjson.loads(shell("status", run_id, "--json").out)
    assert status["run"] == "test"
    said = shell("status", "nothing")
    assert said.code == 2
    assert "Runs in runs: test." in said.err


def test_a_run_that_cannot_be_read_is_an_error_where_it_is_named(
    shell: Shell, folder: RunFolder
) -> None:
    """Who asks for that run is told what is wrong with it."""
    said = shell("status", "later")
    assert said.code == 5
    assert "has version 99" in said.err


def test_a_sweep_shows_the_runs_it_can_read(shell: Shell) -> None:
    """One broken run of a sweep hides none of the others."""
    shell.write(models={"a": {"id": "x"}, "b": {"id": "y"}})
    shell("prepare", "recipe.yaml")
    (shell.folder / "runs" / "test" / "a" / "plan.json").write_text("{}")
    said = shell("status", "test", "--json")
    assert len(orjson.loads(said.out)) == 1
    assert "skipped: " in said.err


def test_a_run_of_a_cluster_goes_on_without_it(
    shell: Shell, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no Slurm, its old jobs are a note: the run's status and work do not need it."""
    monkeypatch.setenv("PATH", str(shell.folder))

    def work(*_: object) -> int:
        answer_all(folder)
        return 0

    monkeypatch.setattr("evalkit.cluster.worker.run_replica", work)
    job = JobRecord(
        submission=1,
        time=1.0,
        host="login",
        executor="slurm",
        name="n",
        job_id="77",
        role="replicas",
        replicas=("r0",),
        is_array=False,
        script=None,
    )
    append_job(folder, job)
    said = shell("status", "test")
    assert said.code == 0
    assert "no Slurm on this machine" in said.out
    said = shell("resume", "test", "--here")
    assert "note: this run was submitted to Slurm (jobs 77)" in said.err
    assert said.code == 0
    assert [job.executor for job in read_jobs(folder)] == ["slurm", "local"]
    assert "no Slurm" not in shell("status", "test").out
