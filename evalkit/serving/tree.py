"""The processes of a server: found by several marks, and ended.

No single mark finds all of them. A process that leaves its session is still a descendant; an orphan,
whose parents were killed, is not; and vLLM's engine core and workers name themselves with `setproctitle`,
which overwrites what the kernel shows of their environment and command line. So a process is one of a
server's when any of these holds, each of which outlives the loss of the others:

- its environment holds the server's marker (`SPT_NOENV` keeps setproctitle from wiping it out);
- its standard output or error is open for writing on the server's own log file;
- it is of the session that the server was started in, as long as that number is still the server's;
- it descends from one of these, or from the keeper.

Only processes of our own user count, never we ourselves or an ancestor. Everything is read in one pass
over /proc; a signal is sent to a process only while its start time is the one that was found.

Standard library only: the keeper imports this file where there is no package.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

MARKER = "EVALKIT_ATTEMPT"
POLL_S = 0.05
# A process in an uninterruptible call (a hung GPU driver or file system) survives SIGKILL; after
# this time it is reported rather than waited for.
KILL_WAIT_S = 10.0
# What the server left behind after it ended by itself, or without anybody to serve, has nothing to
# finish. (vLLM does not heed SIGTERM while it loads, so without this an orphan would live on long.)
SHORT_GRACE_S = 2.0
OUTPUTS = (1, 2)


class Process(NamedTuple):
    """One process; the start time (clock ticks since boot) tells it from a later one with its pid."""

    pid: int
    parent: int
    session: int
    started: int


class Marks(NamedTuple):
    """What the processes of one server are known by."""

    marker: str
    """Value of `MARKER` in their environment."""
    log: Path | None = None
    """The file that takes their output; null where it does not go to a file of ours."""
    leader: Process | None = None
    """Who began their session. It may have ended: the kernel gives its number to nobody else as long as
    the session has members, and a leader with another start time shows that it has."""


def find_processes() -> dict[int, Process]:
    """All processes of this host (or PID namespace) that have not ended, by pid."""
    found = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 - a pass over thousands, many times a second
        if entry.isdigit() and (process := read_process(int(entry))) is not None:
            found[process.pid] = process
    return found


def read_process(pid: int) -> Process | None:
    """One process, or None when it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
    except OSError:
        return None
    # The name is in parentheses and may hold anything; the fields start after the last one.
    fields = text.rpartition(")")[2].split()
    if fields[0] in ("Z", "X"):
        return None
    return Process(pid, int(fields[1]), int(fields[3]), int(fields[19]))


def is_own(pid: int) -> bool:
    """Whether it runs as our user."""
    try:
        return os.stat(f"/proc/{pid}").st_uid == os.getuid()  # noqa: PTH116 - as above
    except OSError:
        return False


def read_marker(pid: int) -> str | None:
    """The marker it was started with; None without one, or when it is not ours to look at."""
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    start = f"{MARKER}=".encode()
    values = [part for part in environ.split(b"\0") if part.startswith(start)]
    return values[-1][len(start) :].decode(errors="replace") if values else None


def find_outputs(pid: int) -> set[str]:
    """Paths of the files that its standard output and error are open on for writing."""
    found = set()
    for number in OUTPUTS:
        with contextlib.suppress(OSError, ValueError, IndexError):
            path = os.readlink(f"/proc/{pid}/fd/{number}")  # noqa: PTH115 - as above
            if path.startswith("/") and _is_writing(pid, number):
                found.add(path)
    return found


def _is_writing(pid: int, number: int) -> bool:
    """Whoever reads a log, as `tail` does, is not of the server."""
    lines = Path(f"/proc/{pid}/fdinfo/{number}").read_text().splitlines()
    [flags] = [line.split()[1] for line in lines if line.startswith("flags:")]
    return int(flags, 8) & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR)


def find_spared(processes: Mapping[int, Process]) -> set[int]:
    """We and our ancestors: no mark counts there."""
    spared: set[int] = set()
    pid = os.getpid()
    while pid in processes and pid not in spared:
        spared.add(pid)
        pid = processes[pid].parent
    return spared


def find_below(processes: Mapping[int, Process], roots: Iterable[int]) -> set[int]:
    """Roots and their descendants."""
    below = set(roots)
    while more := {p.pid for p in processes.values() if p.parent in below} - below:
        below |= more
    return below


def find_tree(roots: Collection[int], marks: Marks) -> set[Process]:
    """Processes with one of the marks, and descendants of these and of `roots` (not the roots).

    Never this process, and never one of its ancestors.
    """
    processes = find_processes()
    spared = find_spared(processes)
    log = None if marks.log is None else os.path.realpath(marks.log)
    session = _living_session(processes, marks.leader)
    marked = {
        process.pid
        for process in processes.values()
        if process.pid not in spared
        and is_own(process.pid)
        and _is_marked(process, marks.marker, log, session)
    }
    below = find_below(processes, set(roots) | marked)
    return {processes[pid] for pid in (below - set(roots) | marked) - spared if pid in processes}


def _is_marked(process: Process, marker: str, log: str | None, session: int | None) -> bool:
    return (
        process.session == session
        or read_marker(process.pid) == marker
        or (log is not None and log in find_outputs(process.pid))
    )


def _living_session(processes: Mapping[int, Process], leader: Process | None) -> int | None:
    """The session's number, unless another process has it by now."""
    if leader is None:
        return None
    now = processes.get(leader.pid)
    return leader.pid if now is None or now.started == leader.started else None


def send(processes: Collection[Process], number: int) -> None:
    """Signal each process that is still the one we found."""
    for process in processes:
        now = read_process(process.pid)
        if now is not None and now.started == process.started:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, number)


def patient() -> bool:
    """Nothing cuts a grace period short."""
    return False


def end_tree(
    roots: Collection[int], marks: Marks, grace_s: float, is_urgent: Callable[[], bool] = patient
) -> set[Process]:
    """`end_all` for one server's tree."""
    return end_all(lambda: find_tree(roots, marks), grace_s, is_urgent)


def end_all(
    find: Callable[[], set[Process]], grace_s: float, is_urgent: Callable[[], bool] = patient
) -> set[Process]:
    """TERM, then KILL after `grace_s`, until `find` finds nothing. Returns who survived even that.

    Once `is_urgent`, at most SHORT_GRACE_S of the grace period are left.
    """
    signalled: set[tuple[int, int]] = set()
    deadline, cut = time.monotonic() + grace_s, False
    while (tree := find()) and time.monotonic() < deadline:
        # once each, though it gets another parent when its own has ended
        send([p for p in tree if (p.pid, p.started) not in signalled], signal.SIGTERM)
        signalled |= {(p.pid, p.started) for p in tree}
        time.sleep(POLL_S)
        if not cut and is_urgent():
            deadline, cut = min(deadline, time.monotonic() + SHORT_GRACE_S), True
    deadline = time.monotonic() + KILL_WAIT_S
    while (tree := find()) and time.monotonic() < deadline:
        send(tree, signal.SIGKILL)
        time.sleep(POLL_S)
    return tree
