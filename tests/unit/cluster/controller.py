"""A Slurm controller that is a script: what it says of one job, and what it was told to do."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any

from evalkit.cluster.attempts import AttemptRecord, write_attempt

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.store.layout import RunFolder

SCONTROL = """#!/bin/sh
printf '%s\\n' "$*" >> calls
case "$*" in
"show config") echo "KillWait                = 30 sec";;
"-o show job 7_0") cat job;;
"show hostnames"*) echo given;;
"-o show partition"*) echo "PartitionName=low TotalNodes=9";;
*) [ ! -e refused ] || { cat refused >&2; exit 1; };;
esac
"""
JOB = (
    "JobId=9 ArrayJobId=7 JobName=evalkit JobState={state} Reason={reason} Requeue={requeue} "
    "Restarts={restarts} PreemptTime={preempted} Partition=low ExcNodeList=given Comment=Restarts=9"
)


class Controller:
    """What scontrol answers, and what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        text = SCONTROL.replace("calls", str(folder / "calls"))
        for name in ("job", "refused"):
            text = text.replace(f"cat {name}", f"cat {folder / name}")
            text = text.replace(f"-e {name}", f"-e {folder / name}")
        program = folder / "scontrol"
        program.write_text(text)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        self.say()

    def say(self, **changes: Any) -> None:
        """Set what Slurm says of the job."""
        facts = {
            "state": "RUNNING",
            "reason": "None",
            "requeue": 1,
            "restarts": 1,
            "preempted": "None",
        }
        facts |= changes
        (self.folder / "job").write_text(JOB.format(**facts))

    @property
    def orders(self) -> list[str]:
        """What it was told to do, questions left out."""
        calls = self.folder / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        return [line for line in lines if "show" not in line]


def record(folder: RunFolder, number: int, **changes: Any) -> None:
    """An attempt's record on disk: an hour on n1, drained, with something done."""
    folder.attempt_logs("r0", number).mkdir(parents=True)
    fields: dict[str, Any] = {
        "replica": "r0",
        "attempt": number,
        "executor": "slurm",
        "job_id": "7_0",
        "restart_count": number - 1,
        "host": "n1",
        "nodes": ("n1",),
        "gpus": 1,
        "started": 1000.0,
        "last": 4600.0,
        "ended": 4600.0,
        "end": "drained",
        "units": 1,
    }
    write_attempt(folder, AttemptRecord(**{**fields, **changes}))
