"""The faults that a real Slurm, its nodes and its users do to a run."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.campaign.slurm_stage import SlurmStage

Action: TypeAlias = "Callable[[SlurmStage], None]"


@dataclass(frozen=True)
class SlurmFault:
    """One kind of fault."""

    name: str
    inject: Action
    stops: bool = True
    """A server has to start again before the replica goes on."""
    shares: bool = False
    """An attempt lives on beside the next one."""
    slow: bool = False
    """Takes minutes."""


SLURM_CATALOGUE: dict[str, SlurmFault] = {}


def fault(name: str, **facts: bool) -> Callable[[Action], Action]:
    """Enter a function into the catalogue."""

    def enter(inject: Action) -> Action:
        SLURM_CATALOGUE[name] = SlurmFault(name, inject, **facts)
        return inject

    return enter


@fault("slurm: preempted by an urgent job")
def preempt(stage: SlurmStage) -> None:
    """The whole node goes to a job of the partition above, for some seconds."""
    _, node = stage.running()
    wants = ("--partition", "high", "--nodelist", node, "--cpus-per-task", "4", "--mem", "100MB")
    job = stage.cluster.run(
        "sbatch", "--parsable", *wants, "--output", "/dev/null", "--wrap", "sleep 2"
    ).strip()
    stage.wait(lambda: _state(stage, job) in ("RUNNING", ""), "the urgent job runs")


@fault("slurm: scontrol requeue")
def requeue(stage: SlurmStage) -> None:
    """An administrator requeues the job."""
    job, _ = stage.running()
    stage.cluster.run("scontrol", "requeue", job)


@fault("slurm: USR2, as before a time limit")
def warn(stage: SlurmStage) -> None:
    """The signal that announces a time limit."""
    job, _ = stage.running()
    stage.cluster.run("scancel", "--signal", "USR2", job)


@fault("slurm: scancel of an element, resume")
def cancel_element(stage: SlurmStage) -> None:
    """Somebody cancels one replica by hand."""
    job, _ = stage.running()
    stage.cluster.run("scancel", job)
    stage.wait(lambda: job not in stage.jobs(), "the element is gone")


@fault("evalkit cancel, resume")
def cancel(stage: SlurmStage) -> None:
    """The user cancels the run, and thinks better of it."""
    stage.evalkit("cancel", stage.folder.root)
    stage.wait(lambda: not stage.jobs(), "no job is left")
    stage.wait(lambda: not stage.server_pids(), "no server is left")


@fault("slurm: node dies", shares=True)
def kill_node(stage: SlurmStage) -> None:
    """The node's daemons are gone; what ran there runs on, and Slurm starts the job elsewhere."""
    job, node = stage.running()
    stage.cluster.script("kill-node", node)
    stage.dead_nodes.add(node)
    stage.wait(lambda: stage.jobs().get(job, ("", ""))[1] != node, "Slurm takes the job back")


@fault("replica: joins late (evalkit submit --replicas)", stops=False)
def join(stage: SlurmStage) -> None:
    """Capacity is added to the running run."""
    before = len(stage.replicas())
    stage.submit("--replicas", "1")
    if stage.owed():
        stage.wait(lambda: len(stage.replicas()) > before or not stage.owed(), "one more replica")


@fault("worker: SIGKILL, resume")
def kill_worker(stage: SlurmStage) -> None:
    """The kernel kills the job's process: Slurm calls it failed."""
    job, _ = stage.running()
    pids = stage.wait(lambda: stage.processes("SLURM_JOB_ID", "submitit.core._submit"), "a worker")
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).name().startswith("python"):
                os.kill(pid, signal.SIGKILL)
    stage.wait(lambda: stage.jobs().get(job, ("", ""))[0] != "RUNNING", "the job ends")


@fault("server: kill -9")
def kill_server(stage: SlurmStage) -> None:
    """The server is gone; the worker starts another in the same job."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(stage.wait(stage.server_pids, "a server")[-1], signal.SIGKILL)


@fault("server: SIGSTOP (hang)", slow=True)
def stop_server(stage: SlurmStage) -> None:
    """The whole server freezes; the watchdog gives its probe a minute."""
    for pid in stage.wait(stage.server_pids, "a server"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)


@fault("slurm: time limit", slow=True)
def time_limit(stage: SlurmStage) -> None:
    """The limit comes while it works."""
    job, _ = stage.running()
    stage.cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=2")
    stage.wait(lambda: stage.jobs().get(job, ("", ""))[0] != "RUNNING", "the limit comes", 200)


def _state(stage: SlurmStage, job: str) -> str:
    return stage.cluster.run("squeue", "-h", "-j", job, "-o", "%T").strip()
