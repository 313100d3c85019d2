"""What goes into the sandbox for some of a program's tests, and how to read what comes out.

A program that takes long is looked at in between: a round of tests ends after `PAUSE_S`, so that one
with a wrong answer does not run on for minutes. In the graders that run all tests in one process the
next round begins in a new one, so theirs are longer.
"""

from __future__ import annotations

import json
import marshal
import math
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.util import MAGIC_NUMBER, cache_from_source, source_hash
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from evalkit.base import Frozen
from evalkit.errors import ScorerError
from evalkit.scoring.sandbox import Limits, Program

if TYPE_CHECKING:
    from collections.abc import Sequence

Grader = Literal["ns-compat", "official", "strict-subprocess"]

PAUSE_S = 10.0
TOGETHER_PAUSE_S = 300.0
"""Of the graders that run all tests in one process: what a module keeps from test to test decides some."""
PRELOAD = (
    "numpy",
    "ast",
    "bisect",
    "collections",
    "copy",
    "ctypes",
    "dataclasses",
    "datetime",
    "decimal",
    "fractions",
    "functools",
    "heapq",
    "itertools",
    "json",
    "math",
    "operator",
    "queue",
    "random",
    "re",
    "shutil",
    "statistics",
    "string",
    "subprocess",
    "tempfile",
    "typing",
)
"""Imported once for all programs: what the preamble imports, what we need, and the slow one."""

_MIB = 2**20
_ROUND_BYTES = 96 * _MIB
"""Texts of one round: a job is several copies of them, and a frame of the sandbox holds 512 MiB."""
_MOST_ROUND_OUTPUT = 256 * _MIB
_UNCHECKED = (1).to_bytes(4, "little")
"""Says in a cached module that its source has not changed (PEP 552)."""
_START = "import lcb_inside.supervisor\nlcb_inside.supervisor.main()\n"


@dataclass(frozen=True, slots=True)
class Cases:
    """Inputs of tests, and what is expected for them: texts of the streams, or JSON by line and of the result."""

    inputs: Sequence[str]
    outputs: Sequence[str]

    def __len__(self) -> int:
        """Number of tests."""
        return len(self.inputs)


@dataclass(frozen=True, slots=True)
class Task:
    """A program, and how it is to be judged."""

    code: str
    tests: Cases
    function: str | None
    """Name of the function to call; without, it is a program that reads and writes."""
    grader: Grader
    limit_s: float
    """For each test, of the wall's time."""


def next_round(tests: Cases, start: int) -> Cases:
    """As many of the tests from `start` on as one program can take; at least one."""
    stop, size = start, 0
    while stop < len(tests) and (stop == start or size < _ROUND_BYTES):
        size += len(tests.inputs[stop]) + len(tests.outputs[stop])
        stop += 1
    return Cases(tests.inputs[start:stop], tests.outputs[start:stop])


def make_program(task: Task, part: Cases) -> Program:
    """The supervisor with its job."""
    # Of the expected output only a rounded length goes in: nobody reads a runaway program's gigabytes.
    most = [_MIB * math.ceil(4 * len(output) / _MIB + 1) for output in part.outputs]
    job = {
        "grader": task.grader,
        "code": task.code,
        "function": task.function,
        "inputs": part.inputs,
        "most_bytes": most,
        "limit_s": task.limit_s,
        "pause_s": PAUSE_S if task.grader == "strict-subprocess" else TOGETHER_PAUSE_S,
    }
    wall_s = (task.limit_s + 1) * len(part) + 5
    limits = Limits(
        output_bytes=min(sum(most) + _MIB * len(most), _MOST_ROUND_OUTPUT),
        scratch_bytes=256 * _MIB + 4 * max(map(len, part.inputs)),
    )
    return Program(
        source=_START,
        files=_inside(),
        stdin=json.dumps(job).encode(),
        wall_s=wall_s,
        cpu_s=2 * math.ceil(wall_s),
        limits=limits,
    )


@cache
def _inside() -> dict[str, bytes]:
    """Our modules, and their code for this Python: compiling them for each program took 30 ms."""
    files: dict[str, bytes] = {}
    for file in (resources.files("evalkit.scoring.lcb") / "inside").iterdir():
        if file.name.endswith(".py"):
            path, source = f"lcb_inside/{file.name}", file.read_bytes()
            code = marshal.dumps(compile(source, path, "exec", dont_inherit=True))
            head = MAGIC_NUMBER + _UNCHECKED + source_hash(source)
            files |= {path: source, cache_from_source(path): head + code}
    return files


class Report(Frozen):
    """What the supervisor says of one test; -1 is the program before the first."""

    test: int
    ended: Literal["returned", "raised", "died", "timeout", "output_limit"]
    wall_s: float
    cpu_s: float
    status: int | None
    """The process's exit code, or a signal's number below zero."""
    detail: str
    size: int
    content: bytes = b""
    """Its output, or the result of the function as `inside/values.py` writes it."""


def read_reports(stdout: bytes) -> tuple[list[Report], str | None]:
    """Whole reports, and how the round ended, or None where it broke off.

    Raises ScorerError for what the supervisor does not write.
    """
    reports: list[Report] = []
    position = 0
    while (stop := stdout.find(b"\n", position)) >= 0:
        try:
            line = json.loads(stdout[position:stop])
            if "end" in line:
                return reports, str(line["end"])
            report = Report.model_validate(line)
        except (ValueError, TypeError, ValidationError) as error:
            raise ScorerError(f"the supervisor of a program wrote nonsense: {error}") from error
        position = stop + 1 + report.size
        content = stdout[stop + 1 : position]
        if len(content) < report.size:
            break
        reports.append(report.model_copy(update={"content": content}))
    return reports, None
