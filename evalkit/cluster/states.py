"""Slurm's job states in few words, so that nobody else compares strings of Slurm.

A pure table. A state that is not in it is `unknown`, which is neither success nor failure: Slurm gains
states over the years. `PREEMPTED` and `NODE_FAIL` are what accounting says of an attempt; whether the
job was requeued after it is seen from the row that follows, not from here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class JobState(StrEnum):
    """What became of a job, as far as Slurm says."""

    PENDING = "pending"
    RUNNING = "running"
    FINISHING = "finishing"
    REQUEUED = "requeued"
    HELD = "held"
    SUSPENDED = "suspended"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    PREEMPTED = "preempted"
    NODE_FAIL = "node_fail"
    OOM = "oom"
    UNKNOWN = "unknown"

    @property
    def is_live(self) -> bool:
        """The job runs or may still run, by itself or after somebody releases it."""
        return self in LIVE

    @property
    def is_over(self) -> bool:
        """The job is known to have ended."""
        return self is not JobState.UNKNOWN and not self.is_live


LIVE = frozenset(
    {
        JobState.PENDING,
        JobState.RUNNING,
        JobState.FINISHING,
        JobState.REQUEUED,
        JobState.HELD,
        JobState.SUSPENDED,
    }
)

ON_NODES = frozenset({JobState.RUNNING, JobState.FINISHING, JobState.SUSPENDED})
"""A suspended job has its processes, which stand still: it is silent, and lost as little as one that runs."""

SLURM_STATES = {
    "PENDING": JobState.PENDING,
    "CONFIGURING": JobState.PENDING,
    "POWER_UP_NODE": JobState.PENDING,
    "RUNNING": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "COMPLETING": JobState.FINISHING,
    "STAGE_OUT": JobState.FINISHING,
    "UPDATE_DB": JobState.FINISHING,
    "REQUEUED": JobState.REQUEUED,
    "REQUEUE_FED": JobState.REQUEUED,
    "EXPEDITING": JobState.REQUEUED,
    "LAUNCH_FAILED": JobState.REQUEUED,  # of a requeue that was asked for, and no end of the job
    "RECONFIG_FAIL": JobState.REQUEUED,
    "REQUEUE_HOLD": JobState.HELD,
    "SPECIAL_EXIT": JobState.HELD,
    "RESV_DEL_HOLD": JobState.HELD,
    "SUSPENDED": JobState.SUSPENDED,
    "STOPPED": JobState.SUSPENDED,
    "COMPLETED": JobState.DONE,
    "FAILED": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
    "REVOKED": JobState.CANCELLED,
    "TIMEOUT": JobState.TIMEOUT,
    "DEADLINE": JobState.TIMEOUT,
    "PREEMPTED": JobState.PREEMPTED,
    "NODE_FAIL": JobState.NODE_FAIL,
    "BOOT_FAIL": JobState.NODE_FAIL,
    "OUT_OF_MEMORY": JobState.OOM,
}

HOLD_REASONS: Mapping[str, str] = {
    "JobHeldAdmin": "an administrator holds it: ask them, or `scontrol release {job}` when it may run",
    "JobHeldUser": "`scontrol release {job}` lets it go",
    "DependencyNeverSatisfied": "what it waits for has failed: `evalkit cancel`, then submit again",
    "JobHoldMaxRequeue": "it was requeued too often (MaxBatchRequeue): see below why, then "
    "`scontrol release {job}`",
    "launch failed requeued held": "a node could not start it: `scontrol release {job}`, best with "
    "that node in cluster.exclude",
    "BadConstraints": "no node is as cluster.constraint asks: change it, cancel and submit again",
}
"""Reasons for which a pending job never starts by itself, and what to do."""
RELEASE = "`scontrol release {job}` lets it go; or `evalkit cancel` and submit again"


SUSPENDED_BY: Mapping[str, str] = {
    "SUSPENDED": "it goes on by itself where partitions share nodes by turns (gang scheduling); else ask "
    "an administrator for `scontrol resume {job}`",
    "STOPPED": "`scancel --signal=CONT {job}` lets it go on",
}


def what_to_do(job_id: str, state: JobState, raw: str, reason: str) -> str | None:
    """The next step for a job that is held or suspended; None for any other."""
    if state is JobState.SUSPENDED:
        advice = SUSPENDED_BY.get(_word(raw), SUSPENDED_BY["SUSPENDED"])
    elif state is JobState.HELD:
        advice = HOLD_REASONS.get(_plain(reason), RELEASE)
    else:
        return None
    return advice.format(job=job_id)


def job_state(raw: str, reason: str = "") -> JobState:
    """State from squeue's or sacct's word for it (`CANCELLED by 1000`, `FAILED+`) and the reason."""
    state = SLURM_STATES.get(_word(raw), JobState.UNKNOWN)
    if state is JobState.PENDING and _plain(reason) in HOLD_REASONS:
        return JobState.HELD
    return state


def _word(raw: str) -> str:
    """Slurm's word without what it adds; empty where it says nothing."""
    return (raw.strip().upper().rstrip("+").split() or [""])[0]


def _plain(reason: str) -> str:
    return reason.strip("() ").replace("_", " ")
