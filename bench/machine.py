"""Where a number was measured, and child processes that measure one thing on one core.

A side of a comparison runs in a process of its own, so that its peak memory and CPU time are its own.
Other work on the machine moves wall times; CPU time moves far less, so both are always reported.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[1]


def describe(*packages: str) -> str:
    """Date, processor, load and versions, in two lines."""
    model = next(
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        if line.startswith("model name")
    )
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{name} {metadata.version(name)}" for name in packages]
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    day = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    return (
        f"{day} UTC, {os.cpu_count()} cores of {model}, load {load}, "
        f"Linux {platform.release()}\n{', '.join(versions)}"
    )


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Wall and CPU time (s) of this process since it was made."""

    wall: float
    cpu: float

    @classmethod
    def start(cls) -> Self:
        """Begin now."""
        return cls(time.perf_counter(), time.process_time())

    def read(self) -> dict[str, float]:
        """`wall_s` and `cpu_s` so far."""
        return {
            "wall_s": time.perf_counter() - self.wall,
            "cpu_s": time.process_time() - self.cpu,
        }


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far (MB)."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


def measure(
    module: str, args: Sequence[str], core: int | None = None, python: str = sys.executable
) -> dict[str, Any]:
    """Run `python -m MODULE ARGS` on one core; what its last line of output says, from JSON.

    Raises RuntimeError with the end of its errors when it fails.
    """
    command = [python, "-m", module, *args]
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
