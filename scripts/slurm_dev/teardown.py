"""The end of a cluster: jobs, daemons, what they left behind, the folder, the claim.

Works on half a cluster (a start that failed or was interrupted) and on one whose folder somebody
has removed by hand, and can be repeated.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
from typing import TYPE_CHECKING

from slurm_dev.cluster import CLAIMS, Cluster, ClusterError, daemon_pid, load
from slurm_dev.config import KILL_WAIT_S
from slurm_dev.daemons import ask
from slurm_dev.processes import cluster_processes, end, poll

if TYPE_CHECKING:
    from pathlib import Path


def tear_down(root: Path, base: int) -> None:
    """Jobs, daemons, left-over processes, folder, claim: in this order, so that it can be repeated."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    name = f"dev{base}"
    if (root / "cluster.json").exists():
        cluster = load(root)
        cancel_jobs(cluster)
        # Users of a daemon before the daemon. A mariadbd that is still starting ignores TERM;
        # its data go anyway.
        stages = (((*cluster.node_names, "slurmctld"), 10), (("slurmdbd",), 10))
        for daemons, patience_s in (*stages, (("mariadbd", "munged"), 3)):
            pids = [pid for pid in (daemon_pid(cluster, daemon) for daemon in daemons) if pid]
            end(pids, patience_s)
    poll(lambda: not kill_leftovers(root, name), 20)
    left = cluster_processes(root, name)
    if left:
        raise ClusterError(f"processes of {root} survive SIGKILL: {left}. Run stop again later.")
    shutil.rmtree(root, ignore_errors=True)
    if root.exists():
        raise ClusterError(
            f"{root} cannot be removed; its processes have ended. Remove it by hand."
        )
    (CLAIMS / str(base)).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty: other clusters run
        CLAIMS.rmdir()


def cancel_jobs(cluster: Cluster) -> None:
    """Cancel all jobs and wait for KillWait to do its work; the rest is left to SIGKILL."""
    if daemon_pid(cluster, "slurmctld") is None:
        return
    jobs = (ask(cluster, "squeue", "-h", "-o", "%A", limit_s=10) or "").split()
    if jobs:
        ask(cluster, "scancel", *sorted(set(jobs)))
        queue = ("squeue", "-h", "-o", "%A")
        poll(lambda: not (ask(cluster, *queue, limit_s=10) or "").split(), KILL_WAIT_S + 7)


def kill_leftovers(root: Path, name: str) -> list[int]:
    """One round of SIGKILL over what is left, such as processes that outlived their job."""
    left = cluster_processes(root, name)
    end(left, 0)
    return left
