"""Replicas as processes of this machine: GPUs, signals, Ctrl-C, cancel."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.cancel import cancel_run
from evalkit.cluster.jobs import JobRecord, append_job, read_jobs
from evalkit.cluster.local import assign_gpus, visible_gpus
from evalkit.cluster.processes import find_process, started_at
from evalkit.cluster.status import run_status
from evalkit.cluster.submit import submit_run
from evalkit.errors import ClusterError
from evalkit.plan.model import Shard
from tests.unit.cluster.builders import make_cluster, make_plan, write_json
from tests.unit.cluster.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evalkit.cluster.submit import Submission
    from evalkit.store.layout import RunFolder

REPOSITORY = Path(__file__).parents[3]
STUB = Path(__file__).with_name("stub_worker")
ENV = {**os.environ, "PYTHONPATH": f"{STUB}:{REPOSITORY}", "CUDA_VISIBLE_DEVICES": "4,5,6,7"}


def submit(folder: RunFolder, **changes: Any) -> Submission:
    settings = {"executor": "local", "replicas": 2, "signal_delay_s": 60, "time_min": 10}
    cluster = make_cluster(**{**settings, **changes})
    return submit_run(folder, make_plan(), cluster, clock=SYSTEM_CLOCK, env=ENV)


@pytest.fixture
def local_run(run_folder: RunFolder) -> Iterator[RunFolder]:
    """A run whose processes are gone after the test."""
    yield run_folder
    cancel_run(run_folder, clock=SYSTEM_CLOCK, env=ENV, wait_s=1)


def record(folder: RunFolder, **changes: Any) -> None:
    """A local job of one replica on record."""
    values = {
        "submission": 1,
        "time": 0.0,
        "host": socket.gethostname(),
        "executor": "local",
        "name": "evalkit-demo-808d8c9a",
        "role": "replicas",
        "replicas": ("r0",),
        "is_array": False,
        "script": None,
    }
    append_job(folder, JobRecord(**{**values, **changes}))


def worker_info(folder: RunFolder, replica: str, number: int = 0) -> dict[str, Any]:
    path = folder.root / f"worker-{replica}-{number}.json"
    wait_for(f"{path.name} exists", path.exists)
    info: dict[str, Any] = json.loads(path.read_text())
    return info


def drains(folder: RunFolder) -> list[str]:
    path = folder.root / "drains"
    return path.read_text().split() if path.exists() else []


def test_visible_gpus(tmp_path: Path) -> None:
    """CUDA_VISIBLE_DEVICES decides where it is set, else the device files; order is by number."""
    for name in ("nvidia10", "nvidia2", "nvidia0", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_gpus({}, tmp_path) == ["0", "2", "10"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "3,GPU-abc"}, tmp_path) == ["3", "GPU-abc"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == []
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}, tmp_path) == []


def test_no_gpu_belongs_to_two_replicas() -> None:
    """Each replica gets its own GPUs; too few are an error; none at all means CPU."""
    assert assign_gpus(["0", "1", "2", "3", "4"], 2, 2) == ["0,1", "2,3"]
    assert assign_gpus([], 2, 4) == ["", ""]
    assert assign_gpus(["0"], 2, 0) == ["", ""]
    with pytest.raises(ClusterError, match="2 replicas of 1 GPUs need 2; here are 1"):
        assign_gpus(["0"], 2, 1)


def test_replicas_run_as_processes_with_their_own_gpus(local_run: RunFolder) -> None:
    """Two replicas and a waiting gather live in sessions of their own."""
    submission = submit(local_run)
    assert [job.role for job in submission.jobs] == ["replicas", "replicas", "gather"]
    infos = [worker_info(local_run, replica) for replica in ("r0", "r1")]
    assert [info["gpus"] for info in infos] == ["4", "5"]
    assert [info["job_id"] for info in infos] == [job.job_id for job in submission.jobs[:2]]
    assert infos[0]["executor"] == "local"
    assert 0 < infos[0]["ends"] - SYSTEM_CLOCK.wall() < 601
    pids = [int(job.job_id) for job in submission.jobs]
    assert [os.getsid(pid) for pid in pids] == pids
    status = run_status(local_run, clock=SYSTEM_CLOCK, env=ENV)
    assert [job.state for job in status.jobs] == ["running"] * 3
    assert submit(local_run).kind == "already_running"


def test_cancel_drains_and_ends_everything(local_run: RunFolder) -> None:
    """Every worker is told to drain, and no process is left."""
    pids = [int(job.job_id) for job in submit(local_run).jobs]
    children = [
        child
        for replica, pid in zip(("r0", "r1"), pids, strict=False)
        for child in worker_info(local_run, replica) and psutil.Process(pid).children()
    ]
    cancelled = cancel_run(local_run, clock=SYSTEM_CLOCK, env=ENV)
    assert cancelled.killed == ()
    assert drains(local_run) == ["SIGTERM", "SIGTERM"]
    assert "stopped processes" in cancelled.text
    gone, alive = psutil.wait_procs(children, timeout=60)
    assert (len(gone), alive) == (2, [])
    assert run_status(local_run, clock=SYSTEM_CLOCK, env=ENV).is_over


def test_a_drain_by_usr2_starts_the_next_attempt(local_run: RunFolder) -> None:
    """What submitit sends at the time limit drains the worker and starts it again."""
    submission = submit(local_run, replicas=1)
    worker_info(local_run, "r0")
    (task,) = psutil.Process(int(submission.jobs[0].job_id)).children()
    task.send_signal(signal.SIGUSR2)
    assert worker_info(local_run, "r0", 1)["job_id"] == submission.jobs[0].job_id
    assert drains(local_run) == ["SIGUSR2"]


def test_a_worker_that_fails_ends_its_job(local_run: RunFolder) -> None:
    """The worker's exit code is the job's; the job's log is where status says."""
    submission = submit(local_run, replicas=1)
    worker_info(local_run, "r0")
    (local_run.root / "release").write_text("3")
    first = submission.jobs[0]
    wait_for("the job ends", lambda: find_process(int(first.job_id), first.started) is None)
    status = run_status(local_run, clock=SYSTEM_CLOCK, env=ENV)
    assert status.jobs[0].state == "failed"
    assert Path(status.jobs[0].log or "").is_file()


def test_a_setup_line_that_fails_is_found(local_run: RunFolder) -> None:
    """A job that ends before its worker exists leaves its words in local.log."""
    submission = submit(local_run, replicas=1, setup=["echo no such module >&2; exit 3"])
    log = local_run.cluster / "local.log"
    wait_for("the setup's words", lambda: "no such module" in log.read_text())
    first = submission.jobs[0]
    wait_for("the job ends", lambda: find_process(int(first.job_id), first.started) is None)


def test_a_process_id_that_was_used_again_is_not_ours() -> None:
    """Only the recorded start time makes a process ours."""
    mine = os.getpid()
    started = started_at(mine)
    assert find_process(mine, started) is not None
    assert find_process(mine, started - 100) is None
    assert find_process(mine, None) is None


def test_processes_elsewhere_are_not_touched(run_folder: RunFolder) -> None:
    """A local run that reports from another machine is alive, and is cancelled there."""
    record(run_folder, host="elsewhere", job_id=str(os.getpid()), started=started_at(os.getpid()))
    assert run_status(run_folder, clock=SYSTEM_CLOCK, env=ENV).jobs[0].reason == (
        "its processes can be seen only on elsewhere"
    )
    report = {"replica": "r0", "attempt": 1, "state": "ready", "host": "elsewhere", "pid": 1}
    now = SYSTEM_CLOCK.wall()
    times = {"heartbeat": now, "started": now, "job_id": "1"}
    write_json(run_folder.replica("r0"), {**report, **times})
    assert submit(run_folder).kind == "already_running"
    with pytest.raises(ClusterError, match="the run's processes are on elsewhere"):
        cancel_run(run_folder, clock=SYSTEM_CLOCK, env=ENV)


def test_a_worker_that_does_not_end_is_killed(local_run: RunFolder) -> None:
    """After the time to drain the whole tree is killed, and named."""
    (local_run.root / "stubborn").touch()
    pid = int(submit(local_run, replicas=1).jobs[0].job_id)
    worker_info(local_run, "r0")
    tasks = psutil.Process(pid).children()
    assert cancel_run(local_run, clock=SYSTEM_CLOCK, env=ENV, wait_s=1).killed == (pid,)
    assert psutil.wait_procs(tasks, timeout=60)[1] == []


def test_too_few_gpus_start_nothing(run_folder: RunFolder) -> None:
    """The error comes before the first process."""
    with pytest.raises(ClusterError, match="here are 4"):
        submit(run_folder, replicas=5)
    assert read_jobs(run_folder) == []


def test_an_ended_process_is_over(run_folder: RunFolder) -> None:
    """A recorded process that is gone lives no more."""
    record(run_folder, job_id=str(2**22 + 1), started=1.0)
    status = run_status(run_folder, clock=SYSTEM_CLOCK, env=ENV)
    assert (status.jobs[0].state, status.is_over) == ("failed", True)
    assert "its process ended without a word" in status.message


@pytest.mark.parametrize(
    ("last", "phase", "words"),
    [
        ("ready", "stopped", "killed while it was ready"),
        ("loading", "stopped", "killed while it was loading"),
        ("interrupted", "stopped", "was cancelled (interrupted)"),
        ("failed", "failed", "r0 failed: no memory"),
        ("done", "stopped", "no job is left"),
    ],
)
def test_a_process_that_is_gone_is_over_at_once(
    run_folder: RunFolder, last: str, phase: str, words: str
) -> None:
    """On its own machine a dead process is dead, however fresh its heartbeat is."""
    now = SYSTEM_CLOCK.wall()
    gone = 2**22 + 1
    record(run_folder, job_id=str(gone), started=1.0, time=now - 10)
    report = {
        "replica": "r0",
        "attempt": 1,
        "state": last,
        "host": socket.gethostname(),
        "pid": gone,
        "job_id": str(gone),
        "heartbeat": now,
        "started": now - 9,
        "error": "no memory" if last == "failed" else None,
        "tasks": {"sums": {"done": 4, "rate_per_s": 2.0}},
    }
    write_json(run_folder.replica("r0"), report)
    status = run_status(run_folder, clock=SYSTEM_CLOCK, env=ENV)
    assert (status.phase, status.is_over) == (phase, True)
    assert words in status.message
    assert status.rate_per_s is None
    assert status.replicas[0].state == (
        last if last in ("interrupted", "failed", "done") else "ended"
    )


@pytest.fixture
def orphan(run_folder: RunFolder) -> Iterator[subprocess.Popen[str]]:
    """A worker that works on although its controller, the job on record, is gone. It ends on a TERM."""
    code = "import signal; print('up', flush=True); signal.sigwait([signal.SIGTERM])"
    blocked = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); {code}"
    argv = [sys.executable, "-c", blocked]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        speak(run_folder, process.pid)
        yield process
        process.kill()


GONE = str(2**22 + 1)


def speak(folder: RunFolder, pid: int, **changes: Any) -> None:
    """Put a job whose controller is gone on record, and the report of its worker."""
    now = SYSTEM_CLOCK.wall()
    record(folder, job_id=GONE, started=1.0, time=now - 10, gpus="4")
    report = {"replica": "r0", "attempt": 1, "state": "ready", "host": socket.gethostname()}
    report |= {"pid": pid, "heartbeat": now, "started": now, "job_id": GONE, **changes}
    write_json(folder.replica("r0"), report)


def test_a_worker_outlives_its_controller(
    run_folder: RunFolder, orphan: subprocess.Popen[str]
) -> None:
    """While the worker's own process exists the run lives, also when it has not spoken for long: its
    GPUs are not handed out again."""
    assert run_status(run_folder, clock=SYSTEM_CLOCK, env=ENV).phase == "running"
    speak(run_folder, orphan.pid, heartbeat=0.0)
    assert run_status(run_folder, clock=SYSTEM_CLOCK, env=ENV).phase == "silent"
    lease = run_folder.lease(Shard("sums", 0))
    lease.parent.mkdir(parents=True)
    lease.write_text("pid=1\nhost=elsewhere\n")
    assert submit(run_folder).kind == "already_running"
    assert lease.exists()
    with pytest.raises(ClusterError, match="of which 3 are free"):
        submit_run(
            run_folder,
            make_plan(),
            make_cluster(executor="local", signal_delay_s=60, time_min=10),
            clock=SYSTEM_CLOCK,
            env=ENV,
            replicas=4,
        )


def test_a_cancel_ends_a_worker_without_a_controller(
    run_folder: RunFolder, orphan: subprocess.Popen[str]
) -> None:
    """It is told itself, and seen to end."""
    done = cancel_run(run_folder, clock=SYSTEM_CLOCK, env=ENV, wait_s=30)
    assert GONE in done.text
    assert done.killed == ()
    assert orphan.wait(60) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"started": 1000.0},  # this process is younger, so it has only got the id of that worker
        {"host": "elsewhere"},
        {"job_id": "1"},
        {"state": "done"},
    ],
    ids=["another process", "another machine", "another job", "ended"],
)
def test_a_process_that_is_no_worker_is_left_alone(
    run_folder: RunFolder, orphan: subprocess.Popen[str], changes: dict[str, Any]
) -> None:
    """Only the process that wrote the report of this very job is taken for its worker."""
    speak(run_folder, orphan.pid, **changes)
    cancel_run(run_folder, clock=SYSTEM_CLOCK, env=ENV, wait_s=1)
    assert orphan.poll() is None
