"""What attempts of this run that are over have left on this node: found, and ended.

A keeper ends its server when evalkit is gone, but it may be killed with evalkit: Slurm's SIGKILL takes
the processes that it sees in one look, and what was forked, or lost its parent, in that moment escapes
for good where no control group holds it. It keeps GPUs that Slurm gives to the next job. So an attempt
looks before its first server, with the marks of `evalkit.serving.tree`: the marker in the environment
names run and attempt, and so does the path of the log that takes the output. So it is with the programs
of driven units, which are kept alike.

An attempt is left alone when one of its keepers lives and has its evalkit: two attempts of one replica may
live at once, and replicas of one run share nodes. Its own, and what was started after this process,
are left alone too. Another run's or user's process is never looked for.

Standard library only: the keeper imports this file, for the further nodes of a replica.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING or __package__:
    from evalkit.serving import tree
else:
    import tree

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKER_FORM = re.compile(r"(?P<run>.+)-(?P<attempt>r\d+\.a\d+)-\d+(?::.*)?")
LOG_FORM = re.compile(
    r"logs/(?P<replica>r\d+)/attempt-(?P<number>\d+)/server[^/]*\.log(?: \(deleted\))?"
)
PROGRAM_FORM = re.compile(r"harness/[^/]+/[^/]+/(?P<attempt>r\d+\.a\d+)(?:-\d+)?/.*")
KEEPER = "keeper.py"
STDIN = "stdin"
"""In place of a parent's process id: evalkit holds the other end of the keeper's standard input."""


class Name(NamedTuple):
    """One attempt."""

    run: str
    attempt: str
    """`r0.a1`."""


def parse_marker(marker: str | None) -> Name | None:
    """The attempt that a marker names; None for what is no marker of an attempt's server."""
    found = MARKER_FORM.fullmatch(marker or "")
    return None if found is None else Name(found["run"], found["attempt"])


def end_leftovers(marker: str, run_dir: Path | None = None) -> list[str]:
    """End what attempts that are over have left here; a sentence for each such attempt.

    `marker` is of this attempt; `run_dir` is where logs of the run are, null to go by markers alone.
    """
    own = parse_marker(marker)
    if own is None:
        return []
    return [
        _end(own, attempt, found, run_dir)
        for attempt, found in sorted(find_leftovers(own, run_dir).items())
    ]


def _end(own: Name, attempt: str, found: set[tree.Process], run_dir: Path | None) -> str:
    def find() -> set[tree.Process]:
        return find_leftovers(own, run_dir).get(attempt, set())

    left = tree.end_all(find, tree.SHORT_GRACE_S)
    end = f"survive SIGKILL: {_pids(left)}" if left else "are ended"
    where = f"processes on {os.uname().nodename} ({_pids(found)})"
    return f"{attempt}, which is over, had left {where}; they {end}"


def _pids(processes: set[tree.Process]) -> str:
    return ", ".join(str(process.pid) for process in sorted(processes))


def find_leftovers(own: Name, run_dir: Path | None = None) -> dict[str, set[tree.Process]]:
    """Processes of attempts of the run that are over, by attempt; without those of `own`."""
    processes = tree.find_processes()
    spared = tree.find_spared(processes)
    root = None if run_dir is None else os.path.realpath(run_dir)
    begun = processes[os.getpid()].started
    found: dict[str, set[int]] = {}
    used = {own.attempt}
    for process in processes.values():
        if process.pid in spared or not tree.is_own(process.pid):
            continue
        for attempt in _find_attempts(process.pid, own.run, root):
            if process.started < begun:
                found.setdefault(attempt, set()).add(process.pid)
            if _has_evalkit(process):
                used.add(attempt)
    return {
        attempt: {processes[pid] for pid in tree.find_below(processes, pids) - spared}
        for attempt, pids in found.items()
        if attempt not in used
    }


def _find_attempts(pid: int, run: str, root: str | None) -> Iterator[str]:
    """Attempts of the run that a process belongs to, by each mark."""
    name = parse_marker(tree.read_marker(pid))
    if name is not None and name.run == run:
        yield name.attempt
    if root is not None:
        for path in tree.find_outputs(pid):
            name_inside = path.removeprefix(f"{root}/")
            if (inside := LOG_FORM.fullmatch(name_inside)) is not None:
                yield f"{inside['replica']}.a{inside['number']}"
            if (program := PROGRAM_FORM.fullmatch(name_inside)) is not None:
                yield program["attempt"]


def _has_evalkit(process: tree.Process) -> bool:
    """Whether it is a keeper whose evalkit lives: still its parent, or at its standard input."""
    try:
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False
    argv = command.split("\0")
    names = [os.path.basename(part) for part in argv[:5]]  # noqa: PTH119 - of a text
    if KEEPER not in names:
        return False
    holder = argv[names.index(KEEPER) + 1 :][:1]
    return holder in ([str(process.parent)], [STDIN])
