"""Programs that a task of lm-eval runs, each in a sandbox of its own.

lm-eval has noted them; what runs one is the text of the metric that it would have asked (`code_eval`), so the
verdicts are that metric's: its time limit, its guard, its words. What a program does to the process that
judges it can change its own verdict only.

A judge says when the program begins. One that ends before has judged nothing: the program is tried once more,
and then there is no score. One that ends afterwards without a verdict, and does so again, was ended by the
program, whatever the ending: programs whose verdict is known are judged rightly in the same sandbox.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import ScorerError
from evalkit.harnesses.call import INSIDE
from evalkit.harnesses.env import harness_environment
from evalkit.harnesses.inside.check_program import BEGUN
from evalkit.scoring.sandbox import Ending, Limits, Program, SandboxPool, find_sandbox

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.recipe.schema import Scoring
    from evalkit.scoring.sandbox import ProgramResult, Sandbox

RUNNER = INSIDE / "check_program.py"
PRELOAD = ("json", "multiprocessing.managers", "pathlib", "tempfile")
LIMITS = Limits(memory_bytes=16 * 2**30)
GRACE_S = 30.0
"""Beyond a program's own limit, at which the metric itself ends it."""
CONTROLS = {"pass": True, "assert False": False}
"""Programs whose verdict is known, judged before all others."""
TAIL = 2000


def run_programs(
    told: Mapping[str, Any], interpreter: Path, scoring: Scoring
) -> dict[str, dict[str, Any]]:
    """The verdict of each program, by key: `{"passed": bool, "result": its words}`.

    They run in `interpreter`, or in the Python of the recipe's `scoring.image`. What has no verdict is tried
    once more, with fewer at a time. Raises ScorerError where a program was not judged then: nothing is said of any.
    """
    if not told["programs"]:
        return {}
    sandbox = find_sandbox(
        harness_environment(),
        interpreter=interpreter if scoring.image is None else None,
        image=None if scoring.image is None else Path(scoring.image),
        unsafe=scoring.unsafe,
    )
    cores = len(os.sched_getaffinity(0))
    results = _run(sandbox, told, list(told["programs"]), cores)
    again = [key for key, result in results.items() if _said(result) is None]
    if again:
        results |= _run(sandbox, told, again, max(1, cores // 2))
    return {key: _verdict(result) for key, result in _judged(results).items()}


def _run(
    sandbox: Sandbox, told: Mapping[str, Any], keys: Sequence[str], workers: int
) -> dict[str, ProgramResult | ScorerError]:
    """In a pool of their own, behind the controls: a judge that errs about those is not asked."""
    source, given = told["source"], [told["programs"][key] for key in keys]
    longest = max(each["timeout"] for each in given)
    controls = [_program({"program": text, "timeout": longest}, source) for text in CONTROLS]
    with SandboxPool(sandbox, workers=workers, preload=PRELOAD, optional=told["modules"]) as pool:
        wrong = _find_wrong(pool.run(controls))
        if wrong is not None:
            return dict.fromkeys(keys, wrong)
        results = pool.run(_program(each, source) for each in given)
    return dict(zip(keys, results, strict=True))


def _program(given: Mapping[str, Any], source: str) -> Program:
    wall_s = given["timeout"] + GRACE_S
    return Program(
        source=RUNNER.read_text("utf-8"),
        files={"check.py": source.encode(), "program.json": json.dumps(given).encode()},
        wall_s=wall_s,
        cpu_s=int(wall_s),
        limits=LIMITS,
    )


def _find_wrong(results: Sequence[ProgramResult | ScorerError]) -> ScorerError | None:
    """What the judge, or the sandbox, did to the controls."""
    for (text, passes), result in zip(CONTROLS.items(), results, strict=True):
        if (failure := _failure(result)) is not None:
            return failure
        said = _said(result)
        if said is None or said["passed"] is not passes:
            return ScorerError(
                f"the metric's judge says {said} of the program {text!r}, which "
                f"{'passes' if passes else 'fails'}",
                hint="Its Python may be broken, or the machine overloaded.",
            )
    return None


def _judged(results: Mapping[str, ProgramResult | ScorerError]) -> dict[str, ProgramResult]:
    """All of them, or a ScorerError."""
    failures = [each for each in map(_failure, results.values()) if each is not None]
    if failures:
        raise ScorerError(
            f"{len(failures)} of {len(results)} programs were not judged, tried twice: "
            f"{failures[0].message}",
            hint=failures[0].hint,
        )
    return {key: each for key, each in results.items() if not isinstance(each, ScorerError)}


def _failure(result: ProgramResult | ScorerError) -> ScorerError | None:
    """Of the sandbox or of the judge: the program never ran."""
    if isinstance(result, ScorerError):
        return result
    if BEGUN in result.stdout:
        return None
    return ScorerError(
        f"the metric's judge ended before the program began, as {result.ended} (exit code "
        f"{result.exit_code})",
        hint=result.stderr.decode(errors="replace")[-TAIL:] or None,
    )


def _said(result: ProgramResult | ScorerError) -> dict[str, Any] | None:
    """The judge's verdict, where it gave one."""
    if isinstance(result, ScorerError) or BEGUN not in result.stdout:
        return None
    if result.ended is not Ending.OK:
        return None
    try:
        said = json.loads(result.stdout.rpartition(b"\n")[2])
        return {"passed": said["passed"] is True, "result": str(said["result"])}
    except (ValueError, KeyError, TypeError):
        return None  # what the program wrote after the verdict is its own affair


def _verdict(result: ProgramResult) -> dict[str, Any]:
    """Without one the program has twice ended its judge."""
    lost = f"failed: the program ended its judge ({result.ended})"
    return _said(result) or {"passed": False, "result": lost}
