"""A worker in a process of its own, with a fault put in: what a replica's job does, and no more.

python tests/faults/worker_process.py RUN REPLICA [--no-leases] [--disk-bytes N] [--probe-s S] ...

It heeds SIGTERM and SIGUSR2 as a job does, without a Slurm that would requeue it.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import functools
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.cluster import session, worker
from evalkit.cluster.job import current_job
from evalkit.errors import EvalkitError
from evalkit.scoring.sandbox import find
from evalkit.serving.watchdog import ProgressWatchdog
from evalkit.store.leases import Leases

if TYPE_CHECKING:
    from types import FrameType


def fill_disk(free: int) -> None:
    """Let journals have so many bytes, and then no more."""
    write, left = os.write, [free]

    def limited(fd: int, data: Any) -> int:
        if bytes(data[:6]) != b'{"crc"' and left[0] == free:
            return write(fd, data)
        fits = data[: left[0]]
        if not fits:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= len(fits)
        return write(fd, fits)

    os.write = limited


def make_read_only() -> None:
    """Let nobody create a file in the run any more."""
    opened = os.open

    def refused(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_CREAT and "/journal/" in os.fspath(path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(path, flags, *rest, **named)

    os.open = refused


def make_listings_stale(seconds: float) -> None:
    """Show what a folder of the run had when it was first looked at, for so long."""
    listed, began = os.listdir, time.monotonic()
    seen: dict[str, list[str]] = {}

    def remembered(path: Any = ".") -> list[Any]:
        now = listed(path)
        if not isinstance(path, (str, os.PathLike)) or time.monotonic() - began > seconds:
            return now
        return list(seen.setdefault(os.fspath(path), now))

    os.listdir = remembered


def heed_signals() -> None:
    """Drain as a job does: at once after a TERM, or in the time that USR2 leaves."""

    def drain(number: int, _frame: FrameType | None) -> None:
        for each in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(each, signal.SIG_IGN)
        if number == signal.SIGTERM:
            worker.request_drain("SIGTERM", wait_s=0)
        else:
            worker.drain_before_end("SIGUSR2")

    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, drain)


def main() -> int:
    """Work as a replica until nothing is left; the exit code of `evalkit` for the same end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("replica")
    parser.add_argument("--no-leases", action="store_true", help="take what others work on too")
    parser.add_argument("--disk-bytes", type=int)
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("--stale-s", type=float, help="listings of folders are that old at first")
    parser.add_argument("--probe-s", type=float)
    parser.add_argument("--no-sandbox", action="store_true", help="none works on this machine")
    parser.add_argument("--kill-wait-s", type=float, default=30.0)
    arguments = parser.parse_args()
    if arguments.no_leases:
        Leases.take = lambda self, shard: True  # type: ignore[method-assign]
    if arguments.disk_bytes is not None:
        fill_disk(arguments.disk_bytes)
    if arguments.read_only:
        make_read_only()
    if arguments.no_sandbox:
        vars(find)["safe_backends"] = lambda env, image: []
    if arguments.stale_s is not None:
        make_listings_stale(arguments.stale_s)
    if arguments.probe_s is not None:
        hasty = functools.partial(ProgressWatchdog, probe_timeout_s=arguments.probe_s)
        vars(session)["ProgressWatchdog"] = hasty
    heed_signals()
    job = dataclasses.replace(current_job(), kill_wait_s=arguments.kill_wait_s)
    try:
        return worker.run_replica(arguments.run, arguments.replica, job)
    except EvalkitError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
