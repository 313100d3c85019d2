"""The development cluster itself: what it offers to other tests, and that it leaves nothing."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.slurm.conftest import SlurmCluster

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm_dev_cluster"
SLEEP_S = str(86400 + os.getpid())  # no other process on the machine sleeps for so long


def submit(cluster: SlurmCluster, output: Path, script: str, *options: str) -> str:
    wrap = ("sbatch", "--parsable", "--output", str(output), *options, "--wrap", script)
    return cluster.run(*wrap).strip()


def living_processes_of(folder: Path) -> list[str]:
    """Command lines of processes that name `folder` in arguments, environment or as working folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit() or "(zombie)" in (entry / "status").read_text():
                continue
            traces = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            traces += os.fsencode((entry / "cwd").readlink())
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # gone, or not even root may look at it
        if os.fsencode(folder) in traces:
            found.append((entry / "cmdline").read_text().replace("\0", " "))
    return found


def sleepers() -> list[str]:
    """Pids of the processes that `sleep SLEEP_S`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and SLEEP_S in (entry / "cmdline").read_text().split("\0"):
                found.append(entry.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def shows(cluster: SlurmCluster, argv: tuple[str, ...], lines: set[str]) -> bool:
    return set(cluster.run(*argv).splitlines()) == lines


def claimed(folder: Path) -> bool:
    claims = Path("/run/slurm-dev-cluster")
    return claims.is_dir() and any(link.readlink() == folder for link in claims.iterdir())


def test_nodes_are_idle_and_have_gpus(slurm_cluster: SlurmCluster) -> None:
    """Four nodes, idle, four GPUs each, in both partitions."""
    expected = {f"{node} idle gpu:4" for node in slurm_cluster.nodes}
    assert len(expected) == 4
    for partition in ("low", "high"):
        shown = ("sinfo", "-hNp", partition, "-o", "%N %T %G")
        slurm_cluster.wait_for(
            f"four idle nodes in {partition}",
            functools.partial(shows, slurm_cluster, shown, expected),
        )


def test_job_gets_the_gpus_it_asked_for(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    """--gres=gpu:2 gives two different CUDA_VISIBLE_DEVICES, and sacct ends at COMPLETED."""
    output = tmp_path / "out"
    job = submit(slurm_cluster, output, 'printf %s "$CUDA_VISIBLE_DEVICES"', "--gres=gpu:2")
    slurm_cluster.wait_for(
        "sacct: COMPLETED", lambda: slurm_cluster.job_states(job) == ["COMPLETED"]
    )
    devices = output.read_text().split(",")
    assert len(set(devices)) == 2
    assert set(devices) <= {"0", "1", "2", "3"}


def test_high_preempts_low_which_is_requeued(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    """A job in `high` takes the node of one in `low`, which runs again afterwards and completes."""
    place = ("--gres=gpu:4", "--nodelist", slurm_cluster.nodes[0])
    once = f'[ "${{SLURM_RESTART_COUNT:-0}}" -ge 1 ] || exec sleep {SLEEP_S}'
    low = submit(slurm_cluster, tmp_path / "low", once, "-p", "low", *place)
    slurm_cluster.wait_for("low runs", lambda: slurm_cluster.job_states(low) == ["RUNNING"])
    high = submit(slurm_cluster, tmp_path / "high", "true", "-p", "high", *place)
    slurm_cluster.wait_for("high done", lambda: slurm_cluster.job_states(high) == ["COMPLETED"])
    twice = ["PREEMPTED", "COMPLETED"]
    slurm_cluster.wait_for("low ran twice", lambda: slurm_cluster.job_states(low) == twice)


def test_preempt_signal_and_grace_time(
    launch_cluster: Callable[..., SlurmCluster], tmp_path: Path
) -> None:
    """With --preempt-signal a preempted job gets its own signal; --grace-time is the partition's."""
    cluster = launch_cluster(
        "--nodes", "1", "--gpus", "0", "--preempt-signal", "--grace-time", "30"
    )
    assert "GraceTime=30 " in cluster.run("scontrol", "show", "partition", "low")
    output = tmp_path / "low"
    trap = "trap 'echo caught USR2; exit 0' USR2; echo ready; sleep 600 & wait"
    low = submit(cluster, output, trap, "-p", "low", "--exclusive", "--signal=B:USR2@60")
    cluster.wait_for("the trap", lambda: output.exists() and "ready" in output.read_text())
    high = submit(cluster, tmp_path / "high", "true", "-p", "high", "--exclusive")
    cluster.wait_for("high done", lambda: cluster.job_states(high) == ["COMPLETED"])
    assert "caught USR2" in output.read_text(), cluster.job_states(low)
    cluster.script("stop")


def test_killed_node_can_be_started_again(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    """kill-node ends slurmd and steps but not the job's process; start-node brings the node back."""
    node = slurm_cluster.nodes[3]
    job = submit(slurm_cluster, tmp_path / "out", f"exec sleep {SLEEP_S}", "--nodelist", node)
    pid = slurm_cluster.wait_for("job's process", sleepers)[0]
    slurm_cluster.script("kill-node", "4")
    assert json.loads(slurm_cluster.script("status", "--json"))["pids"][node] is None
    assert sleepers() == [pid], "the process of the job must outlive its node"
    slurm_cluster.run("scancel", job)
    os.kill(int(pid), signal.SIGKILL)
    slurm_cluster.script("start-node", node)
    again = submit(slurm_cluster, tmp_path / "again", "true", "--nodelist", node)
    slurm_cluster.wait_for("a job on it", lambda: slurm_cluster.job_states(again) == ["COMPLETED"])


def test_node_down_and_back(slurm_cluster: SlurmCluster) -> None:
    """node-down is what sinfo shows; start-node ends it."""
    node = slurm_cluster.nodes[2]
    shown = ("sinfo", "-hNp", "low", "-n", node, "-o", "%T")
    slurm_cluster.script("node-down", node)
    assert slurm_cluster.run(*shown).strip() == "down"
    slurm_cluster.script("start-node", "3")
    # a job of another test may still be leaving it
    slurm_cluster.wait_for("it is idle", functools.partial(shows, slurm_cluster, shown, {"idle"}))


def test_stop_leaves_nothing(
    slurm_cluster: SlurmCluster, launch_cluster: Callable[..., SlurmCluster], tmp_path: Path
) -> None:
    """A second cluster shares nothing with the first; stop removes its processes, folder, claim."""
    second = launch_cluster("--nodes", "1", "--gpus", "1")
    assert not set(second.nodes) & set(slurm_cluster.nodes)
    assert second.run("sinfo", "-hNp", "low", "-o", "%N").split() == list(second.nodes)
    orphan = f"setsid nohup sleep {SLEEP_S} >/dev/null 2>&1 & exec sleep {SLEEP_S}"
    submit(second, tmp_path / "out", orphan, "--gres=gpu:1")
    second.wait_for("both processes of the job", lambda: len(sleepers()) == 2)
    second.script("stop")
    assert living_processes_of(second.dir) == []
    assert sleepers() == []
    assert not second.dir.exists()
    assert not claimed(second.dir)
    assert "nothing to stop" in second.script("stop")
    assert len(slurm_cluster.run("sinfo", "-hNp", "low").splitlines()) == 4
    assert living_processes_of(slurm_cluster.dir), "the check must see a cluster that lives"


def test_failed_start_names_the_daemon_and_cleans_up(tmp_path: Path) -> None:
    """slurmdbd that ends at once: exit code 1, its last words shown, nothing left."""
    fake = tmp_path / "slurmdbd"
    fake.write_text("#!/bin/sh\necho no database today >&2\nexit 3\n")
    fake.chmod(0o755)
    folder = Path(tempfile.mkdtemp(prefix="evalkit-slurm-"))
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    argv = [sys.executable, str(SCRIPT), "start", "--nodes", "1", "--dir", str(folder)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert "slurmdbd ended" in done.stderr
    assert "no database today" in done.stderr
    assert living_processes_of(folder) == []
    assert not folder.exists()
    assert not claimed(folder)


def test_interrupted_start_cleans_up(slurm_cluster: SlurmCluster) -> None:
    """Ctrl-C in the middle of a start: exit code 130, nothing left."""
    folder = Path(tempfile.mkdtemp(prefix="evalkit-slurm-"))
    argv = [sys.executable, str(SCRIPT), "start", "--nodes", "1", "--dir", str(folder)]
    with subprocess.Popen(argv, start_new_session=True) as process:
        slurm_cluster.wait_for("mariadbd", (folder / "run/mariadbd.pid").exists)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
    assert living_processes_of(folder) == []
    assert not folder.exists()
    assert not claimed(folder)
