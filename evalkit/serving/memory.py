"""Whether the kernel killed for want of memory: asked of our control group, never guessed.

SIGKILL leaves no word in any log, and the process that is left reports an odd end of another. Where Slurm
(or a container) limits memory, the kernel counts its kills in the control group of the job: a count that
rose during a server's life tells what ended it. Nothing is known where there is no such group.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
COUNT = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


def oom_kills(own: Path = OWN, root: Path = ROOT) -> int | None:
    """Kills for memory so far in the groups we are in; None where nobody counts them."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    counts = [_count(path) for line in lines for path in _files(line, root)]
    known = [count for count in counts if count is not None]
    return max(known) if known else None


def _files(line: str, root: Path) -> list[Path]:
    """Where one line of /proc/self/cgroup (`0::/a/b`, `4:memory:/a`) has counts: it and its parents.

    A limit may be set at any level: the step's, the job's, the user's.
    """
    _, controllers, group = line.split(":", 2)
    if controllers == "":
        base, name = root, "memory.events"
    elif "memory" in controllers.split(","):
        base, name = root / "memory", "memory.oom_control"
    else:
        return []
    inside = base / group.strip("/")
    levels = [inside, *inside.parents]
    return [level / name for level in levels if level.is_relative_to(base) and level != base]


def _count(path: Path) -> int | None:
    try:
        found = COUNT.search(path.read_text())
    except OSError:
        return None
    return None if found is None else int(found[1])
