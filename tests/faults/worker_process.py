"""A worker in a process of its own, with a fault put in: what a replica's job does, and no more.

python tests/faults/worker_process.py RUN REPLICA [--no-leases] [--disk-bytes N] [--probe-s S]
"""

from __future__ import annotations

import argparse
import errno
import functools
import os
import sys
from pathlib import Path
from typing import Any

from evalkit.cluster import session
from evalkit.cluster.job import current_job
from evalkit.cluster.worker import run_replica
from evalkit.errors import EvalkitError
from evalkit.serving.watchdog import ProgressWatchdog
from evalkit.store.leases import Leases


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


def main() -> int:
    """Work as a replica until nothing is left; the exit code of `evalkit` for the same end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("replica")
    parser.add_argument("--no-leases", action="store_true", help="take what others work on too")
    parser.add_argument("--disk-bytes", type=int)
    parser.add_argument("--probe-s", type=float)
    arguments = parser.parse_args()
    if arguments.no_leases:
        Leases.take = lambda self, shard: True  # type: ignore[method-assign]
    if arguments.disk_bytes is not None:
        fill_disk(arguments.disk_bytes)
    if arguments.probe_s is not None:
        hasty = functools.partial(ProgressWatchdog, probe_timeout_s=arguments.probe_s)
        vars(session)["ProgressWatchdog"] = hasty
    try:
        return run_replica(arguments.run, arguments.replica, current_job())
    except EvalkitError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
