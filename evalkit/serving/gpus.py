"""Names of the GPUs that a replica has, for provenance. Absence is an answer, not an error."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# nvidia-smi takes seconds on a node whose driver is not kept loaded; a hung driver never answers.
TIMEOUT_S = 20.0


def gpu_names(env: Mapping[str, str]) -> tuple[str, ...]:
    """Names as nvidia-smi prints them, only the visible ones; () without a GPU or nvidia-smi."""
    program = shutil.which("nvidia-smi", path=env.get("PATH"))
    visible = env.get("CUDA_VISIBLE_DEVICES")
    if program is None or visible in ("", "-1", "NoDevFiles"):
        return ()
    only = [] if visible is None else [f"--id={visible}"]
    try:
        done = subprocess.run(
            [program, "--query-gpu=name", "--format=csv,noheader", *only],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())
