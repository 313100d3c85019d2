"""Where packages live that evalkit uses without their dependencies, and what to type to get them.

Such a package is in a folder of its own below the Python environment and not among the installed
ones: its unmet dependencies break no `pip check`, and it can have the import name of another package.
"""

from __future__ import annotations

import sys
from pathlib import Path

PIP = f"{sys.executable} -m pip install"


def vendored_folder(name: str) -> Path:
    """The folder of that name for vendored packages; it need not exist."""
    return Path(sys.prefix) / "share" / "evalkit" / name


def vendor_command(name: str, *what: str) -> str:
    """What to type to fill that folder: `what` are pip's words for the packages."""
    return f"{PIP} --no-deps --upgrade --target {vendored_folder(name)} {' '.join(what)}"
