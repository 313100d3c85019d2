"""How much memory the processes of an enclosure hold together, read from its own /proc.

RLIMIT_AS limits each process; a program with many processes can still take all of a node. So the
keeper looks every now and then, and this is where it looks.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PAGE = resource.getpagesize()


def exceeds_memory(most_bytes: int) -> bool:
    """True where the resident memory of all processes but this one is above the limit.

    The cheap number counts shared pages once per process; only when that is too much, the exact and
    slow one is asked for.
    """
    return _total(_resident) > most_bytes and _total(_proportional) > most_bytes


def _total(measure: Callable[[Path], int]) -> int:
    mine = str(os.getpid())
    processes = (path for path in Path("/proc").iterdir() if path.name.isdigit())
    return sum(measure(path) for path in processes if path.name != mine)


def _resident(process: Path) -> int:
    try:
        return int((process / "statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0  # it has ended since


def _proportional(process: Path) -> int:
    try:
        for line in (process / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # it has ended since
    return 0
