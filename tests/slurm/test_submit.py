"""Submit, status, requeue and cancel against a real Slurm."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.cancel import cancel_run
from evalkit.cluster.jobs import read_jobs
from evalkit.cluster.logs import Wanted, follow
from evalkit.cluster.script import render_scripts
from evalkit.cluster.slurm import SlurmCommands
from evalkit.cluster.status import run_status
from evalkit.cluster.submit import submit_run
from evalkit.errors import ClusterError
from evalkit.recipe.serving import CommandServing, VllmServing
from tests.slurm.conftest import FIRST
from tests.unit.cluster.builders import make_cluster, make_plan, make_task, write_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from evalkit.cluster.status import RunStatus
    from evalkit.cluster.submit import Submission
    from evalkit.plan.model import Plan
    from evalkit.store.layout import RunFolder
    from tests.slurm.conftest import SlurmCluster

REPOSITORY = Path(__file__).parents[2]
STUB = REPOSITORY / "tests" / "unit" / "cluster" / "stub_worker"
SECRET = "hunter2-and-more"
STUBBED = {
    "time_min": 5,
    "signal_delay_s": 60,
    "mem": "200MB",
    "setup": [f"export PYTHONPATH={STUB}"],
    "gather": {"mem": "500MB"},
}
SERVER = [
    *(sys.executable, "-m", "tests.faults.fault_server", "--port", "{port}"),
    *("--api-key", "{api_key}", "--model", "{served_model_name}"),
]


class Run:
    """One run on the cluster, and what its tests ask of it."""

    def __init__(self, cluster: SlurmCluster, folder: RunFolder, plan: Plan) -> None:
        self.cluster = cluster
        self.folder = folder
        self.plan = plan
        self.env = {**cluster.env, "MY_KEY": SECRET}

    def submit(self, **changes: Any) -> Submission:
        settings = make_cluster(**{**STUBBED, **changes})
        return submit_run(self.folder, self.plan, settings, clock=SYSTEM_CLOCK, env=self.env)

    def status(self) -> RunStatus:
        return run_status(self.folder, clock=SYSTEM_CLOCK, env=self.env)

    def cancel(self) -> str:
        return cancel_run(self.folder, clock=SYSTEM_CLOCK, env=self.env).text

    def worker(self, replica: str = "r0", number: int = 0) -> dict[str, Any]:
        """What the stub worker of an attempt wrote."""
        path = self.folder.root / f"worker-{replica}-{number}.json"
        self.cluster.wait_for(f"{path.name} exists", path.exists)
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def drains(self) -> list[str]:
        path = self.folder.root / "drains"
        return path.read_text().split() if path.exists() else []


@pytest.fixture
def make_run(slurm_cluster: SlurmCluster, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Runs on the shared cluster; their jobs are gone after the test."""
    runs: list[Run] = []

    def make(plan: Plan | None = None, name: str = "demo") -> Run:
        plan = plan or make_plan(serving=VllmServing(gpus=1, secrets=("MY_KEY",)))
        runs.append(Run(slurm_cluster, write_run(tmp_path / "out" / name, plan), plan))
        return runs[-1]

    yield make
    for run in runs:
        run.cancel()
        slurm_cluster.wait_for("the run is over", lambda run=run: _is_gone(slurm_cluster, run))


def _is_gone(cluster: SlurmCluster, run: Run) -> bool:
    ids = {job.job_id for job in read_jobs(run.folder)}
    return not ids.intersection(cluster.run("squeue", "-h", "-o", "%A").split())


@pytest.mark.parametrize("name", ["demo", "a'; echo foo", 'a"=0" é'])
def test_the_dry_run_is_what_slurm_ran(make_run: Callable[..., Run], name: str) -> None:
    """Scripts equal the dry run's, run under any name of folder, and hold no secret."""
    run = make_run(name=name)
    cluster = make_cluster(**STUBBED, replicas=2, cpus_per_task=1)
    kill_wait_s = SlurmCommands(run.env).kill_wait_s()
    shown = render_scripts(
        run.folder, run.plan, cluster, max_array_size=1001, kill_wait_s=kill_wait_s
    )
    jobs = run.submit(replicas=2, cpus_per_task=1).jobs
    written = [(run.folder.root / (job.script or "")).read_text() for job in jobs]
    assert written[0] == shown[0].text
    assert written[1] == shown[1].text.replace("REPLICAS_JOB_ID", jobs[0].job_id)
    seen = [run.worker("r0"), run.worker("r1")]
    assert [info["job_id"] for info in seen] == [f"{jobs[0].job_id}_0", f"{jobs[0].job_id}_1"]
    assert all(info["gpus"] is not None and len(info["gpus"]) == 1 for info in seen)
    assert all(info["ends"] > SYSTEM_CLOCK.wall() for info in seen)
    assert all(info["env"]["MY_KEY"] == SECRET for info in seen)
    assert set(seen[0]["nodes"]) <= set(run.cluster.nodes)
    for path in run.folder.root.glob("worker-*"):
        path.unlink()  # the stub wrote its environment there
    files = [path for path in run.folder.root.rglob("*") if path.is_file()]
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    controller = run.cluster.run("scontrol", "show", "job", f"{jobs[0].job_id}_0")
    assert SECRET not in controller


def test_status_follows_the_jobs(make_run: Callable[..., Run]) -> None:
    """Running jobs show node and state; the gather waits; a second submit adds nothing."""
    run = make_run()
    submission = run.submit()
    assert run.submit().kind == "already_running"
    run.worker()
    status = run.status()
    replica, gather = status.jobs
    assert (replica.state, gather.state, gather.reason) == ("running", "pending", "Dependency")
    assert replica.nodes in run.cluster.nodes
    assert (status.phase, status.is_over) == ("starting", False)
    assert [job.job_id for job in submission.jobs] == [replica.job_id, gather.job_id]


def test_a_drain_before_the_limit_requeues(make_run: Callable[..., Run]) -> None:
    """USR2 to the job drains the worker, requeues, and the next attempt knows it is the second."""
    run = make_run()
    job = run.submit(replicas=2).jobs[0].job_id
    run.worker("r0")
    run.worker("r1")
    run.cluster.run("scancel", "--signal", "USR2", f"{job}_0")
    again = run.worker("r0", 1)
    assert (again["restart_count"], again["job_id"]) == (1, f"{job}_0")
    assert run.drains() == ["SIGUSR2"]
    assert run.status().jobs[0].state == "running"
    run.cluster.wait_for_states(f"{job}_0", "REQUEUED", of=FIRST)


def test_an_administrators_requeue_is_survived(make_run: Callable[..., Run]) -> None:
    """`scontrol requeue` terminates the attempt, which drains, and starts the next one."""
    run = make_run()
    job = run.submit().jobs[0].job_id
    run.worker()
    run.cluster.run("scontrol", "requeue", job)
    assert run.worker("r0", 1)["restart_count"] == 1
    assert run.drains() == ["SIGTERM"]


def test_cancel_ends_array_and_gather(make_run: Callable[..., Run]) -> None:
    """All jobs end as cancelled, the worker is told to drain, and the run can go on later."""
    run = make_run()
    run.submit(replicas=2)
    run.worker("r0")
    run.worker("r1")
    assert run.cancel().startswith("stopped jobs ")
    run.cluster.wait_for("all jobs are over", lambda: run.status().is_over)
    states = {job.state for job in run.status().jobs}
    assert states == {"cancelled"}
    assert run.drains() == ["SIGTERM", "SIGTERM"]
    assert not (run.folder.root.parent / ".secrets").exists()
    assert run.submit().kind == "submitted"


def test_slurms_own_words_are_shown(make_run: Callable[..., Run]) -> None:
    """An invalid partition is refused with sbatch's message, and nothing is recorded."""
    run = make_run()
    with pytest.raises(ClusterError, match="invalid partition specified: nowhere"):
        run.submit(partition="nowhere")
    assert read_jobs(run.folder) == []


def test_a_job_that_cannot_import_evalkit_shows_where(make_run: Callable[..., Run]) -> None:
    """A job that dies before its worker says anything leads to its log."""
    run = make_run()
    run.submit(python="/nonexistent/python", max_failures=0)
    status = run.cluster.wait_for(
        "the job fails", lambda: (s := run.status()).phase == "stopped" and s
    )
    assert "failed" in status.message
    (log,) = [job.log for job in status.jobs if job.role == "replicas"]
    assert log is not None
    assert log in status.message
    assert "/nonexistent/python" in Path(log).read_text()


def test_a_replica_of_two_nodes_has_one_worker(make_run: Callable[..., Run]) -> None:
    """One worker starts, on the first of its nodes, with the cores that were asked for."""
    run = make_run(make_plan(serving=VllmServing(gpus=2)))
    run.submit(nodes=2, cpus_per_task=2, mem="400MB")
    info = run.worker()
    assert len(info["nodes"]) == 2
    assert info["env"]["SLURM_NTASKS"] == "1"
    assert info["env"]["SLURM_CPUS_PER_TASK"] == "2"
    assert info["gpus"] == "0"
    assert run.status().jobs[0].state == "running"


def test_a_site_without_requeue_is_told_so(make_run: Callable[..., Run]) -> None:
    """Where jobs may not be requeued a drained job ends, and its log says how to go on."""
    run = make_run()
    job = run.submit(sbatch={"no-requeue": True}).jobs[0].job_id
    run.worker()
    run.cluster.run("scancel", "--signal", "USR2", job)
    status = run.cluster.wait_for("it ends", lambda: (s := run.status()).phase == "stopped" and s)
    assert run.drains() == ["SIGUSR2"]
    (log,) = [job.log for job in status.jobs if job.role == "replicas"]
    assert log is not None
    assert "r0 is not requeued: its settings or the site's forbid requeue" in Path(log).read_text()


@pytest.mark.parametrize(("grace_time", "signals"), [("0", None), ("20", ["SIGUSR2"])])
def test_preemption_with_a_warning_is_no_failure(
    warning_cluster: SlurmCluster, tmp_path: Path, grace_time: str, signals: list[str] | None
) -> None:
    """A preempted job drains, is requeued once, leaves no failed result, and goes on.

    Without a grace time USR2 and TERM come together, and either may be seen first.
    """
    cluster = warning_cluster
    cluster.run("scontrol", "update", "PartitionName=low", f"GraceTime={grace_time}")
    plan = make_plan(serving=VllmServing(gpus=1, secrets=("MY_KEY",)))
    run = Run(cluster, write_run(tmp_path / "out" / "demo", plan), plan)
    job = run.submit(partition="low").jobs[0].job_id
    run.worker()
    urgent = cluster.run(
        *("sbatch", "--parsable", "--partition", "high", "--gres", "gpu:1", "--mem", "100MB"),
        *("--output", "/dev/null", "--wrap", "sleep 300"),
    ).strip()
    cluster.wait_for(
        "the urgent job runs",
        lambda: cluster.run("squeue", "-h", "-j", urgent, "-o", "%T").strip() == "RUNNING",
    )
    assert run.drains()
    assert signals in (None, run.drains())
    cluster.wait_for(
        "the job is back in the queue",
        lambda: ((s := run.status()).phase, s.jobs[0].state) == ("waiting", "pending"),
    )
    assert list(run.folder.cluster.glob("*_result.pkl")) == []
    cluster.run("scancel", urgent)
    assert run.worker("r0", 1)["restart_count"] == 1
    assert job in run.cancel()


def test_a_run_from_submit_to_results(make_run: Callable[..., Run]) -> None:
    """Two replicas serve, work and end; the gather writes results; nothing is owed any more."""
    serving = CommandServing(
        kind="command", command=tuple(SERVER), health_path="/health", gpus=1, max_model_len=4096
    )
    plan = make_plan(make_task(n_samples=40, n_shards=4), serving=serving)
    run = make_run(plan)
    run.submit(replicas=2, time_min=10, mem="600MB", setup=[f"export PYTHONPATH={REPOSITORY}"])
    status = run.cluster.wait_for("the run is over", lambda: (s := run.status()).is_over and s)
    assert (status.phase, status.done, status.tasks[0].outcomes) == ("complete", 40, {"ok": 40})
    assert {job.state for job in status.jobs} == {"done"}
    results = json.loads(run.folder.results("sums").read_bytes())
    assert results["complete"] is True
    assert run.submit().kind == "nothing_owed"
    lines = [str(line) for line in follow(run.folder, Wanted(server=True), follow=False)]
    assert any(line.startswith("r0.a1 worker| ") for line in lines)
