"""Several runs at once: Slurm is asked once for all, and never about runs that are complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from evalkit.clock import Clock
from evalkit.cluster.survey import COMPLETE, survey
from evalkit.plan.model import Shard
from tests.unit.cluster.builders import make_plan, make_task, write_json, write_marker, write_run
from tests.unit.cluster.test_status import NOW, attempt, job, ran, record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from evalkit.cluster.status import RunStatus
    from evalkit.errors import StoreError
    from evalkit.store.layout import RunFolder
    from tests.unit.cluster.conftest import FakeSlurm


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[[int], RunFolder]:
    """A run with one job, whose id it has in its name."""

    def make(number: int) -> RunFolder:
        folder = write_run(tmp_path / "out" / f"run{number}", make_plan())
        record(folder, str(number))
        return folder

    return make


def complete(folder: RunFolder) -> None:
    """All units are done, and a gather has found them."""
    for index in (0, 1):
        write_marker(folder, make_task(), index)
    write_json(folder.summary, {"complete": True})


def look(env: dict[str, str], *folders: RunFolder) -> list[RunStatus]:
    problems: list[StoreError] = []
    found = survey(folders, clock=Clock(wall=lambda: NOW), on_problem=problems.append, env=env)
    assert not problems
    return found


def test_one_query_for_all_runs(
    make_run: Callable[[int], RunFolder], fake_slurm: FakeSlurm
) -> None:
    """One squeue, and one sacct for what it does not show; each run gets its own rows."""
    folders = [make_run(number) for number in (100, 101, 102)]
    job(fake_slurm, 100)
    job(fake_slurm, 101, "CANCELLED by 0")
    job(fake_slurm, 102, "NODE_FAIL")
    found = look(fake_slurm.env, *folders)
    assert [status.jobs[0].state for status in found] == ["pending", "cancelled", "node_fail"]
    assert [status.phase for status in found] == ["waiting", "stopped", "stopped"]
    [squeue], [sacct] = fake_slurm.calls("squeue"), fake_slurm.calls("sacct")
    assert squeue[squeue.index("-j") + 1] == "100,101,102"
    assert sacct[sacct.index("-j") + 1] == "101,102"


def test_jobs_of_a_complete_run(
    make_run: Callable[[int], RunFolder], fake_slurm: FakeSlurm
) -> None:
    """Nobody is asked about them, and nothing is claimed of them."""
    folders = [make_run(number) for number in (100, 101)]
    for folder in folders:
        complete(folder)
    found = look(fake_slurm.env, *folders)
    assert [(status.phase, status.is_over) for status in found] == [("complete", True)] * 2
    assert (found[0].jobs[0].state, found[0].jobs[0].reason) == ("unknown", COMPLETE)
    assert fake_slurm.calls("squeue") == []
    assert fake_slurm.calls("sacct") == []


def test_a_gathered_run_that_owes_units(
    make_run: Callable[[int], RunFolder], fake_slurm: FakeSlurm
) -> None:
    """Results alone make no run complete: its jobs are asked about."""
    folder = make_run(100)
    write_json(folder.summary, {"complete": True})
    job(fake_slurm, 100)
    assert look(fake_slurm.env, folder)[0].phase == "waiting"


def test_attempts_of_a_complete_run(
    make_run: Callable[[int], RunFolder], fake_slurm: FakeSlurm
) -> None:
    """How they ended is asked in the same sacct, where only Slurm may know."""
    done, waits = make_run(100), make_run(101)
    complete(done)
    attempt(done)
    ran(fake_slurm, ("PREEMPTED", NOW - 3610, NOW - 1790), state="COMPLETED")
    job(fake_slurm, 101, "FAILED")
    found = look(fake_slurm.env, done, waits)
    assert [str(group.kind) for group in found[0].failures] == ["preempted"]
    [squeue], [sacct] = fake_slurm.calls("squeue"), fake_slurm.calls("sacct")
    assert squeue[squeue.index("-j") + 1] == "101"
    assert sacct[sacct.index("-j") + 1] == "100,101"


def test_a_controller_that_does_not_answer(
    make_run: Callable[[int], RunFolder], fake_slurm: FakeSlurm
) -> None:
    """It is waited for once; runs without jobs of Slurm's are shown as ever."""
    folders = [make_run(number) for number in (100, 101, 102)]
    local = make_run(7)
    local.jobs.unlink()
    record(local, "7", executor="local", host="elsewhere", started=1.0)
    fake_slurm.switch("broken")
    *found, other = look(fake_slurm.env, *folders, local)
    assert [status.phase for status in found] == ["unknown"] * 3
    assert all("Unable to contact" in (status.slurm_error or "") for status in found)
    assert len(fake_slurm.calls("squeue")) == 1
    assert other.slurm_error is None
    assert "only on elsewhere" in other.message


def test_no_slurm(make_run: Callable[[int], RunFolder], no_slurm: dict[str, str]) -> None:
    """Copied runs are unknown here, each by itself."""
    found = look(no_slurm, make_run(100), make_run(101))
    assert [(status.phase, status.is_blind) for status in found] == [("unknown", True)] * 2


def test_a_run_that_cannot_be_read(
    make_run: Callable[[int], RunFolder], fake_slurm: FakeSlurm
) -> None:
    """It is told of, whether its plan or a journal is at fault, and hides no other."""
    folders = [make_run(number) for number in (100, 101, 102)]
    folders[0].plan.write_text("{")
    folders[1].journal(Shard("sums", 0), "r0.a1").mkdir(parents=True)
    problems: list[StoreError] = []
    found = survey(
        folders, clock=Clock(wall=lambda: NOW), on_problem=problems.append, env=fake_slurm.env
    )
    assert [status.folder for status in found] == [str(folders[2].root)]
    assert len(problems) == 2
