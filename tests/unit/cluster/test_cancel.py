"""A cancel that finds all jobs of a run: by other paths, unrecorded, and while they are submitted."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.cancel import Cancelled, cancel_run
from evalkit.cluster.jobs import Fence, is_cancelled, read_fence
from evalkit.cluster.launch import SlurmLaunch
from evalkit.cluster.submit import submit_run
from evalkit.errors import ClusterError
from evalkit.store.layout import RunFolder
from tests.unit.cluster.builders import make_plan
from tests.unit.cluster.test_elastic import CLUSTER, cancel, submit

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.cluster.conftest import FakeSlurm


@pytest.fixture(autouse=True)
def _idle(fake_slurm: FakeSlurm) -> None:
    """Jobs do nothing: one that begins beside a cancel meets the fence, and ends before it is looked at."""
    fake_slurm.switch("idle")


def test_cancel_finds_its_jobs_by_another_path(
    run_folder: RunFolder, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    """A run that was submitted by one path of its folder is cancelled by another, or after it was moved:
    jobs on record are the run's, wherever their scripts lay."""
    fake_slurm.switch("hold")  # a job that has begun would end when its folder is moved
    array, gather = submit(run_folder, fake_slurm).jobs
    (tmp_path / "link").symlink_to(run_folder.root.parent)
    fake_slurm.switch("deaf")
    by_link = RunFolder(tmp_path / "link" / "demo")
    left = [*array.elements, gather.job_id]
    assert [text.split()[0] for text in cancel(by_link, fake_slurm, wait_s=0)] == left
    run_folder.root.rename(tmp_path / "moved")
    moved = RunFolder(tmp_path / "moved")
    assert [text.split()[0] for text in cancel(moved, fake_slurm, wait_s=0)] == left
    assert not read_fence(moved).gone, "what is still there is not called gone"
    (fake_slurm.dir / "deaf").unlink()
    assert cancel(moved, fake_slurm) == []


def test_an_unrecorded_job_is_found_by_another_path(
    run_folder: RunFolder, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    """Its script lies in the folder, whichever way one comes there."""
    _, gather = submit(run_folder, fake_slurm).jobs
    lines = run_folder.jobs.read_bytes().splitlines(keepends=True)
    run_folder.jobs.write_bytes(lines[0])
    (tmp_path / "link").symlink_to(run_folder.root.parent)
    assert cancel(RunFolder(tmp_path / "link" / "demo"), fake_slurm) == [gather.job_id]


def test_a_submit_does_not_double_what_nobody_noted(
    run_folder: RunFolder, fake_slurm: FakeSlurm
) -> None:
    """After a submit that was killed behind sbatch the next one names the job and the way out."""
    array, gather = submit(run_folder, fake_slurm).jobs
    run_folder.jobs.unlink()
    with pytest.raises(ClusterError, match=f"{array.job_id}, {gather.job_id}") as caught:
        submit(run_folder, fake_slurm)
    assert "evalkit cancel" in (caught.value.hint or "")
    assert len(fake_slurm.jobs()) == 2
    assert cancel_run(run_folder, clock=SYSTEM_CLOCK, env=fake_slurm.env).unrecorded
    assert submit(run_folder, fake_slurm).kind == "submitted"


def test_nothing_was_submitted(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """A run that no submit has touched is cancelled without Slurm, which may not answer."""
    fake_slurm.switch("broken")
    assert cancel_run(run_folder, clock=SYSTEM_CLOCK, env=fake_slurm.env).jobs == ()


def test_a_cancel_waits_for_a_submit(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """What a submit is about to start when the cancel comes is cancelled with the rest, and what it has
    not started by then is not started."""
    ended: list[Cancelled] = []

    def stop() -> None:
        ended.append(cancel_run(run_folder, clock=SYSTEM_CLOCK, env=fake_slurm.env))

    canceller = threading.Thread(target=stop)
    original = SlurmLaunch.record

    def record(self: SlurmLaunch, job_id: str, replicas: range, gpus: str | None = None) -> None:
        original(self, job_id, replicas, gpus)
        if not canceller.ident:
            canceller.start()
            while not read_fence(run_folder).submission:
                canceller.join(0.01)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SlurmLaunch, "record", record)
        env = {**fake_slurm.env, "FAKE_MAX_ARRAY": "1"}
        with pytest.raises(ClusterError, match="cancelled while it was submitted"):
            submit_run(run_folder, make_plan(), CLUSTER, clock=SYSTEM_CLOCK, env=env)
    canceller.join()
    (job,) = fake_slurm.jobs()
    assert set(job["ended"]) == set(job["elements"])
    assert is_cancelled(run_folder, str(job["id"]))
    assert ended[0].left == ()
    assert read_fence(run_folder) == Fence(1, gone=True)
    assert submit(run_folder, fake_slurm).jobs[0].submission == 2


def test_a_cancel_outlasts_a_submit_that_hangs(
    run_folder: RunFolder, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the submit's lock does not come free the fence is put before the number it works on, and the
    next submit takes a higher one."""
    monkeypatch.setattr("evalkit.cluster.cancel.SUBMIT_WAIT_S", 0.1)
    first = submit(run_folder, fake_slurm).jobs[0]
    with FileLock(run_folder.submit_lock):
        assert cancel(run_folder, fake_slurm) == []
    assert read_fence(run_folder) == Fence(first.submission + 1, gone=True)
    again = submit(run_folder, fake_slurm).jobs[0]
    assert again.submission == first.submission + 2
    assert not is_cancelled(run_folder, f"{again.job_id}_0")
