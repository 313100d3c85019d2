"""The files of a new cluster: slurm.conf and its kin, munge key, device files, folders.

The settings make things happen in seconds that take minutes on a real cluster (KillWait,
cred_expire, SlurmdTimeout) and pretend more CPUs and memory than the machine has. Nothing here is
an example for a cluster with users.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from slurm_dev.cluster import Cluster

KILL_WAIT_S = 10
"""Real sites have 30. With 5 a drain has half a second to spare, which a busy machine needs for itself; with
15 each job that is cancelled with calls in flight takes 2 s more."""

SLURM_CONF = """\
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={root}/run/munge.socket,cred_expire=10
CredType=cred/munge
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStoragePass={root}/run/munge.socket
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/none
ProctrackType=proctrack/{groups}
TaskPlugin=task/{tasks}
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
ReturnToService=2
SlurmdSpoolDir={root}/spool/%n
SlurmdPidFile={root}/run/own-%n.pid
SlurmdLogFile={root}/log/%n.log
SlurmctldPidFile={root}/run/own-slurmctld.pid
SlurmctldLogFile={root}/log/slurmctld.log
StateSaveLocation={root}/state
MailProg=/bin/true
SchedulerParameters=sched_interval=1,bf_interval=2,batch_sched_delay=0
KillWait={kill_wait}
MinJobAge=60
SlurmdTimeout=30
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
{signal_line}SlurmdParameters=config_overrides
GresTypes=gpu
{node_lines}
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace_time}
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""

CGROUP_CONF = """\
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
CgroupAutomount=no
ConstrainRAMSpace=yes
ConstrainSwapSpace=no
"""
"""Version 1, because version 2 wants systemd; a job over its memory is killed."""

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={root}/run/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser=root
LogFile={root}/log/slurmdbd.log
PidFile={root}/run/own-slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={db_port}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct_db
"""

DATABASE_SQL = """\
CREATE DATABASE slurm_acct_db;
CREATE USER 'slurm'@'127.0.0.1' IDENTIFIED BY '{password}';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';
"""


def write_files(cluster: Cluster) -> None:
    """Folders, configuration, munge key and device files; cluster.json is last."""
    root, ports = cluster.root, cluster.ports
    for folder in ("etc", "log", "run", "state", "spool", "dev", "munge", "db"):
        (root / folder).mkdir()
    for node in cluster.node_names:
        (root / "spool" / node).mkdir()
        for gpu in range(cluster.gpus):
            os.mknod(root / "dev" / f"{node}gpu{gpu}", 0o20666, os.makedev(1, 3))
    values = {"root": root, "name": cluster.name, "host": socket.gethostname().split(".")[0]}
    values |= {"port": ports["slurmctld"], "dbd_port": ports["slurmdbd"]}
    values |= {"db_port": ports["mariadbd"]}
    values |= {"password": secrets.token_hex(16), "grace_time": cluster.grace_time}
    values["kill_wait"] = KILL_WAIT_S
    values["node_lines"] = "\n".join(node_line(cluster, node) for node in cluster.node_names)
    values["groups"] = "cgroup" if cluster.cgroup else "linuxproc"
    values["tasks"] = "cgroup" if cluster.cgroup else "none"
    if cluster.cgroup:
        write(root / "etc/cgroup.conf", CGROUP_CONF, 0o644)
    user_signal = "SlurmctldParameters=preempt_send_user_signal\n"
    values["signal_line"] = user_signal if cluster.preempt_signal else ""
    write(cluster.conf, SLURM_CONF.format_map(values), 0o644)
    write(root / "etc/gres.conf", gres_conf(cluster), 0o644)
    write(root / "etc/slurmdbd.conf", SLURMDBD_CONF.format_map(values), 0o600)
    write(root / "db/init.sql", DATABASE_SQL.format_map(values), 0o600)
    write(root / "munge/key", secrets.token_hex(512), 0o400)
    for path, user in (
        ("munge", "munge"),
        ("munge/key", "munge"),
        ("run", "munge"),
        ("db", "mysql"),
    ):
        shutil.chown(root / path, user, user)
    shutil.chown(root / "db/init.sql", "mysql", "mysql")
    for secret in ("munge", "db"):
        (root / secret).chmod(0o700)
    facts = asdict(cluster) | {"root": str(root)}
    write(root / "cluster.json", json.dumps(facts, indent=1) + "\n", 0o644)


def write(path: Path, text: str, mode: int) -> None:
    path.touch(mode)
    path.write_text(text)


def node_line(cluster: Cluster, node: str) -> str:
    """CPUs and memory may exceed the machine's (config_overrides): jobs here are small."""
    gres = f" Gres=gpu:{cluster.gpus}" if cluster.gpus else ""
    return (
        f"NodeName={node} NodeHostname={socket.gethostname().split('.')[0]} "
        f"NodeAddr=127.0.0.1 Port={cluster.ports[node]} CPUs=4 RealMemory=64000"
        f"{gres} State=UNKNOWN"
    )


def gres_conf(cluster: Cluster) -> str:
    files = f"gpu[0-{cluster.gpus - 1}]" if cluster.gpus > 1 else "gpu0"
    lines = [
        f"NodeName={node} Name=gpu File={cluster.root}/dev/{node}{files}\n"
        for node in cluster.node_names
    ]
    return "".join(lines) if cluster.gpus else ""
