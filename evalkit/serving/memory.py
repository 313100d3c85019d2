"""Whether the kernel killed for want of memory: asked of our control group, never guessed.

SIGKILL leaves no word in any log, and the process that is left reports an odd end of another. Where Slurm
(or a container) limits memory, the kernel counts its kills in the control group of the job: a count that
rose during a server's life tells what ended it. Nothing is known where there is no such group.

The counts of version 2 include those of all groups below, and the groups above a job's hold every job of
the node: nothing above the job's own is looked at.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
JOB = re.compile(r"job_\d+")
"""Slurm's group of a job; its steps are below."""
COUNT = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


def oom_kills(own: Path = OWN, root: Path = ROOT) -> int | None:
    """Kills for memory so far in our group, under Slurm in our job; None where nobody counts them."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    counts = [_count(path) for line in lines for path in _files(line, root)]
    known = [count for count in counts if count is not None]
    return max(known) if known else None


def _files(line: str, root: Path) -> list[Path]:
    """Where one line of /proc/self/cgroup (`0::/a/b`, `4:memory:/a`) has counts: it, and under Slurm
    its parents up to the job's.

    A limit may be set for the task, the step or the job.
    """
    _, controllers, group = line.split(":", 2)
    if controllers == "":
        base, name = root, "memory.events"
    elif "memory" in controllers.split(","):
        base, name = root / "memory", "memory.oom_control"
    else:
        return []
    inside = base / group.strip("/")
    if inside == base:
        return []
    above = [inside, *inside.parents]
    top = next((index for index, level in enumerate(above) if JOB.fullmatch(level.name)), 0)
    return [level / name for level in above[: top + 1]]


def _count(path: Path) -> int | None:
    try:
        found = COUNT.search(path.read_text())
    except OSError:
        return None
    return None if found is None else int(found[1])
