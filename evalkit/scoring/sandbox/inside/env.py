"""The environment of programs: exactly what the host says, whatever the backend adds to it.

bubblewrap sets PWD and Apptainer a dozen names of its own, with paths of the host among them.
"""

from __future__ import annotations

import os


def set_environment(values: dict[str, str]) -> None:
    """For this process and what it starts, in place of what it has."""
    os.environ.clear()
    os.environ.update(values)


def set_home(work: str, scratch: str) -> None:
    """Where a backend has no fixed places: the unsafe one."""
    os.environ.update(HOME=work, TMPDIR=scratch)
