"""The environment, as far as data needs it."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where evalkit keeps downloads: `$XDG_CACHE_HOME/evalkit`, by default below the home."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "evalkit"


def variable(name: str) -> str | None:
    """A setting that is a secret, or that is another one on every machine; null where it is unset."""
    return os.environ.get(name) or None
