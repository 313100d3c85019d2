"""A sweep as a person types it: runs that share their jobs, one that fails, one that is left out."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import orjson
import psutil
import pytest

from evalkit.cluster.attempts import read_attempts
from evalkit.cluster.jobs import read_jobs
from evalkit.store.layout import RunFolder
from tests.faults.harness import Place, finish, wait_for
from tests.unit.serving.test_identity import make_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STEPS = ("step-1", "step-2", "step-10")
TASKS: dict[str, Any] = {"addition": {"params": {"n": 20, "digits": 6}}}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A folder with three checkpoints, whose processes are gone after the test."""
    place = Place(tmp_path)
    for step in STEPS:
        make_checkpoint(tmp_path / "ckpt" / step)
    yield place
    if any((tmp_path / "runs" / "test").glob("*/plan.json")):
        place.evalkit("cancel", tmp_path / "runs" / "test", "--wait", "1")


def recipe(place: Place, *switches: str, **changes: Any) -> Path:
    """A recipe of all checkpoints, each served by a fault server; the jobs are shared."""
    own = {
        "models": {"m": {"path": "./ckpt/step-*"}},
        "cluster": {"executor": "local", "share": True},
        "tasks": TASKS,
    }
    return place.command(*switches, **(own | changes))


def run_of(place: Place, step: str) -> RunFolder:
    """The run of one checkpoint."""
    return RunFolder(place.folder.root / f"m-{step}")


def ends(place: Place) -> dict[str, list[tuple[str, str | None]]]:
    """Attempts of each run, and how they ended."""
    return {step: [(a.id, a.end) for a in read_attempts(run_of(place, step))] for step in STEPS}


def test_one_job_for_all(place: Place) -> None:
    """One process works for all runs in the order of their steps, and reloads its server for each."""
    said = place.evalkit("submit", recipe(place), "--wait")
    runs = [run_of(place, step) for step in STEPS]
    jobs = [[job for job in read_jobs(run) if job.role == "replicas"] for run in runs]
    assert len({job.job_id for found in jobs for job in found}) == 1
    assert all(len(found) == 1 for found in jobs)
    assert jobs[2][0].shared == ("../m-step-1", "../m-step-2")
    attempts = [read_attempts(run)[0] for run in runs]
    assert ends(place) == {step: [("r0.a1", "done")] for step in STEPS}
    assert [a.started for a in attempts] == sorted(a.started for a in attempts)
    assert {a.server_starts for a in attempts} == {1}
    results = [orjson.loads(run.results("addition").read_bytes()) for run in runs]
    assert [r["complete"] for r in results] == [True] * 3
    summary = orjson.loads((place.folder.root / "summary.json").read_bytes())
    assert [cell["step"] for cell in summary["cells"]] == [1, 2, 10]
    assert [c["tasks"]["addition"]["value"] for c in summary["cells"]] == [
        r["headline"]["value"] for r in results
    ]
    assert said.index("m-step-2 ") < said.index("m-step-10 ")
    assert "nothing is owed" in place.evalkit("submit", recipe(place))


def test_a_checkpoint_that_cannot_be_served(place: Place) -> None:
    """The others are evaluated all the same; the failure is said, and with it the exit code."""
    models: dict[str, Any] = {f"m-{step}": {"path": f"./ckpt/{step}"} for step in STEPS}
    models["m-step-2"]["serving"] = {"command": ["sh", "-c", "exit 3"]}
    path = recipe(place, models=models, serving={"max_restarts": 0})
    said = place.evalkit("submit", path, "--wait", code=6)
    assert ends(place) == {
        "step-1": [("r0.a1", "done")],
        "step-2": [("r0.a1", "failed")],
        "step-10": [("r0.a1", "done")],
    }
    assert "exit code 3" in said
    assert run_of(place, "step-10").results("addition").exists()


@pytest.mark.long
def test_one_run_is_cancelled(place: Place) -> None:
    """The job leaves it out, also while it works for it, and goes on with the others; a cancel of all ends
    the job."""
    place.evalkit("submit", recipe(place, "--hang-after", "5"))
    first, second, third = (run_of(place, step) for step in STEPS)
    [job] = [job for job in read_jobs(first) if job.role == "replicas"]
    process = psutil.Process(int(job.job_id))
    wait_for(lambda: first.server_facts("r0", 1).exists())
    assert "works for m-step-1 now" in place.evalkit("status", second.root)
    said = place.evalkit("cancel", second.root)
    assert f"job {job.job_id} is shared, leaves this run out" in said
    said = place.evalkit("cancel", first.root)
    assert f"job {job.job_id} is shared, leaves this run out" in said
    wait_for(lambda: third.server_facts("r0", 1).exists())
    assert process.is_running()
    assert ends(place)["step-1"] == [("r0.a1", "drained")]
    assert ends(place)["step-2"] == []
    again = place.evalkit("resume", second.root)
    assert "submitted 20 owed units" in again
    own = [job.job_id for job in read_jobs(second) if job.role == "replicas"]
    assert len(own) == 2
    assert "already" not in again
    place.evalkit("cancel", second.root)
    assert process.is_running()
    assert "stopped process" in place.evalkit("cancel", third.root)
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_checkpoints_as_they_appear(place: Place) -> None:
    """A folder that is there, one that is still being written, and one that comes."""
    root = place.root / "ckpt"
    whole = (root / "step-2" / "model.safetensors").read_bytes()
    (root / "step-2" / "model.safetensors").write_bytes(whole[:-1])
    (root / "step-10" / "config.json").rename(root / "config.json")
    watching = place.start("submit", recipe(place), "--watch", "--settle", "0")

    def is_done(step: str) -> bool:
        return run_of(place, step).results("addition").exists()

    wait_for(lambda: is_done("step-1"), watching)
    (root / "config.json").rename(root / "step-10" / "config.json")
    wait_for(lambda: is_done("step-10"), watching)
    assert not run_of(place, "step-2").plan.exists()
    (root / "step-2" / "model.safetensors").write_bytes(whole)
    wait_for(lambda: is_done("step-2"), watching)
    watching.send_signal(signal.SIGINT)
    said = finish(watching)
    assert said.count(f"has {len(whole) - 1} bytes of {len(whole)}") == 1
    assert said.count("submitted 20 owed units") == 3
