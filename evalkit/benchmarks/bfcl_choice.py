"""Which back end BFCL's web search has, and what it needs here; `bfcl_backends` has the back ends.

Apart from them, for they bring along an HTTP client that most commands do not use.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias

from evalkit.benchmarks.env import variable
from evalkit.errors import DataError

BackendName: TypeAlias = Literal["gateway", "serpapi", "ddgs", "replay"]

GATEWAY = "EVALKIT_WEB_GATEWAY"
SERPAPI_KEY = "SERPAPI_API_KEY"
EXTRA = "pip install 'evalkit[bfcl-web]'"


def why_not(name: BackendName, recording: str | None) -> str | None:
    """What is missing for a back end here, or null."""
    if name == "replay":
        if recording is None:
            return "params.web_recording must name the recording"
        return None if Path(recording).expanduser().is_file() else f"there is no file {recording}"
    if name == "gateway":
        return None if variable(GATEWAY) else f"{GATEWAY} is not set to the gateway's address"
    if name == "serpapi" and variable(SERPAPI_KEY) is None:
        return f"{SERPAPI_KEY} is not set"
    needed = ["bs4", "html2text", *(["ddgs"] if name == "ddgs" else [])]
    missing = [module for module in needed if find_spec(module) is None]
    return f"{', '.join(missing)} cannot be imported: {EXTRA}" if missing else None


def recording_sha256(path: str) -> str:
    """Checksum of a recording: its answers move scores. Raises DataError."""
    try:
        return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
