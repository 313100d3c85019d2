"""Processes of this machine, recognised by their id and the time of their start."""

from __future__ import annotations

import contextlib

import psutil

from evalkit.errors import ClusterError

START_TOLERANCE_S = 2.0
"""Start times are derived from the boot time, which moves a little when the clock is set."""


def started_at(pid: int) -> float:
    """Unix time (s) at which a process started. Raises ClusterError when it has ended."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess as error:
        raise ClusterError(
            f"the local process {pid} ended at once",
            hint="See cluster/local.log in the run folder; the `setup` lines may have failed.",
        ) from error


def find_process(pid: int, started: float | None) -> psutil.Process | None:
    """The process that was started then under this id; None when it has ended."""
    try:
        process = psutil.Process(pid)
        is_ours = started is not None and abs(process.create_time() - started) < START_TOLERANCE_S
        # a zombie has ended; it only waits for a parent that looks
        return process if is_ours and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def kill_tree(process: psutil.Process | None) -> None:
    """Kill a process and all below it; children first listed, or they would be lost to us."""
    if process is None:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        for each in (*process.children(recursive=True), process):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
