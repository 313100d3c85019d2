"""Grading one unit: ask the benchmark, journal what it found, or the failure of ours that kept it.

The border to benchmark code, as `evalkit.cluster.units` is for `solve`: whatever a `grade` raises is
a failure of this unit, with the reason in the journal, and never a wrong answer.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.benchmarks.contract import Solution
from evalkit.errors import InfraError, JudgeError, ScorerError, ServingError, StoreError
from evalkit.store.records import GradingRecord, Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from evalkit.benchmarks.contract import Benchmark, Message, Sample
    from evalkit.client.durable import DurableModel
    from evalkit.cluster.grading.queue import GradingItem
    from evalkit.scoring.sandbox import Program, ProgramResult
    from evalkit.store.records import Reply

log = logging.getLogger("evalkit.grading")


@dataclass(frozen=True, slots=True)
class UnitTools:
    """What one unit's `grade` may use."""

    name: str
    """Of the benchmark."""
    runner: Callable[[Program], Awaitable[ProgramResult]] | None = None
    model: DurableModel | None = None
    """The judge."""

    async def run(self, program: Program) -> ProgramResult:
        """Run a program in the sandbox. Raises InfraError where the sandbox fails."""
        if self.runner is None:
            raise ScorerError(f"{self.name} runs a program, and its grader is not `sandbox`")
        return await self.runner(program)

    async def judge(
        self, messages: Sequence[Message], *, overrides: Mapping[str, Any] | None = None
    ) -> Reply:
        """One durable call of the judge. Raises InfraError, EndpointError."""
        if self.model is None:
            raise ScorerError(f"{self.name} asks a judge, and its grader is not `judge`")
        return await self.model.chat(messages, overrides=overrides)


async def grade_unit(
    benchmark: Benchmark[Any], sample: Sample, item: GradingItem, tools: UnitTools
) -> GradingRecord:
    """Grade one unit, and append what came of it to its journal: a finding, or why there is none.

    Raises ServingError when the judge is of no use any more, StoreError.
    """
    unit = item.unit
    solution = Solution(unit.text, unit.outcome, unit.data, unit.detail)
    failing = Outcome.JUDGE_ERROR if benchmark.grader == "judge" else Outcome.SCORER_ERROR
    try:
        found = await benchmark.grade(sample, solution, tools)
        if tools.model is not None and tools.model.failure is not None:
            raise tools.model.failure  # whatever was made of it
        if found is None:
            raise ScorerError(f"grade of {benchmark.name} found nothing on sample {sample.id}")
    except (ServingError, StoreError):
        raise
    except JudgeError as error:
        # what the judge said is of no use, so it is asked anew the next time
        return _failed(item, Outcome.JUDGE_ERROR, error.message, anew=True)
    except InfraError as error:
        return _failed(item, failing, error.message)
    except ScorerError as error:
        return _failed(item, Outcome.SCORER_ERROR, error.message)
    except Exception as error:
        # A benchmark is a plug-in: a bug in its grade costs this unit, not the stage, and is shown.
        log.exception("grade of %s failed on sample %s", benchmark.name, sample.id)
        return _failed(item, failing, f"grade failed: {error!r}")
    record = GradingRecord(unit.key.sample, unit.key.repeat, item.solution, Outcome.OK, found)
    item.work.shard.writer.append(record)
    return record


def _failed(
    item: GradingItem, outcome: Outcome, detail: str, *, anew: bool = False
) -> GradingRecord:
    key = item.unit.key
    record = GradingRecord(key.sample, key.repeat, item.solution, outcome, detail=detail, anew=anew)
    item.work.shard.writer.append(record)
    return record
