"""What a cluster is, and how it is found again: its facts, its folder, its claim on ports.

A cluster's facts are in cluster.json in its folder; a link in CLAIMS, named after its first port,
leads there. The link keeps two clusters from the same ports and node names. Starts nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slurm_dev.processes import MARK, alive, stat_fields

if TYPE_CHECKING:
    from collections.abc import Iterator

CLAIMS = Path("/run/slurm-dev-cluster")  # links: first port of a block -> the cluster's folder
PORT_BLOCKS = range(10240, 19968, 64)  # below the ephemeral ports and the usual server ports
MAX_NODES = 32
MAX_PATH = 80  # a Unix socket path holds 107 bytes and the longest one adds about 20
COMMANDS = ("sbatch", "scancel", "scontrol", "sinfo", "squeue", "sacct", "sacctmgr")

PROGRAMS = {
    **dict.fromkeys((*COMMANDS, "slurmctld", "slurmd"), "slurm-wlm"),
    "slurmdbd": "slurmdbd",
    "munged": "munge",
    **dict.fromkeys(("mariadbd", "mariadb-install-db"), "mariadb-server"),
}

PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin", "/sbin", "/bin"))


class ClusterError(Exception):
    """What went wrong and what to do next, in words for the person at the terminal."""


def program(name: str) -> str:
    path = shutil.which(name, path=PATH)
    if path is None:
        raise ClusterError(
            f"program '{name}' not found. Install it with: apt-get install "
            f"{' '.join(sorted(set(PROGRAMS.values())))} (or run scripts/install_system_packages)."
        )
    return path


@dataclass(frozen=True)
class Cluster:
    """One cluster: what `start` was asked for. Kept in <root>/cluster.json."""

    root: Path
    base_port: int
    nodes: int
    gpus: int
    grace_time: int
    preempt_signal: bool
    cgroup: bool  # processes and memory of jobs in control groups, as on production clusters
    remembered: bool  # started without --dir: found again without --dir

    @property
    def name(self) -> str:
        return f"dev{self.base_port}"

    @property
    def node_names(self) -> tuple[str, ...]:
        # The prefix is unique on this machine: equal node names would let a slurmd register
        # with the controller of another cluster.
        return tuple(f"{self.name}n{number}" for number in range(1, self.nodes + 1))

    @property
    def conf(self) -> Path:
        return self.root / "etc" / "slurm.conf"

    @property
    def user_env(self) -> dict[str, str]:
        """What a user of the cluster sets: SLURM_CONF, and PATH where the commands are not in it."""
        folders = {str(Path(program(command)).parent) for command in COMMANDS}
        absent = sorted(folders - set(os.environ.get("PATH", "").split(os.pathsep)))
        env = {"SLURM_CONF": str(self.conf)}
        if absent:
            env["PATH"] = os.pathsep.join((os.environ.get("PATH", ""), *absent))
        return env

    @property
    def daemon_env(self) -> dict[str, str]:
        """A clean environment: no SLURM_* of an outer cluster, and the mark that `belongs` reads."""
        return {"PATH": PATH, "LC_ALL": "C", "SLURM_CONF": str(self.conf), MARK: str(self.root)}

    @property
    def ports(self) -> dict[str, int]:
        """Daemon -> the port it listens on, all in the cluster's block."""
        daemons = ("slurmctld", "slurmdbd", "mariadbd", *self.node_names)
        return {daemon: self.base_port + offset for offset, daemon in enumerate(daemons)}

    def pid_file(self, daemon: str) -> Path:
        return self.root / "run" / f"{daemon}.pid"


def daemon_pid(cluster: Cluster, daemon: str) -> int | None:
    """Pid of a living daemon; None when it never ran, has ended, or its pid is another's now."""
    try:
        pid, started = cluster.pid_file(daemon).read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    fields = stat_fields(int(pid))
    return int(pid) if fields and fields[19] == started and alive(int(pid)) else None


def make_root(wanted: Path | None) -> Path:
    """The new cluster's folder: `wanted` (absent or empty), or a fresh one."""
    if wanted is None:
        check_path(Path(tempfile.gettempdir()).resolve() / "slurm-dev-12345678")
        root = Path(tempfile.mkdtemp(prefix="slurm-dev-")).resolve()
    else:
        root = wanted.resolve()
        check_path(root)
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise ClusterError(
                f"{root} exists and is not an empty folder. Give --dir another path."
            )
        root.mkdir(exist_ok=True)
    root.chmod(0o755)  # munged and mariadbd run as their own users
    return root


def check_path(root: Path) -> None:
    if len(str(root)) > MAX_PATH or not re.fullmatch(r"[\w./+-]+", str(root), re.ASCII):
        raise ClusterError(
            f"{root}: the path must have at most {MAX_PATH} characters (Unix sockets go there) out "
            "of letters, digits and . _ + - / (slurm.conf reads others specially)."
        )
    if not root.parent.is_dir():
        raise ClusterError(f"{root.parent} is not a folder. Make it first, or leave out --dir.")
    test = ["test", "-x", str(root.parent)]
    if subprocess.run(test, user="munge", group="munge", extra_groups=[]).returncode != 0:
        raise ClusterError(
            f"user munge cannot enter {root.parent} (a parent folder lacks x for others). "
            "Give --dir another path, such as one under /tmp."
        )


def claim_ports(root: Path, count: int) -> int:
    """First port of a free block that no other cluster has claimed; the claim is a link in CLAIMS."""
    for base in random.sample(PORT_BLOCKS, len(PORT_BLOCKS)):
        if not all(port_is_free(port) for port in range(base, base + count)):
            continue
        # The folder of claims goes with its last claim, perhaps between these two lines.
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            CLAIMS.mkdir(exist_ok=True)
            (CLAIMS / str(base)).symlink_to(root)
            return base
    raise ClusterError(f"no free block of {count} ports between 10240 and 19968; see {CLAIMS}.")


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def claims() -> Iterator[tuple[int, Path]]:
    """(first port, folder) of all clusters on this machine."""
    if CLAIMS.is_dir():
        for link in sorted(CLAIMS.iterdir()):
            with contextlib.suppress(FileNotFoundError):
                yield int(link.name), link.readlink()


def load(root: Path) -> Cluster:
    try:
        facts = json.loads((root / "cluster.json").read_text())
    except FileNotFoundError:
        raise ClusterError(f"{root} is not the folder of a cluster (no cluster.json).") from None
    return Cluster(**facts | {"root": Path(facts["root"])})


def find(wanted: Path | None) -> Cluster:
    """The cluster in `wanted`, or the only one that was started without --dir."""
    if wanted is not None:
        return load(wanted.resolve())
    roots = [root for _, root in claims() if (root / "cluster.json").exists()]
    remembered = [cluster for cluster in map(load, roots) if cluster.remembered]
    if len(remembered) == 1:
        return remembered[0]
    others = "".join(f"\n  --dir {root}" for root in roots) or " (none is running)"
    count = "several clusters" if remembered else "no cluster"
    raise ClusterError(f"{count} started without --dir. Say which one:{others}")
