"""Submit: what is sent, what is recorded, and when nothing is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from filelock import FileLock

from evalkit.benchmarks.addition import Addition
from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.cancel import cancel_run
from evalkit.cluster.jobs import append_job, read_jobs
from evalkit.cluster.script import render_scripts
from evalkit.cluster.status import run_status
from evalkit.cluster.submit import submit_run
from evalkit.errors import ClusterError, RecipeError, StoreError
from evalkit.recipe.serving import VllmServing
from tests.unit.cluster.builders import make_cluster, make_plan, make_task, write_run
from tests.unit.cluster.waiting import wait_for

if TYPE_CHECKING:
    from evalkit.clock import Clock
    from evalkit.cluster.submit import Submission
    from evalkit.plan.model import Plan
    from evalkit.recipe.schema import Cluster
    from evalkit.store.layout import RunFolder
    from tests.unit.cluster.conftest import FakeSlurm

STUB = str(Path(__file__).with_name("stub_worker"))
SECRET = "hunter2-and-more"
CLUSTER = make_cluster(
    replicas=2, setup=[f"export PYTHONPATH={STUB}:$PYTHONPATH"], env={"FLAVOUR": "a 'b"}
)
PLAN = make_plan(serving=VllmServing(gpus=1, secrets=("MY_KEY",)))


def submit(
    folder: RunFolder,
    slurm: FakeSlurm,
    plan: Plan = PLAN,
    cluster: Cluster = CLUSTER,
    *,
    replicas: int | None = None,
    **env: str,
) -> Submission:
    given = {**slurm.env, "MY_KEY": SECRET, **env}
    return submit_run(folder, plan, cluster, clock=SYSTEM_CLOCK, env=given, replicas=replicas)


def worker_file(folder: RunFolder, replica: str) -> dict[str, Any]:
    path = folder.root / f"worker-{replica}-0.json"
    wait_for(f"{path.name} exists", path.exists)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_submit_runs_replicas_and_records_them(
    run_folder: RunFolder, fake_slurm: FakeSlurm
) -> None:
    """One array of replicas and one gather exist, run the worker, and are on record."""
    submission = submit(run_folder, fake_slurm)
    assert submission.kind == "submitted"
    assert submission.owed == {"sums": 8}
    replicas, gather = read_jobs(run_folder)
    assert (replicas.role, replicas.replicas, replicas.is_array) == ("replicas", ("r0", "r1"), True)
    assert (gather.role, gather.elements) == ("gather", (gather.job_id,))
    assert [job["name"] for job in fake_slurm.jobs()] == ["evalkit-demo-808d8c9a"] * 2
    assert (run_folder.root / (replicas.script or "")).is_file()
    info = worker_file(run_folder, "r1")
    assert (info["executor"], info["job_id"]) == ("slurm", f"{replicas.job_id}_1")
    assert (info["array_id"], info["nodes"]) == (replicas.job_id, ["fake1"])
    assert info["env"]["FLAVOUR"] == "a 'b"
    assert not list(run_folder.cluster.glob(".submission_file_*"))


def test_the_dry_run_is_what_is_written(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """The rendered scripts equal the files that submitit left, but for the gather's dependency."""
    shown = render_scripts(run_folder, PLAN, CLUSTER, max_array_size=1001)
    submit(run_folder, fake_slurm)
    jobs = read_jobs(run_folder)
    written = [(run_folder.root / (job.script or "")).read_text() for job in jobs]
    assert written[0] == shown[0].text
    assert written[1] == shown[1].text.replace("REPLICAS_JOB_ID", jobs[0].job_id)


def test_secrets_reach_the_worker_and_nothing_else(
    run_folder: RunFolder, fake_slurm: FakeSlurm
) -> None:
    """The worker sees the value; no file of the run, and no variable given to sbatch, holds it."""
    submit(run_folder, fake_slurm)
    assert worker_file(run_folder, "r0")["env"]["MY_KEY"] == SECRET
    for seen in run_folder.root.glob("worker-*"):
        seen.unlink()  # written by the worker of this test to show what it got
    holders = [
        path
        for path in run_folder.root.rglob("*")
        if path.is_file() and SECRET.encode() in path.read_bytes()
    ]
    assert holders == []
    assert all("MY_KEY" not in job["env"] for job in fake_slurm.jobs())


def test_a_missing_secret_stops_the_submit(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """Nothing is submitted when a variable that the recipe names is not set."""
    with pytest.raises(RecipeError, match="MY_KEY not set"):
        submit(run_folder, fake_slurm, MY_KEY="")
    assert fake_slurm.jobs() == []


def test_a_refused_submit_leaves_no_secret(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """Where no job came to be nobody will read the secrets, or remove them."""
    fake_slurm.switch("refuse", "sbatch: error: invalid account")
    with pytest.raises(ClusterError, match="invalid account"):
        submit(run_folder, fake_slurm, PLAN, MY_KEY=SECRET)
    assert not (run_folder.root.parent / ".secrets").exists()


def test_inherited_variables_are_not_sent(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """SBATCH_* of an outer job changes nothing, and the user is told."""
    submission = submit(run_folder, fake_slurm, SBATCH_PARTITION="other", SLURM_JOB_ID="3")
    sent = fake_slurm.jobs()[0]["env"]
    assert not [name for name in sent if name.startswith(("SBATCH_", "SLURM_"))]
    assert submission.warnings == (
        "ignored SBATCH_PARTITION: put such options into `cluster` of the recipe",
    )


def test_a_second_submit_adds_nothing(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """While jobs of the run live, another submit names them and submits nothing."""
    first = submit(run_folder, fake_slurm)
    again = submit(run_folder, fake_slurm)
    assert again.kind == "already_running"
    assert again.jobs == first.jobs
    assert first.jobs[0].job_id in again.text
    assert len(fake_slurm.jobs()) == 2


def test_a_finished_submission_can_be_followed_by_another(
    run_folder: RunFolder, fake_slurm: FakeSlurm
) -> None:
    """Once the jobs have ended, a submit of a run that owes units is submission 2."""
    submit(run_folder, fake_slurm)
    cancel_run(run_folder, clock=SYSTEM_CLOCK, env=fake_slurm.env)
    assert submit(run_folder, fake_slurm).kind == "submitted"
    assert [job.submission for job in read_jobs(run_folder)] == [1, 1, 2, 2]


def test_slurm_that_does_not_answer_stops_a_second_submit(
    run_folder: RunFolder, fake_slurm: FakeSlurm
) -> None:
    """When nobody can say whether jobs live, none are added."""
    submit(run_folder, fake_slurm)
    fake_slurm.switch("broken")
    with pytest.raises(ClusterError, match="Unable to contact"):
        submit(run_folder, fake_slurm)
    assert len(fake_slurm.jobs()) == 2


def test_nothing_owed_submits_nothing(tmp_path: Path, fake_slurm: FakeSlurm) -> None:
    """A run whose journals hold every unit needs no job."""
    plan = make_plan(make_task(n_samples=2, n_shards=1))
    folder = write_run(tmp_path / "out" / "demo", plan)
    finish_shard(folder, plan)
    submission = submit(folder, fake_slurm, plan)
    assert (submission.kind, submission.owed) == ("nothing_owed", {"sums": 0})
    assert fake_slurm.jobs() == []


def finish_shard(folder: RunFolder, plan: Plan) -> None:
    """Journal an answer for every unit of the only shard."""
    from evalkit.plan.model import Shard
    from evalkit.store.codec import encode, header, seal
    from evalkit.store.records import CallRecord, Outcome, Reply, Timing

    task = plan.tasks[0]
    shard = Shard(task.name, 0)
    lines = [seal(header(plan.fingerprint, task.name, 0, "r0.a1"))]
    for key in task.units(shard):
        reply = Reply(Outcome.OK, "4")
        record = CallRecord(key.sample, key.repeat, 0, "hash", reply, Timing(0.0, 1.0))
        lines.append(seal(encode(record)))
    path = folder.journal(shard, "r0.a1")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"".join(lines))


def test_few_units_need_few_replicas(tmp_path: Path, fake_slurm: FakeSlurm) -> None:
    """No more replicas than owed units are asked for; one replica is no array."""
    plan = make_plan(make_task(n_samples=1, n_shards=1))
    folder = write_run(tmp_path / "out" / "demo", plan)
    submission = submit(folder, fake_slurm, plan)
    assert submission.jobs[0].replicas == ("r0",)
    assert submission.jobs[0].elements == (submission.jobs[0].job_id,)


@pytest.mark.parametrize("expose", [True, False])
def test_a_program_is_helped_by_many_replicas(
    tmp_path: Path, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, *, expose: bool
) -> None:
    """Where the recipe lets replicas ask each other's servers, each one that is asked for is of use."""
    monkeypatch.setattr(Addition, "drives", True)
    plan = make_plan(make_task(n_samples=1, n_shards=1), serving=VllmServing(expose=expose))
    folder = write_run(tmp_path / "out" / "demo", plan)
    submission = submit(folder, fake_slurm, plan, replicas=3)
    assert submission.jobs[0].replicas == (("r0", "r1", "r2") if expose else ("r0",))


def test_many_replicas_are_several_arrays(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """Arrays are cut at MaxArraySize, and the gather waits for all of them."""
    fake_slurm.switch("hold")
    cluster = make_cluster(replicas=5)
    submission = submit(run_folder, fake_slurm, make_plan(), cluster, FAKE_MAX_ARRAY="2")
    *arrays, gather = submission.jobs
    assert [job.replicas for job in arrays] == [("r0", "r1"), ("r2", "r3"), ("r4",)]
    script = (run_folder.root / (gather.script or "")).read_text()
    assert f"afterany:{':'.join(job.job_id for job in arrays)}\n" in script


def test_what_may_run_at_once_holds_for_all_arrays(
    run_folder: RunFolder, fake_slurm: FakeSlurm
) -> None:
    """`array_parallelism` is shared out among the arrays of one submit."""
    fake_slurm.switch("hold")
    cluster = make_cluster(replicas=4, array_parallelism=3)
    jobs = submit(run_folder, fake_slurm, make_plan(), cluster, FAKE_MAX_ARRAY="2").jobs
    scripts = [(run_folder.root / (job.script or "")).read_text() for job in jobs[:2]]
    found = [re.search(r"--array=0-1%(\d)", script) for script in scripts]
    assert [match[1] for match in found if match] == ["1", "2"]


def test_slurms_refusal_is_shown(
    run_folder: RunFolder, fake_slurm: FakeSlurm, capfd: pytest.CaptureFixture[str]
) -> None:
    """sbatch's own words are the message; nothing is on record, nothing is printed."""
    fake_slurm.switch("refuse", "sbatch: error: invalid partition specified: nowhere")
    with pytest.raises(ClusterError, match="invalid partition specified: nowhere"):
        submit(run_folder, fake_slurm)
    assert read_jobs(run_folder) == []
    assert capfd.readouterr() == ("", "")


def test_without_slurm_the_way_out_is_named(
    run_folder: RunFolder, no_slurm: dict[str, str], clock: Clock
) -> None:
    """On a machine without Slurm the error names what works there."""
    with pytest.raises(ClusterError, match="no Slurm on this machine: sbatch") as caught:
        submit_run(run_folder, make_plan(), CLUSTER, clock=clock, env=no_slurm)
    assert "evalkit run" in (caught.value.hint or "")
    assert "cluster.executor: local" in (caught.value.hint or "")


def test_two_submits_at_once_are_refused(
    run_folder: RunFolder, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only one submit of a run works at a time."""
    monkeypatch.setattr("evalkit.cluster.submit.LOCK_WAIT_S", 0.1)
    run_folder.cluster.mkdir(parents=True)
    with (
        FileLock(run_folder.cluster / "submit.lock"),
        pytest.raises(ClusterError, match="another `evalkit submit`"),
    ):
        submit(run_folder, fake_slurm)


def test_cancel_stops_every_job_and_forgets_the_secrets(
    run_folder: RunFolder, fake_slurm: FakeSlurm
) -> None:
    """Array and gather end, the gather first; the secrets file goes; a second cancel does nothing."""
    submission = submit(run_folder, fake_slurm)
    worker_file(run_folder, "r0")
    cancelled = cancel_run(run_folder, clock=SYSTEM_CLOCK, env=fake_slurm.env)
    array, gather = (job.job_id for job in submission.jobs)
    assert fake_slurm.calls("scancel") == [[gather, array]]
    assert array in cancelled.text
    assert not (run_folder.root.parent / ".secrets").exists()
    status = run_status(run_folder, clock=SYSTEM_CLOCK, env=fake_slurm.env)
    assert (status.phase, status.is_over) == ("stopped", True)
    again = cancel_run(run_folder, clock=SYSTEM_CLOCK, env=fake_slurm.env)
    assert again.text == "nothing of this run was running or waiting"


def test_records_survive_a_torn_line(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """A line cut by a crash is not a job; an alien line is an error."""
    submit(run_folder, fake_slurm)
    jobs = read_jobs(run_folder)
    with run_folder.jobs.open("ab") as file:
        file.write(b'{"submission": 2, "ti')
    assert read_jobs(run_folder) == jobs
    run_folder.jobs.write_bytes(orjson.dumps({"hello": 1}) + b"\n")
    with pytest.raises(StoreError, match="a line is not a job"):
        read_jobs(run_folder)


def test_a_full_disk_names_the_job(run_folder: RunFolder, fake_slurm: FakeSlurm) -> None:
    """When a job cannot be recorded, the error names its id."""
    record = submit(run_folder, fake_slurm).jobs[0]
    run_folder.jobs.unlink()
    run_folder.jobs.mkdir()
    with pytest.raises(StoreError, match="cannot write") as caught:
        append_job(run_folder, record)
    assert record.job_id in (caught.value.hint or "")
