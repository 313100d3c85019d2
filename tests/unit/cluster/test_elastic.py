"""Replicas that join a run: their names, their gather, and who is asked before they come."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.attempts import AttemptRecord, Failure
from evalkit.cluster.cancel import cancel_run
from evalkit.cluster.jobs import Fence, is_cancelled, read_fence, read_jobs, write_fence
from evalkit.cluster.status import run_status
from evalkit.cluster.submit import submit_run
from evalkit.errors import ClusterError, FailureKind
from evalkit.plan.model import Shard
from evalkit.store.run import load_cluster
from tests.unit.cluster.builders import make_cluster, make_plan, write_json
from tests.unit.cluster.test_submit import STUB

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.cluster.submit import Submission
    from evalkit.store.layout import RunFolder
    from tests.unit.cluster.conftest import FakeSlurm

CLUSTER = make_cluster(replicas=2, setup=[f"export PYTHONPATH={STUB}:$PYTHONPATH"])


@pytest.fixture(autouse=True)
def _idle(fake_slurm: FakeSlurm) -> None:
    """Jobs do nothing: one that begins beside a cancel meets the fence, and ends before it is looked at."""
    fake_slurm.switch("idle")


def submit(folder: RunFolder, slurm: FakeSlurm, replicas: int | None = None) -> Submission:
    return submit_run(
        folder, make_plan(), CLUSTER, clock=SYSTEM_CLOCK, env=slurm.env, replicas=replicas
    )


def cancel(folder: RunFolder, slurm: FakeSlurm, wait_s: float | None = None) -> list[str]:
    cancelled = cancel_run(folder, clock=SYSTEM_CLOCK, env=slurm.env, wait_s=wait_s)
    return [*cancelled.unrecorded, *cancelled.left]


def dependency(slurm: FakeSlurm, job_id: str) -> str:
    (found,) = [job["dependency"] for job in slurm.jobs() if str(job["id"]) == job_id]
    return str(found)


def test_replicas_join_a_running_run(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """New names, a new array of the same submission, and the one gather waits for both arrays."""
    array, gather = submit(run_folder, fake_slurm).jobs
    added = submit(run_folder, fake_slurm, replicas=3)
    assert added.kind == "added"
    more, same = added.jobs
    assert (more.replicas, more.is_array, more.submission) == (("r2", "r3", "r4"), True, 1)
    assert same == gather
    assert dependency(fake_slurm, gather.job_id) == f"afterany:{array.job_id}:{more.job_id}"
    assert read_jobs(run_folder) == [array, gather, more]
    assert added.text == (
        f"added r2, r3, r4 to what runs, as {more.job_id} (replicas), {gather.job_id} (gather)"
    )
    (last,) = submit(run_folder, fake_slurm, replicas=1).jobs[:1]
    assert (last.replicas, last.elements) == (("r5",), (last.job_id,))


def test_without_a_number_nothing_joins(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """A second submit says how replicas are added, and adds none."""
    submit(run_folder, fake_slurm)
    again = submit(run_folder, fake_slurm)
    assert again.kind == "already_running"
    assert "`--replicas N` adds N replicas" in again.text


def test_a_gather_that_starts_is_followed_by_another(
    run_folder: RunFolder, fake_slurm: FakeSlurm
) -> None:
    """When the gather does not wait any more, a second one waits for it and for all replicas."""
    array, gather = submit(run_folder, fake_slurm).jobs
    fake_slurm.switch("denied")
    more, after = submit(run_folder, fake_slurm, replicas=1).jobs
    assert after.job_id != gather.job_id
    wanted = f"afterany:{array.job_id}:{more.job_id}:{gather.job_id}"
    assert dependency(fake_slurm, after.job_id) == wanted
    assert fake_slurm.calls("scancel") == [["--state=PENDING", gather.job_id]]


def test_the_number_is_that_of_a_run_that_does_not_run(
    run_folder: RunFolder, fake_slurm: FakeSlurm
) -> None:
    """Where nothing runs, --replicas is how many start, now and with the next resume."""
    (first, _) = submit(run_folder, fake_slurm, replicas=3).jobs
    assert first.replicas == ("r0", "r1", "r2")
    submit(run_folder, fake_slurm, replicas=4)
    assert load_cluster(run_folder).replicas == 3, "what is added is for once"
    cancel(run_folder, fake_slurm)
    (again, _) = submit(run_folder, fake_slurm).jobs
    assert (again.replicas, again.submission) == (("r0", "r1"), 2)


def test_a_replica_that_still_speaks_keeps_its_name(
    run_folder: RunFolder, fake_slurm: FakeSlurm
) -> None:
    """An added replica does not take the name of one that is heard, whatever its job is said to be."""
    submit(run_folder, fake_slurm)
    now = SYSTEM_CLOCK.wall()
    report = {"replica": "r7", "attempt": 1, "host": "h", "pid": 1, "job_id": "1", "state": "ready"}
    write_json(run_folder.replica("r7"), {**report, "started": now, "heartbeat": now})
    assert submit(run_folder, fake_slurm, replicas=1).jobs[0].replicas == ("r8",)


def test_cancel_ends_all_arrays(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """Every array that joined is cancelled with the first one, and the gather before them."""
    array, gather = submit(run_folder, fake_slurm).jobs
    more = submit(run_folder, fake_slurm, replicas=2).jobs[0]
    assert cancel(run_folder, fake_slurm) == []
    assert fake_slurm.calls("scancel") == [[gather.job_id, array.job_id, more.job_id]]
    assert read_fence(run_folder) == Fence(1, gone=True)
    assert is_cancelled(run_folder, f"{more.job_id}_1")
    again = submit(run_folder, fake_slurm).jobs[0]
    assert not is_cancelled(run_folder, f"{again.job_id}_0")


def test_cancel_finds_a_job_that_nobody_noted(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """A submit that was killed behind sbatch leaves a job without a record: it is cancelled too."""
    array, gather = submit(run_folder, fake_slurm).jobs
    lines = run_folder.jobs.read_bytes().splitlines(keepends=True)
    run_folder.jobs.write_bytes(lines[0])
    assert cancel(run_folder, fake_slurm) == [gather.job_id]
    assert fake_slurm.calls("scancel") == [[array.job_id, gather.job_id]]


def test_cancel_looks_into_hidden_partitions(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """Every look at the queue asks for all partitions: a job in a hidden one is not gone."""
    submit(run_folder, fake_slurm)
    before = len(fake_slurm.calls("squeue"))
    cancel(run_folder, fake_slurm)
    looks = fake_slurm.calls("squeue")[before:]
    assert any("--me" in look for look in looks)
    assert all("--all" in look for look in looks)


def test_cancel_says_what_is_left(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """Jobs that do not end are named, stay fenced off, and are not joined by a submit."""
    array, gather = submit(run_folder, fake_slurm).jobs
    fake_slurm.switch("deaf")
    left = cancel(run_folder, fake_slurm, wait_s=0)
    assert [text.split()[0] for text in left] == [
        *array.elements,
        gather.job_id,
    ]
    assert fake_slurm.calls("scancel")[-1] == [array.job_id, gather.job_id], "told again"
    assert is_cancelled(run_folder, array.elements[0])
    with pytest.raises(ClusterError, match="was cancelled, and its jobs still end"):
        submit(run_folder, fake_slurm, replicas=1)


def test_cancel_of_another_folder_of_the_same_run(
    run_folder: RunFolder, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    """Two folders of one recipe have jobs of one name; each cancel ends its own."""
    from tests.unit.cluster.builders import write_run

    other = write_run(tmp_path / "elsewhere" / "demo", make_plan())
    theirs = submit(other, fake_slurm).jobs
    mine = submit(run_folder, fake_slurm).jobs
    assert cancel(run_folder, fake_slurm) == []
    told = [job_id for call in fake_slurm.calls("scancel") for job_id in call]
    assert sorted(told) == sorted(job.job_id for job in mine)
    assert not {job.job_id for job in theirs} & set(told)


def test_what_a_cancel_saw_gone_is_not_asked_for(
    run_folder: RunFolder, fake_slurm: FakeSlurm
) -> None:
    """Without accounting nobody can say that cancelled jobs are over: the cancel saw it."""
    fake_slurm.switch("no_accounting")
    submit(run_folder, fake_slurm)
    cancel(run_folder, fake_slurm)
    assert all(job.gone for job in read_jobs(run_folder))
    status = run_status(run_folder, clock=SYSTEM_CLOCK, env=fake_slurm.env)
    assert {job.state for job in status.jobs} == {"cancelled"}
    assert submit(run_folder, fake_slurm).kind == "submitted"


def test_no_lease_outlives_a_cancel(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """Leases of workers that were killed on other nodes are gone with them."""
    submit(run_folder, fake_slurm)
    lease = run_folder.lease(Shard("sums", 0))
    lease.parent.mkdir(parents=True)
    lease.write_text("pid=1\nhost=elsewhere\n")
    cancel(run_folder, fake_slurm)
    assert not lease.exists()


def test_no_lease_of_the_dead_waits_for_a_submit(
    run_folder: RunFolder, fake_slurm: FakeSlurm
) -> None:
    """A submit of a run that nobody works on removes what is left of its leases; joining does not."""
    lease = run_folder.lease(Shard("sums", 0))
    lease.parent.mkdir(parents=True)
    lease.write_text("pid=1\nhost=elsewhere\n")
    submit(run_folder, fake_slurm)
    assert not lease.exists()
    lease.write_text("pid=1\nhost=elsewhere\n")
    submit(run_folder, fake_slurm, replicas=1)
    assert lease.exists()


def test_a_fence_that_cannot_be_read_is_none(run_folder: RunFolder) -> None:
    """A torn fence fences nothing; a job that is not on record is never fenced."""
    assert read_fence(run_folder) == Fence()
    write_fence(run_folder, Fence(3))
    assert read_fence(run_folder) == Fence(3, gone=False)
    assert not is_cancelled(run_folder, "17")
    run_folder.cancelled.write_bytes(b'{"submission": 3')
    assert read_fence(run_folder) == Fence()


def test_no_fence_stops_a_cancel(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """Where the fence cannot be written the jobs are cancelled all the same."""
    array, gather = submit(run_folder, fake_slurm).jobs
    run_folder.cancelled.mkdir()
    assert cancel(run_folder, fake_slurm) == []
    assert fake_slurm.calls("scancel") == [[gather.job_id, array.job_id]]


def test_added_local_replicas_take_free_gpus(run_folder: RunFolder) -> None:
    """A replica that joins here gets a GPU that no other holds, and a gather that waits for all."""
    from tests.unit.cluster.test_local import ENV, worker_info

    cluster = make_cluster(executor="local", replicas=2, signal_delay_s=60, time_min=10)

    def add(replicas: int | None) -> Submission:
        return submit_run(
            run_folder, make_plan(), cluster, clock=SYSTEM_CLOCK, env=ENV, replicas=replicas
        )

    try:
        old = add(None).jobs[-1]
        added = add(1)
        assert [(job.role, job.gpus) for job in added.jobs] == [("replicas", "6"), ("gather", None)]
        assert worker_info(run_folder, "r2")["gpus"] == "6"
        with pytest.raises(ClusterError, match="here are 4, of which 1 are free"):
            add(2)
        live = [job.job_id for job in add(None).jobs]
        assert old.job_id not in live, "the first gather gave way to the one that waits for all"
        assert added.jobs[-1].job_id in live
        assert {job.host for job in added.jobs} == {socket.gethostname()}
    finally:
        cancel_run(run_folder, clock=SYSTEM_CLOCK, env=ENV, wait_s=1)


@pytest.mark.parametrize(
    ("nodes", "excluded"), [("n1,n2,n3,n4", "n4,n1"), ("n1", None), ("n2,n3", None)]
)
def test_nodes_that_failed_again_and_again_are_left_out(
    run_folder: RunFolder, fake_slurm: FakeSlurm, nodes: str, excluded: str | None
) -> None:
    """A submit stays off nodes where attempts failed, besides those of the recipe; never off all nodes,
    and never off one that Slurm does not know."""
    for number in (1, 2, 3):
        node = "n2" if number == 3 else "n1"
        failure = Failure(FailureKind.SERVER_START, "no GPU", node) if node == "n1" else None
        write_attempt(run_folder, number, node, failure)
    cluster = CLUSTER.model_copy(update={"exclude": "n4", "partition": "low"})
    env = {**fake_slurm.env, "FAKE_NODES": nodes}
    submitted = submit_run(run_folder, make_plan(), cluster, clock=SYSTEM_CLOCK, env=env)
    script = (run_folder.root / (submitted.jobs[0].script or "")).read_text()
    assert f"#SBATCH --exclude={excluded or 'n4'}\n" in script
    said = "left out n1: attempts failed there repeatedly"
    assert submitted.warnings == ((said,) if excluded else ())
    assert load_cluster(run_folder).exclude == "n4", "what is left out is for once"


def test_a_submit_frees_no_node_of_the_users(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """Nodes that the user excludes stay excluded when attempts had failed there, all of them."""
    for number, node in enumerate(("n1", "n1", "n2", "n2", "n3"), start=1):
        failure = Failure(FailureKind.SERVER_START, "no GPU", node) if node != "n3" else None
        write_attempt(run_folder, number, node, failure)
    env = {**fake_slurm.env, "FAKE_NODES": "n1,n2,n3,n4"}
    for changes in ({"exclude": "n1,n2"}, {"sbatch": {"exclude": "n1,n2"}}):
        cluster = CLUSTER.model_copy(update=changes)
        submitted = submit_run(run_folder, make_plan(), cluster, clock=SYSTEM_CLOCK, env=env)
        script = (run_folder.root / (submitted.jobs[0].script or "")).read_text()
        assert "#SBATCH --exclude=n1,n2\n" in script
        cancel(run_folder, fake_slurm)


def write_attempt(folder: RunFolder, number: int, node: str, failure: Failure | None) -> None:
    """The record of an attempt that failed, or of one that did something."""
    record = AttemptRecord(
        replica="r0",
        attempt=number,
        executor="slurm",
        job_id="7",
        restart_count=number - 1,
        host=node,
        nodes=(node,),
        gpus=1,
        started=1.0,
        last=2.0,
        ended=2.0,
        end="failed" if failure else "drained",
        units=0 if failure else 3,
        failure=failure,
    )
    path = folder.attempt_record("r0", number)
    path.parent.mkdir(parents=True)
    path.write_bytes(record.render())
