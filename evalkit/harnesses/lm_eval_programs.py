"""Programs that a task of lm-eval runs, each in a sandbox of its own.

lm-eval has noted them; what runs one is the text of the metric that it would have asked (`code_eval`), so the
verdicts are that metric's: its time limit, its guard, its words. What a program does to the process that
judges it can change its own verdict only.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import ScorerError
from evalkit.harnesses.call import INSIDE
from evalkit.harnesses.env import harness_environment
from evalkit.scoring.sandbox import Ending, Limits, Program, SandboxPool, find_sandbox

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.recipe.schema import Scoring
    from evalkit.scoring.sandbox import ProgramResult

RUNNER = INSIDE / "check_program.py"
PRELOAD = ("json", "multiprocessing.managers", "pathlib", "tempfile")
LIMITS = Limits(memory_bytes=16 * 2**30)
GRACE_S = 30.0
"""Beyond a program's own limit, at which the metric itself ends it."""


def run_programs(
    told: Mapping[str, Any], interpreter: Path, scoring: Scoring
) -> dict[str, dict[str, Any]]:
    """The verdict of each program, by key: `{"passed": bool, "result": its words}`.

    They run in `interpreter`, or in the Python of the recipe's `scoring.image`. Raises ScorerError where the
    sandbox fails: nothing is then said of any program.
    """
    named = told["programs"]
    if not named:
        return {}
    sandbox = find_sandbox(
        harness_environment(),
        interpreter=interpreter if scoring.image is None else None,
        image=None if scoring.image is None else Path(scoring.image),
        unsafe=scoring.unsafe,
    )
    programs = [_program(each, told["source"]) for each in named.values()]
    cores = len(os.sched_getaffinity(0))
    with SandboxPool(sandbox, workers=cores, preload=PRELOAD, optional=told["modules"]) as pool:
        results = pool.run(programs)
    return {key: _verdict(result) for key, result in zip(named, results, strict=True)}


def _program(given: Mapping[str, Any], source: str) -> Program:
    wall_s = given["timeout"] + GRACE_S
    return Program(
        source=RUNNER.read_text("utf-8"),
        files={"check.py": source.encode(), "program.json": json.dumps(given).encode()},
        wall_s=wall_s,
        cpu_s=int(wall_s),
        limits=LIMITS,
    )


def _verdict(result: ProgramResult | ScorerError) -> dict[str, Any]:
    if isinstance(result, ScorerError):
        raise result
    try:
        if result.ended is Ending.OK:
            said = json.loads(result.stdout.rpartition(b"\n")[2])
            return {"passed": said["passed"] is True, "result": str(said["result"])}
    except (ValueError, KeyError, TypeError):
        pass  # what the program wrote after the verdict is its own affair
    return {"passed": False, "result": f"failed: the program ended its judge ({result.ended})"}
