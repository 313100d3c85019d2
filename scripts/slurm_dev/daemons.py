"""Starting the daemons of a cluster and asking it, with a deadline on every wait.

`boot` is the order of dependence. A daemon that dies or does not answer becomes a ClusterError
with the last lines of its log; cleaning up after that is `teardown`'s business.
"""

from __future__ import annotations

import functools
import shlex
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from slurm_dev.cluster import Cluster, ClusterError, daemon_pid, program
from slurm_dev.config import write_files
from slurm_dev.processes import MARK, poll, stat_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def ask(cluster: Cluster, *argv: str, limit_s: float = 20) -> str | None:
    """Output of a Slurm command, None when it failed or gave no answer in time."""
    # No MARK here: only daemons carry it.
    env = {key: value for key, value in cluster.daemon_env.items() if key != MARK}
    argv = (program(argv[0]), *argv[1:])
    try:
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode != 0:
        with (cluster.root / "log" / "commands.err").open("a") as log:
            log.write(f"$ {shlex.join(argv)}\n{done.stderr}")
        return None
    return done.stdout


def node_states(cluster: Cluster) -> dict[str, str]:
    """Node name -> state as sinfo shows it ("idle", "down*", ...); empty without a controller."""
    lines = (ask(cluster, "sinfo", "-h", "-N", "-p", "low", "-o", "%N %T") or "").splitlines()
    return {node: state for node, _, state in (line.partition(" ") for line in lines)}


def has_state(cluster: Cluster, node: str, states: Sequence[str]) -> bool:
    """Its slurmd listens (slurmctld goes on saying "idle" of a dead one) and it is in a state."""
    return answers(cluster.ports[node]) and node_states(cluster).get(node) in states


def accounting_answers(cluster: Cluster) -> bool:
    """slurmctld has registered with slurmdbd and sacct can be asked."""
    known = ask(cluster, "sacctmgr", "-nP", "show", "cluster", "format=cluster,controlport") or ""
    registered = f"{cluster.name}|{cluster.ports['slurmctld']}" in known.split()
    return registered and ask(cluster, "sacct", "-nX") is not None


def launch(cluster: Cluster, daemon: str, argv: Sequence[str], user: str | None = None) -> None:
    """Start a daemon in the foreground of its own session, with log and pid file."""
    home = cluster.root / "spool" / daemon
    with (cluster.root / "log" / f"{daemon}.err").open("ab") as log:
        process = subprocess.Popen(
            [program(argv[0]), *argv[1:]],
            user=user,
            group=user,
            extra_groups=[] if user else None,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=home if home.is_dir() else cluster.root,
            env=cluster.daemon_env,
            start_new_session=True,
        )
    process.returncode = 0  # it is meant to outlive us: no complaint when this object is dropped
    started = stat_fields(process.pid)[19]
    cluster.pid_file(daemon).write_text(f"{process.pid} {started}\n")


def expect(
    cluster: Cluster, daemon: str, what: str, probe: Callable[[], bool], limit_s: float
) -> None:
    """Wait until `probe`; when the daemon dies or the deadline passes, say so with its log's tail."""
    print(f"{what} ...", file=sys.stderr)
    died = f"{daemon} ended"
    reason = f"no answer after {limit_s:.0f} s"

    def probe_or_death() -> bool:
        return daemon_pid(cluster, daemon) is None or probe()

    if poll(probe_or_death, limit_s) and daemon_pid(cluster, daemon) is not None:
        return
    if daemon_pid(cluster, daemon) is None:
        reason = died
    raise ClusterError(f"{what}: {reason}.\n{log_tails(cluster, daemon)}")


def log_tails(cluster: Cluster, daemon: str) -> str:
    """The last lines of a daemon's log and of the Slurm commands that failed."""
    tails = []
    for path in (cluster.root / "log" / f"{daemon}.err", cluster.root / "log" / "commands.err"):
        if path.exists():
            lines = path.read_text(errors="replace").splitlines()[-15:]
            tails.append("\n  ".join((f"Last lines of {path.name}:", *(lines or ["(empty)"]))))
    return "\n".join(tails)


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def start_munge(cluster: Cluster) -> None:
    root = cluster.root
    files = [f"--key-file={root}/munge/key", f"--seed-file={root}/munge/seed"]
    files += [f"--socket={root}/run/munge.socket", f"--pid-file={root}/munge/pid"]
    argv = ["munged", "--foreground", "--force", "--num-threads=10", *files]
    launch(cluster, "munged", argv, user="munge")
    expect(cluster, "munged", "munge", (root / "run/munge.socket").is_socket, 20)


def database_options(cluster: Cluster) -> list[str]:
    """Small and fast rather than durable: the data go with the cluster."""
    sizes = [
        "--innodb-log-file-size=16M",
        "--innodb-buffer-pool-size=64M",
        "--aria-log-file-size=8M",
    ]
    return ["--no-defaults", f"--datadir={cluster.root}/db/data", "--user=mysql", *sizes]


def start_database(cluster: Cluster) -> None:
    """Make the database and start mariadbd; it reads init.sql before it opens its port."""
    print("database files ...", file=sys.stderr)
    # --force: a machine whose own name does not resolve is good enough for 127.0.0.1.
    options = ("--skip-test-db", "--force")
    argv = [program("mariadb-install-db"), *database_options(cluster), *options]
    argv.append("--auth-root-authentication-method=normal")
    done = subprocess.run(argv, env=cluster.daemon_env, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise ClusterError(
            f"mariadb-install-db failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    root, port = cluster.root, cluster.ports["mariadbd"]
    argv = ["mariadbd", *database_options(cluster), f"--port={port}", "--bind-address=127.0.0.1"]
    argv += [
        f"--socket={root}/db/s",
        f"--pid-file={root}/db/pid",
        f"--init-file={root}/db/init.sql",
    ]
    argv += ["--skip-name-resolve", "--innodb-lock-wait-timeout=900"]
    argv += [
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-fast-shutdown=2",
        f"--tmpdir={root}/db",
    ]
    launch(cluster, "mariadbd", argv)
    expect(cluster, "mariadbd", "database", lambda: answers(port), 60)


def add_cluster(cluster: Cluster) -> bool:
    return ask(cluster, "sacctmgr", "-i", "add", "cluster", cluster.name) is not None


def boot(cluster: Cluster) -> None:
    """Everything in order of dependence, each awaited; returns when all nodes are idle."""
    write_files(cluster)
    start_munge(cluster)
    start_database(cluster)
    launch(cluster, "slurmdbd", ["slurmdbd", "-D"])
    expect(cluster, "slurmdbd", "slurmdbd", lambda: answers(cluster.ports["slurmdbd"]), 60)
    expect(cluster, "slurmdbd", "accounting", lambda: add_cluster(cluster), 60)
    launch(cluster, "slurmctld", ["slurmctld", "-D", "-c"])
    for node in cluster.node_names:
        launch(cluster, node, ["slurmd", "-D", "-N", node])
    expect(cluster, "slurmctld", "controller", lambda: bool(node_states(cluster)), 60)
    for node in cluster.node_names:
        expect(cluster, node, node, functools.partial(has_state, cluster, node, ("idle",)), 60)
    expect(cluster, "slurmctld", "sacct", lambda: accounting_answers(cluster), 60)
