"""Runs the test program of a SciCode step in the sandbox, and reads from its end what it means.

A program passes where it ran to its end within its time. Where it could not begin, because the
sandbox, the interpreter or the targets are not as they must be, that is a ScorerError and not the
model's failure.
"""

from __future__ import annotations

import json
import math
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from evalkit.errors import ScorerError
from evalkit.scoring.sandbox import Ending, Limits, Program
from evalkit.scoring.scicode_code import MAIN, STEP_FILE, render_program

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from evalkit.scoring.sandbox import ProgramResult

LIMITS = Limits(memory_bytes=16 * 2**30, file_bytes=2**30, scratch_bytes=2**30)
"""The harness behind the published scores gave 50 GiB of address space; what is really held by one
program within half a minute is far below this."""
_CPU_GRACE_S = 5
"""The time limit is one of the clock; that of the processor only ends what outlives it."""
_SHOWN_ERROR = 200


class StepResult(StrEnum):
    """What became of a step."""

    PASSED = "passed"
    FAILED = "failed"
    """With an exception, mostly an assertion's."""
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    EARLY_EXIT = "early_exit"
    """It ended by itself, without an error, before its tests did."""
    NOT_ANSWERED = "not_answered"
    """The context window was full before: there is no program."""


class Target(NamedTuple):
    """The tests of one step, and where their targets are."""

    step: str
    tests: Sequence[str]
    file: Path


def step_program(solution: str, target: Target, *, timeout_s: float, word: str) -> Program:
    """What to run. `word` is a secret of this one program: it is how its end is known."""
    source = render_program(solution, target.step, target.tests, target.file)
    job = {
        "word": word,
        "program": STEP_FILE,
        "targets": str(target.file),
        "step": target.step,
        "tests": len(target.tests),
    }
    return Program(
        source=MAIN,
        # A model may write half of a surrogate pair: an error in its program, not in ours.
        files={STEP_FILE: source.encode(errors="surrogatepass")},
        stdin=json.dumps(job).encode(),
        wall_s=timeout_s,
        cpu_s=math.ceil(timeout_s) + _CPU_GRACE_S,
        limits=LIMITS,
    )


def read_result(step: str, result: ProgramResult, word: str) -> dict[str, Any]:
    """`result`, and where it has one its `error`, as JSON. Raises ScorerError where it never began."""
    if f"{word} begun\n".encode() not in result.stdout:
        raise ScorerError(
            f"scicode: the program of step {step} could not begin ({result.ended}): "
            f"{_last_line(result.stderr) or 'it said nothing'}",
            hint="params.python needs numpy, scipy, sympy and h5py, and programs must be able to read "
            "params.test_data: what root starts reads as nobody.",
        )
    found = _verdict(result, f"{word} ended\n".encode())
    error = _last_line(result.stderr) if found is StepResult.FAILED else ""
    return {"result": found.value, **({"error": error} if error else {})}


def _verdict(result: ProgramResult, ended: bytes) -> StepResult:
    match result.ended:
        case Ending.OK:
            return StepResult.PASSED if ended in result.stdout else StepResult.EARLY_EXIT
        case Ending.FAILED:
            return StepResult.FAILED
        case Ending.WALL_TIMEOUT | Ending.CPU_TIMEOUT:
            return StepResult.TIMEOUT
        case Ending.MEMORY:
            return StepResult.MEMORY
        case Ending.OUTPUT_LIMIT:
            return StepResult.OUTPUT_LIMIT


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1][:_SHOWN_ERROR] if lines else ""
