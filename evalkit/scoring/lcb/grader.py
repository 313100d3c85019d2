"""The three graders of LiveCodeBench: what is run how, and what its end means.

`ns-compat` is the grader behind the card and `official` that of the authors: both run the program
inside the grading process, which many right programs do not survive (docs/guide/benchmarks.md).
`strict-subprocess` runs it as a program. In the originals the program could read the expected output,
or redefine what is compared; here all three run in the sandbox below a supervisor, nothing that is
expected goes in, and what comes out is compared by `evalkit.scoring.lcb.compare`.

A program that takes long is looked at in between: rounds of tests end after `PAUSE_S`, so that one with
a wrong answer does not run on for minutes. In the graders that run all tests in one process, the next
round begins in a new one.
"""

from __future__ import annotations

import asyncio
import json
import marshal
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from importlib import resources
from importlib.util import MAGIC_NUMBER, cache_from_source, source_hash
from typing import Any, Literal

from evalkit.errors import ScorerError
from evalkit.scoring.lcb.compare import UndecidedError, same_output, same_result
from evalkit.scoring.sandbox import Ending, Limits, Program, ProgramResult

Grader = Literal["ns-compat", "official", "strict-subprocess"]
Run = Callable[[Program], Awaitable[ProgramResult]]

PAUSE_S = 10.0
PRELOAD: tuple[str, ...] = (
    *(
        "numpy",
        "ast",
        "bisect",
        "collections",
        "copy",
        "ctypes",
        "dataclasses",
        "datetime",
        "decimal",
    ),
    *(
        "fractions",
        "functools",
        "heapq",
        "itertools",
        "json",
        "math",
        "operator",
        "queue",
        "random",
    ),
    *("re", "shutil", "statistics", "string", "subprocess", "typing"),
)
"""Imported once for all programs: what the preamble imports, what we need, and the slow one."""

_MIB = 2**20
_ROUND_BYTES = 96 * _MIB
"""Inputs of one round: a job is several copies of them, and a frame of the sandbox holds 512 MiB."""
_MOST_ROUND_OUTPUT = 256 * _MIB
_UNCHECKED = (1).to_bytes(4, "little")
"""Says in a cached module that its source has not changed (PEP 552)."""
_START = "import lcb_inside.supervisor\nlcb_inside.supervisor.main()\n"


class ResultCode(IntEnum):
    """Of the original graders."""

    PASSED = 1
    GLOBAL_TIMEOUT = -1
    WRONG_ANSWER = -2
    TIME_LIMIT = -3
    ERROR = -4
    """It raised, does not compile, died, or used more than it may."""


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


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it: that all tests are passed, or how the first of the others ended."""

    code: ResultCode
    n_passed: int
    """Cases passed before the first that was not; the later ones were not looked at."""
    detail: str
    """A sentence for people; empty where all are passed."""
    wall_s: float
    """Of the tests that were run."""
    cpu_s: float
    slowest_s: float
    """Wall time of the slowest test that ended by itself."""
    starved: bool
    """It met the time limit and had used less than half of it of a processor: it slept, or the
    machine was busy with others."""


async def grade_code(task: Task, run: Run) -> Verdict:
    """Judge a program. Raises ScorerError where the sandbox fails."""
    tally = _Tally()
    if not task.code.strip():
        return tally.verdict(ResultCode.ERROR, "there is no program in the answer")
    while tally.n_passed < len(task.tests):
        inputs, outputs = _next_round(task.tests, tally.n_passed)
        result = await run(await asyncio.to_thread(_program, task, inputs, outputs))
        tally.cpu_s += result.cpu_s
        reports, end = read_reports(result.stdout)
        for report, content in reports:
            failure = tally.count(report, content, task, outputs)
            if failure is not None:
                return failure
        if end is None:
            return tally.verdict(*_broken_off(result))
    return tally.verdict(ResultCode.PASSED, "")


def _next_round(tests: Cases, start: int) -> tuple[Sequence[str], Sequence[str]]:
    stop, size = start, 0
    while stop < len(tests) and (stop == start or size < _ROUND_BYTES):
        size += len(tests.inputs[stop]) + len(tests.outputs[stop])
        stop += 1
    return tests.inputs[start:stop], tests.outputs[start:stop]


def _program(task: Task, inputs: Sequence[str], outputs: Sequence[str]) -> Program:
    # Of the expected output only a rounded length goes in: nobody reads a runaway program's gigabytes.
    most = [_MIB * math.ceil(4 * len(output) / _MIB + 1) for output in outputs]
    job = {
        "grader": task.grader,
        "code": task.code,
        "function": task.function,
        "inputs": inputs,
        "most_bytes": most,
        "limit_s": task.limit_s,
        "pause_s": PAUSE_S,
    }
    wall_s = (task.limit_s + 1) * len(inputs) + 5
    limits = Limits(
        output_bytes=min(sum(most) + _MIB * len(most), _MOST_ROUND_OUTPUT),
        scratch_bytes=256 * _MIB + 4 * max(map(len, inputs)),
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


def read_reports(stdout: bytes) -> tuple[list[tuple[dict[str, Any], bytes]], str | None]:
    """Whole reports, each with its content, and how the round ended, or None where it broke off.

    Raises ScorerError for what the supervisor does not write.
    """
    reports: list[tuple[dict[str, Any], bytes]] = []
    position = 0
    while (stop := stdout.find(b"\n", position)) >= 0:
        try:
            line = json.loads(stdout[position:stop])
            if "end" in line:
                return reports, str(line["end"])
            content = stdout[stop + 1 : stop + 1 + line["size"]]
            if len(content) < line["size"]:
                break
            position = stop + 1 + line["size"]
        except (ValueError, KeyError, TypeError) as error:
            raise ScorerError(f"the supervisor of a program wrote nonsense: {error!r}") from error
        reports.append((line, content))
    return reports, None


def _broken_off(result: ProgramResult) -> tuple[ResultCode, str]:
    """The supervisor did not come to its end. Raises ScorerError where that is not the program's doing."""
    match result.ended:
        case Ending.WALL_TIMEOUT:
            return ResultCode.GLOBAL_TIMEOUT, "the time for all tests is over"
        case Ending.MEMORY:
            return ResultCode.ERROR, "its processes together use more memory than they may"
        case Ending.OUTPUT_LIMIT:
            return ResultCode.WRONG_ANSWER, "it writes more than it may"
        case Ending.FAILED if result.signal is not None:
            return ResultCode.ERROR, f"it ended its supervisor with signal {result.signal}"
    said = result.stderr.decode(errors="replace").strip().splitlines()[-1:]
    raise ScorerError(f"the supervisor of a program ended as {result.ended}: {said or 'no word'}")


class _Tally:
    """What is known so far."""

    def __init__(self) -> None:
        self.n_passed = 0
        self.cpu_s = self._wall_s = self._slowest_s = 0.0

    def count(
        self, report: dict[str, Any], content: bytes, task: Task, outputs: Sequence[str]
    ) -> Verdict | None:
        """Take a report in; the verdict where it is a failure."""
        self._wall_s += report["wall_s"]
        if report["ended"] != "returned":
            return self._not_returned(report, task)
        self._slowest_s = max(self._slowest_s, report["wall_s"])
        code, detail = _compare(content, outputs[report["test"]], task)
        if code is not ResultCode.PASSED:
            return self.verdict(code, detail)
        self.n_passed += 1
        return None

    def _not_returned(self, report: dict[str, Any], task: Task) -> Verdict:
        detail = report["detail"]
        match report["ended"]:
            case "timeout" if report["test"] < 0:
                # The originals count that as an error, too.
                return self.verdict(ResultCode.ERROR, "its module-level code takes too long")
            case "timeout":
                starved = report["cpu_s"] < task.limit_s / 2
                spent = f"{report['cpu_s']:.1f} s of CPU time"
                detail = f"more than {task.limit_s:g} s, with {spent}"
                return self.verdict(ResultCode.TIME_LIMIT, detail, starved=starved)
            case "output_limit":
                return self.verdict(ResultCode.WRONG_ANSWER, "it writes more than it may")
            case "died":
                said = f": {detail}" if detail else ""
                ended = f"it ended without a result (status {report['status']}){said}"
                return self.verdict(ResultCode.ERROR, ended)
            case _:
                return self.verdict(ResultCode.ERROR, detail)

    def verdict(self, code: ResultCode, detail: str, *, starved: bool = False) -> Verdict:
        """With the numbers so far."""
        return Verdict(
            code,
            self.n_passed,
            detail,
            round(self._wall_s, 4),
            round(self.cpu_s, 4),
            self._slowest_s,
            starved,
        )


def _compare(content: bytes, expected: str, task: Task) -> tuple[ResultCode, str]:
    if task.function is None:
        return _judged(same=same_output(_text(content), expected))
    try:
        return _judged(same=same_result(content, expected))
    except (UndecidedError, ValueError, RecursionError) as error:
        return ResultCode.ERROR, f"its result cannot be compared: {error}"


def _text(content: bytes) -> str:
    """Half of a surrogate pair can be printed to what the original graders capture with."""
    try:
        return content.decode(errors="surrogatepass")
    except UnicodeDecodeError:
        return content.decode(errors="replace")


def _judged(*, same: bool) -> tuple[ResultCode, str]:
    return (ResultCode.PASSED, "") if same else (ResultCode.WRONG_ANSWER, "another output")
