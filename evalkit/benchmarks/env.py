"""The environment, as far as data needs it."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where evalkit keeps downloads: `$XDG_CACHE_HOME/evalkit`, by default below the home."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "evalkit"
