"""What made a run: versions, commits, command. Read once when a run is created, and kept with it."""

from __future__ import annotations

import platform
import shlex
import socket
import subprocess
from datetime import UTC, datetime
from importlib.metadata import distributions
from typing import TYPE_CHECKING, Any

import evalkit
from evalkit.recipe.secret_text import mask

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

GIT_TIMEOUT_S = 10


def collect_provenance(
    command: Sequence[str], recipe: Path, sources: dict[str, str], now: float
) -> dict[str, Any]:
    """Provenance of a plan made from `recipe` by `command` at `now` (seconds since the epoch)."""
    return {
        "created": datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
        "command": mask(shlex.join(command)),
        "host": socket.gethostname(),
        "recipe": {"file": recipe.name, "git": git_state(recipe.parent), "sources": sources},
        "evalkit": evalkit.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": installed_packages(),
    }


def installed_packages() -> dict[str, str]:
    """Version of every installed distribution, by name."""
    found = {dist.metadata["Name"]: dist.version for dist in distributions()}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the repository that holds `folder`, and whether it was changed; null without one."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "-uno"))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
