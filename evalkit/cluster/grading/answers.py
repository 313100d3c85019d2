"""Grading answers that are in memory: gold ones, to see whether a grader works here."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evalkit.cluster.facilities import make_programs, program_slots
from evalkit.cluster.grading.unit import UnitTools
from evalkit.errors import EvalkitError, ScorerError, UsageError
from evalkit.recipe.schema import Scoring

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from evalkit.benchmarks.contract import Benchmark, Sample, Solution


def grade_answers(
    benchmark: Benchmark[Any],
    items: Sequence[tuple[Sample, Solution]],
    env: Mapping[str, str],
    on_progress: Callable[[int], None],
) -> list[Solution | ScorerError]:
    """Each answer with what was found about it, in order; a ScorerError where that failed.

    `on_progress` gets the number of those done. Raises UsageError for a benchmark that needs a judge,
    ScorerError where no sandbox works here.
    """
    if benchmark.grader is None:
        return [solution for _, solution in items]
    if benchmark.grader == "judge":
        raise UsageError(
            f"answers to {benchmark.name} are judged by a model, and there is none here",
            hint="`evalkit run` with a recipe that names a judge grades them.",
        )
    return asyncio.run(_grade(benchmark, items, env, on_progress))


async def _grade(
    benchmark: Benchmark[Any],
    items: Sequence[tuple[Sample, Solution]],
    env: Mapping[str, str],
    on_progress: Callable[[int], None],
) -> list[Solution | ScorerError]:
    slots, done = program_slots(), 0
    places = asyncio.Semaphore(slots + 1)
    programs = make_programs(benchmark.sandbox(), Scoring(), env, slots)
    tools = UnitTools(benchmark.name, runner=programs.run)

    async def one(sample: Sample, solution: Solution) -> Solution | ScorerError:
        nonlocal done
        async with places:
            try:
                found = await benchmark.grade(sample, solution, tools)
            except ScorerError as error:
                return error
            except EvalkitError as error:
                return ScorerError(error.message, hint=error.hint)
            finally:
                done += 1
                on_progress(done)
        return replace(solution, grading=found)

    try:
        await programs.check()
        return await asyncio.gather(*(one(*item) for item in items))
    finally:
        await programs.close()
