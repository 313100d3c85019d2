"""The GPUs of a node: their names, for provenance, and whether a server can be started on them.

Absence is an answer, not an error: where there is no nvidia-smi, or no GPU was given to us, nothing is
checked. What is checked is what a driver that has lost a GPU, or a process that outlived its job, would
otherwise cost: minutes of loading a model, to end in an error about memory.

Run as a program (`python -I -S gpus.py SHARE COMMAND...`) it checks the GPUs of the node it is on and
then becomes the command: standard library only. Nothing here ends a process of anybody's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# nvidia-smi takes seconds on a node whose driver is not kept loaded; a hung driver never answers.
TIMEOUT_S = 60.0
# A server that was just ended gives its memory back within seconds.
RELEASE_S = 60.0
POLL_S = 2.0
UNUSABLE = 86
"""Exit code of the program when the GPUs cannot be used."""
NONE_VISIBLE = ("", "-1", "NoDevFiles")


class Gpu(NamedTuple):
    """One GPU; memory in MiB, null where the driver does not say."""

    number: str
    uuid: str
    total: float | None
    free: float | None


class GpuUse(NamedTuple):
    """How much one GPU is used (fractions)."""

    busy: float
    """Share of the driver's last sampling time (a second or less) in which it computed."""
    memory: float
    """Share of its memory in use."""


class Trouble(NamedTuple):
    """Why a server cannot be started on a node's GPUs."""

    text: str
    may_pass: bool
    """It may be over in a moment: memory that is being given back."""


def gpu_names(env: Mapping[str, str]) -> tuple[str, ...]:
    """Names as nvidia-smi prints them, only the visible ones; () without a GPU or nvidia-smi."""
    program, visible = find_program(env), env.get("CUDA_VISIBLE_DEVICES")
    if program is None or visible in NONE_VISIBLE:
        return ()
    try:
        return tuple(_query(program, "--query-gpu=name", visible))
    except (OSError, subprocess.SubprocessError):
        return ()


def find_program(env: Mapping[str, str]) -> str | None:
    """Path of nvidia-smi; None where there is none."""
    return shutil.which("nvidia-smi", path=env.get("PATH"))


def find_trouble(env: Mapping[str, str], share: float) -> Trouble | None:
    """What is wrong with the visible GPUs; None when each has `share` of its memory free."""
    program, visible = find_program(env), env.get("CUDA_VISIBLE_DEVICES")
    # nvidia-smi cannot be asked for parts of a GPU (MIG).
    if program is None or visible in NONE_VISIBLE or "MIG" in (visible or ""):
        return None
    try:
        lines = _query(program, "--query-gpu=index,uuid,memory.total,memory.free", visible)
    except subprocess.TimeoutExpired:
        return Trouble(f"nvidia-smi did not answer within {TIMEOUT_S:.0f} s", may_pass=False)
    except (OSError, subprocess.SubprocessError) as error:
        said = f"nvidia-smi does not find GPU {visible}: {_said(error)}"
        # Nobody gave us a GPU: driver tools on a node without one.
        return None if visible is None else Trouble(said, may_pass=False)
    if visible is not None and len(lines) < len(visible.split(",")):
        return Trouble(f"nvidia-smi finds {len(lines)} of the GPUs {visible}", may_pass=False)
    full = [gpu for gpu in map(_parse, lines) if _lacks(gpu, share)]
    said = "; ".join(_describe(program, gpu, share) for gpu in full)
    return Trouble(said, may_pass=True) if full else None


def use_command(env: Mapping[str, str]) -> list[str] | None:
    """What prints the use of the visible GPUs; None where none can be looked at."""
    program, visible = find_program(env), env.get("CUDA_VISIBLE_DEVICES")
    # nvidia-smi cannot be asked for parts of a GPU (MIG).
    if program is None or visible in NONE_VISIBLE or "MIG" in (visible or ""):
        return None
    return _command(program, "--query-gpu=utilization.gpu,memory.used,memory.total", visible)


def parse_use(printed: str) -> list[GpuUse]:
    """The use of each GPU in what that prints; one whose driver does not say (`[N/A]`) is left out."""
    found = []
    for line in printed.splitlines():
        cells = [_number(cell.strip()) for cell in line.split(",")]
        match cells:
            case [float(busy), float(used), float(total)] if total:
                found.append(GpuUse(round(busy / 100, 3), round(used / total, 3)))
    return found


def wait_for_gpus(
    env: Mapping[str, str], share: float, release_s: float = RELEASE_S, poll_s: float = POLL_S
) -> str | None:
    """What is wrong after memory has had `release_s` to be given back; None when nothing is."""
    deadline = time.monotonic() + release_s
    while (trouble := find_trouble(env, share)) is not None:
        if not trouble.may_pass or time.monotonic() >= deadline:
            return trouble.text
        time.sleep(poll_s)
    return None


def check_command(share: float) -> tuple[str, ...]:
    """argv that goes before a command, to check the GPUs of its node first."""
    return (sys.executable, "-I", "-S", __file__, str(share))


def _command(program: str, what: str, visible: str | None) -> list[str]:
    only = [] if visible is None else [f"--id={visible}"]
    return [program, what, "--format=csv,noheader,nounits", *only]


def _query(program: str, what: str, visible: str | None) -> list[str]:
    done = subprocess.run(
        _command(program, what, visible),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT_S,
        check=True,
    )
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def _parse(line: str) -> Gpu:
    number, uuid, total, free = (*(part.strip() for part in line.split(",")), "", "", "", "")[:4]
    return Gpu(number, uuid, _number(total), _number(free))


def _number(text: str) -> float | None:
    """A count of MiB; None for `[N/A]`, which GPUs that share the host's memory say."""
    return float(text) if text.isdigit() else None


def _lacks(gpu: Gpu, share: float) -> bool:
    return gpu.total is not None and gpu.free is not None and gpu.free < share * gpu.total


def _describe(program: str, gpu: Gpu, share: float) -> str:
    return (
        f"GPU {gpu.number} has {gpu.free:.0f} of {gpu.total:.0f} MiB free, {share:.0%} are needed; "
        f"on it: {', '.join(_users(program, gpu)) or 'no process that nvidia-smi shows'}"
    )


def _users(program: str, gpu: Gpu) -> list[str]:
    """`PID 12 (python, 700 MiB)` for each process that computes on a GPU."""
    try:
        rows = _query(program, "--query-compute-apps=gpu_uuid,pid,process_name,used_memory", None)
    except (OSError, subprocess.SubprocessError):
        return []
    cells = [[cell.strip() for cell in row.split(",")] for row in rows]
    return [f"PID {c[1]} ({c[2]}, {c[3]} MiB)" for c in cells if len(c) == 4 and c[0] == gpu.uuid]


def _said(error: OSError | subprocess.SubprocessError) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return str(error.stdout or error.stderr).strip() or f"exit code {error.returncode}"
    return str(error)


def main(argv: Sequence[str]) -> int:
    """`gpus.py SHARE COMMAND...`"""
    trouble = wait_for_gpus(os.environ, float(argv[0]))  # noqa: TID251 - a program of its own
    if trouble is not None:
        os.write(2, f"{trouble}\n".encode())
        return UNUSABLE
    try:
        os.execvp(argv[1], list(argv[1:]))
    except OSError as error:
        os.write(2, f"cannot start {argv[1]}: {error.strerror}\n".encode())
    return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
