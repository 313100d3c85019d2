"""What is asked of a sandbox, and what it answers: values that are compared, stored and tested.

A program that crashes, loops or fills its disk is an answer like any other: its result says so. That
the sandbox itself failed is never a result; it is a ScorerError, so that no unit is scored as wrong
because of us.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from evalkit.errors import ScorerError
from evalkit.scoring.sandbox.inside.framing import FramingError, pack_bytes, unpack_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MIB = 2**20


class Ending(StrEnum):
    """How a program ended."""

    OK = "ok"
    """By itself, with exit code 0."""
    FAILED = "failed"
    """By itself, with another exit code or by a signal."""
    WALL_TIMEOUT = "wall_timeout"
    CPU_TIMEOUT = "cpu_timeout"
    """Its first process used more than `cpu_s`; each process that it starts has the same limit."""
    MEMORY = "memory"
    """All its processes together held more than the limit. A single allocation above the limit
    fails in the program, which then ends in its own way: `failed`, mostly."""
    OUTPUT_LIMIT = "output_limit"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use. The first four are per process, except where it says so."""

    memory_bytes: int = 4096 * _MIB
    """Address space; the resident memory of all processes together is held below it, too."""
    stack_bytes: int = 64 * _MIB
    """Enough for a recursion of 50,000 Python calls, which is what code benchmarks ask for."""
    file_bytes: int = 256 * _MIB
    """Size of one file."""
    open_files: int = 256
    processes: int = 64
    """Processes and threads at a time, of the program as a whole."""
    scratch_bytes: int = 256 * _MIB
    """All files together, shared memory included."""
    output_bytes: int = 8 * _MIB
    """Kept of stdout and of stderr, each; more ends the program."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value <= 0:
                raise ValueError(f"{name}={value} must be positive")


@dataclass(frozen=True, slots=True)
class Program:
    """Either `source`, run in a forked warm interpreter, or `argv`, a process of its own."""

    source: str | None = None
    """Python; also written to `main.py` in the working folder."""
    argv: Sequence[str] | None = None
    """The program and its arguments; `main.py` and others come through `files`."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Placed in the working folder before the start, by relative path."""
    stdin: bytes = b""
    wall_s: float = 10.0
    cpu_s: int = 10
    """Whole seconds, which is what the kernel counts in."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if (self.source is None) == (not self.argv):
            raise ValueError("a Program has either `source` or `argv`")
        if self.wall_s <= 0 or self.cpu_s <= 0:
            raise ValueError(f"wall_s={self.wall_s} and cpu_s={self.cpu_s} must be positive")
        for name in self.files:
            path = PurePosixPath(name)
            if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
                raise ValueError(f"files: {name!r} is not a path below the working folder")


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """How one program ended, and what it wrote."""

    ended: Ending
    exit_code: int | None
    """Null where it was ended, by a signal or by us."""
    signal: int | None
    """The signal that ended it, where it was not us who sent it."""
    stdout: bytes
    stderr: bytes
    stdout_cut: int
    """Bytes that were read above the limit and not kept."""
    stderr_cut: int
    wall_s: float
    cpu_s: float
    """User and system time of all processes of the program."""


def to_job(program: Program, beside: int) -> dict[str, Any]:
    """The program as a frame; `beside` processes of others count against the same limit."""
    limits = asdict(program.limits)
    limits["processes"] += beside
    # A model may write half of a surrogate pair; that is an error in its program, not in ours.
    source = None if program.source is None else program.source.encode(errors="surrogatepass")
    return {
        "kind": "program",
        "source": None if source is None else pack_bytes(source),
        "argv": None if program.argv is None else list(program.argv),
        "files": {name: pack_bytes(content) for name, content in program.files.items()},
        "stdin": pack_bytes(program.stdin),
        "wall_s": program.wall_s,
        "cpu_s": program.cpu_s,
        "limits": limits,
    }


def to_result(frame: Mapping[str, Any]) -> ProgramResult:
    """The answer to a job. Raises ScorerError where it is a failure of the sandbox."""
    if "error" in frame:
        raise ScorerError(f"the sandbox could not run a program: {frame['error']}")
    try:
        return ProgramResult(
            ended=Ending(frame["ended"]),
            exit_code=frame["exit_code"],
            signal=frame["signal"],
            stdout=unpack_bytes(frame["stdout"]),
            stderr=unpack_bytes(frame["stderr"]),
            stdout_cut=frame["stdout_cut"],
            stderr_cut=frame["stderr_cut"],
            wall_s=frame["wall_s"],
            cpu_s=frame["cpu_s"],
        )
    except (KeyError, ValueError, FramingError) as error:
        raise ScorerError(f"the sandbox gave no readable result: {error!r}") from error
