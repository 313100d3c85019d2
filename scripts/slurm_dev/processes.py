"""Which processes are a cluster's, and how they end.

The danger: other people's processes. Pids are reused, a user's shell names the cluster in its
environment, and an orphan of a job does not: nothing is signalled that `belongs` or a pid file
with a start time does not prove to be the cluster's.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MARK = (
    "SLURM_DEV_CLUSTER_DIR"  # in the environment of every daemon, never in that of a user's shell
)


def stat_fields(pid: int) -> list[str]:
    """State, parent, ..., start time (index 19) of /proc/<pid>/stat; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def alive(pid: int) -> bool:
    """A zombie is dead: it holds nothing, and its parent decides when it is gone."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    fields = stat_fields(pid)
    return bool(fields) and fields[0] not in "ZX"


def all_dead(pids: Sequence[int]) -> bool:
    return not any(map(alive, pids))


def poll(probe: Callable[[], bool], limit_s: float) -> bool:
    """Ask `probe` every 0.1 s; True as soon as it is, False when `limit_s` seconds have passed."""
    deadline = time.monotonic() + limit_s
    while not probe():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def end(pids: Sequence[int], patience_s: float) -> None:
    """TERM, then after `patience_s` KILL, and return when all are dead (or KILL had 10 s)."""
    for number, limit_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 10.0)):
        living = [pid for pid in pids if alive(pid)]
        for pid in living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        poll(functools.partial(all_dead, living), limit_s)


def ancestors() -> set[int]:
    """This process and its parents, which are spared even when they run inside the cluster."""
    chain, pid = set[int](), os.getpid()
    while pid > 0 and pid not in chain:
        chain.add(pid)
        fields = stat_fields(pid)
        pid = int(fields[1]) if fields else 0
    return chain


def belongs(pid: int, root: Path, name: str) -> bool:
    """Is this process a daemon, step or job process of the cluster?

    Daemons carry MARK, processes of jobs SLURMD_NODENAME. A slurmstepd overwrites its environment
    with its title, but keeps the working folder of its slurmd. A shell that merely uses the
    cluster has none of the three.
    """
    try:
        env = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if f"{MARK}={root}".encode() in env:
            return True
        if any(entry.startswith(f"SLURMD_NODENAME={name}n".encode()) for entry in env):
            return True
        if Path(f"/proc/{pid}/comm").read_text().startswith("slurm"):
            return Path(f"/proc/{pid}/cwd").readlink().is_relative_to(root)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return False


def cluster_processes(root: Path, name: str) -> list[int]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    spared = ancestors()
    return [pid for pid in pids if pid not in spared and alive(pid) and belongs(pid, root, name)]
