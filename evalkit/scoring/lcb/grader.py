"""The three graders of LiveCodeBench: what is run how, and what its end means.

`ns-compat` is the grader behind the card and `official` that of the authors: both run the program
inside the grading process, which many right programs do not survive (docs/guide/benchmarks.md).
`strict-subprocess` runs it as a program. In the originals the program could read the expected output,
or redefine what is compared; here all three run in the sandbox below a supervisor, nothing that is
expected goes in, and what comes out is compared by `evalkit.scoring.lcb.compare`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from evalkit.errors import ScorerError
from evalkit.scoring.lcb.compare import UndecidedError, same_output, same_result
from evalkit.scoring.lcb.rounds import Report, Task, make_program, next_round, read_reports
from evalkit.scoring.sandbox import Ending, Program, ProgramResult

Run = Callable[[Program], Awaitable[ProgramResult]]


class ResultCode(IntEnum):
    """Of the original graders."""

    PASSED = 1
    GLOBAL_TIMEOUT = -1
    WRONG_ANSWER = -2
    TIME_LIMIT = -3
    ERROR = -4
    """It raised, does not compile, died, or used more than it may."""


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
        part = next_round(task.tests, tally.n_passed)
        result = await run(await asyncio.to_thread(make_program, task, part))
        failure = await asyncio.to_thread(tally.count, result, task, part.outputs)
        if failure is not None:
            return failure
    return tally.verdict(ResultCode.PASSED, "")


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

    def count(self, result: ProgramResult, task: Task, outputs: Sequence[str]) -> Verdict | None:
        """Take a round in; the verdict where there was a failure. Raises ScorerError."""
        self.cpu_s += result.cpu_s
        reports, end = read_reports(result.stdout)
        for report in reports:
            failure = self._count_one(report, task, outputs)
            if failure is not None:
                return failure
        if end is None:
            return self.verdict(*_broken_off(result))
        if not reports:
            raise ScorerError(f"the supervisor of a program said {end!r} and ran no test")
        return None

    def _count_one(self, report: Report, task: Task, outputs: Sequence[str]) -> Verdict | None:
        self._wall_s += report.wall_s
        if report.ended != "returned":
            return self._not_returned(report, task)
        self._slowest_s = max(self._slowest_s, report.wall_s)
        code, detail = _compare(report.content, outputs[report.test], task)
        if code is not ResultCode.PASSED:
            return self.verdict(code, detail)
        self.n_passed += 1
        return None

    def _not_returned(self, report: Report, task: Task) -> Verdict:
        detail = report.detail
        match report.ended:
            case "timeout" if report.test < 0:
                # The originals count that as an error, too.
                return self.verdict(ResultCode.ERROR, "its module-level code takes too long")
            case "timeout":
                starved = report.cpu_s < task.limit_s / 2
                spent = f"{report.cpu_s:.1f} s of CPU time"
                detail = f"more than {task.limit_s:g} s, with {spent}"
                return self.verdict(ResultCode.TIME_LIMIT, detail, starved=starved)
            case "output_limit":
                return self.verdict(ResultCode.WRONG_ANSWER, "it writes more than it may")
            case "died":
                said = f": {detail}" if detail else ""
                ended = f"it ended without a result (status {report.status}){said}"
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
