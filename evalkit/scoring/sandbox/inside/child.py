"""From a forked copy of the keeper to the model's program: the last code of ours that it runs.

Order matters: first everything that needs rights or memory of ours, then the limits, then the rights
are given up, and then nothing of the keeper's is left open. Where it fails, the reason goes into the
`ready` pipe, which is closed before the first instruction of the model's; from then on whatever the
process says is the program's own word.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from .places import close_all_but

if TYPE_CHECKING:
    from .enclosure import Enclosure

_RESOURCES = {
    "memory_bytes": resource.RLIMIT_AS,
    "stack_bytes": resource.RLIMIT_STACK,
    "file_bytes": resource.RLIMIT_FSIZE,
    "open_files": resource.RLIMIT_NOFILE,
    "processes": resource.RLIMIT_NPROC,
}
PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)
"""Signals that an interpreter ignores from its start, and that other programs expect to end them."""


class Streams(NamedTuple):
    """The child's standard streams, as descriptors of the keeper's."""

    stdin: int
    stdout: int
    stderr: int


def become_child(
    enclosure: Enclosure, limits: dict[str, Any], streams: Streams, keep: set[int]
) -> None:
    """Turn this process into one that may run a model's code; `keep` stays open besides 0, 1, 2."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    os.chdir(enclosure.work)
    for target, source in enumerate(streams):
        os.dup2(source, target, inheritable=True)
    for name, value in limits.items():
        if name in _RESOURCES:
            _limit(_RESOURCES[name], value)
    _limit(resource.RLIMIT_CORE, 0)
    if "cpu_s" in limits:
        # The first signal tells the end by CPU time from others; who ignores it gets SIGKILL.
        _limit(resource.RLIMIT_CPU, limits["cpu_s"], limits["cpu_s"] + 1)
    enclosure.confine()
    _prefer_to_be_killed()
    close_all_but({0, 1, 2, *keep})


def _limit(which: int, soft: int, hard: int | None = None) -> None:
    most = resource.getrlimit(which)[1]
    wanted = soft if hard is None else hard
    hard = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    resource.setrlimit(which, (min(soft, hard), hard))


def _prefer_to_be_killed() -> None:
    """When the node runs out of memory, the kernel shall take this process and not a server."""
    with suppress(OSError):  # a hint to the kernel; the limits do not depend on it
        Path("/proc/self/oom_score_adj").write_text("1000")


def execute(argv: list[str]) -> NoReturn:
    """Another program in this process; `ready` closes itself then. Raises OSError where it cannot start."""
    for number in PYTHON_IGNORES:
        signal.signal(number, signal.SIG_DFL)
    os.execvp(argv[0], argv)


def flush_and_exit(code: int) -> NoReturn:
    """End at once, but with everything written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 120  # as Python itself ends when its output cannot be flushed
    os._exit(code)
