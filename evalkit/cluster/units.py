"""Doing one unit: solve it with durable calls, journal its end, count it.

The border to benchmark code: whatever a `solve` raises ends that unit as ours, with the reason in the
journal, and never as a wrong answer.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from evalkit.benchmarks.contract import served_model
from evalkit.benchmarks.frozen import load_frozen
from evalkit.benchmarks.registry import benchmark_for
from evalkit.client.durable import DurableModel
from evalkit.client.replies import ThinkTags
from evalkit.client.request import RequestBuilder
from evalkit.errors import (
    FailureKind,
    InfraError,
    JudgeError,
    ScorerError,
    ServingError,
    StoreError,
)
from evalkit.redaction import redact
from evalkit.store.records import Outcome, UnitRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalkit.benchmarks.contract import Benchmark, Sample, Solution
    from evalkit.client.durable import Calling
    from evalkit.client.relayed import Traffic
    from evalkit.client.steps import Facilities
    from evalkit.errors import EvalkitError
    from evalkit.plan.model import DeploymentPlan, TaskPlan
    from evalkit.store.layout import RunFolder
    from evalkit.store.work import WorkItem

log = logging.getLogger("evalkit.worker")

OUTCOMES = {
    InfraError: Outcome.INFRA_ERROR,
    ScorerError: Outcome.SCORER_ERROR,
    JudgeError: Outcome.JUDGE_ERROR,
}
"""Failures that end a unit; others end the attempt."""


@dataclass(frozen=True, slots=True)
class TaskWork:
    """A planned task with what is needed to do its units against one endpoint."""

    plan: TaskPlan
    benchmark: Benchmark[Any]
    samples: Sequence[Sample]
    builder: RequestBuilder
    facilities: Facilities | None = None
    """What units may use besides the model; null for a benchmark of single calls."""
    secrets: Sequence[str] = ()
    """What a unit's record must not show: programs and endpoints say what they were given."""

    @classmethod
    def load(cls, folder: RunFolder, plan: TaskPlan, deployment: DeploymentPlan) -> TaskWork:
        """Read the frozen samples. Raises StoreError, PlanError."""
        builder = RequestBuilder(plan.generation, deployment.served_model_name, plan.request)
        benchmark, samples = benchmark_for(plan), load_frozen(folder, plan)
        benchmark.meet(served_model(deployment), samples)
        return cls(plan, benchmark, samples, builder)


@dataclass(frozen=True, slots=True)
class UnitEnd:
    """How a unit ended, and its answer where there is one."""

    outcome: Outcome
    solution: Solution | None = None


async def do_unit(work: TaskWork, item: WorkItem, client: Calling) -> UnitEnd:
    """Solve one unit and append what came of it to its journal.

    Raises ServingError when the server or endpoint is of no use any more; other failures of a unit
    are its end.
    """
    writer = item.shard.writer
    model = DurableModel(
        client,
        work.builder,
        ThinkTags.of(work.plan.reasoning),
        item.key,
        item,
        work.facilities,
    )
    sample = work.samples[item.key.sample]
    try:
        solution = await _solve(work.benchmark, sample, model)
        if model.failure is None and not work.benchmark.single_call:
            writer.append(_unit_record(item, solution, model))
    except (ServingError, StoreError):
        raise
    except InfraError as error:
        return _owed(work, item, Outcome.INFRA_ERROR, error, model)
    except Exception as error:
        if model.failure is None:
            # A benchmark is a plug-in: a bug in its solve costs this unit, not the run, and is shown.
            log.exception("solve of %s failed on sample %s", work.plan.name, sample.id)
            bug = ScorerError(f"solve failed: {error!r}")
            return _owed(work, item, Outcome.SCORER_ERROR, bug, model)
        return _unanswered(work, item, model, model.failure)
    finally:
        await model.end()
    if model.failure is not None:
        return _unanswered(work, item, model, model.failure)
    return UnitEnd(solution.outcome, solution)


async def _solve(benchmark: Benchmark[Any], sample: Sample, model: DurableModel) -> Solution:
    try:
        solution = await benchmark.solve(sample, model)
    except asyncio.CancelledError:
        await model.end(None)  # they end for the reason that it does: the server, or the worker
        raise
    if not benchmark.drives:
        return solution
    if model.failure is None and not model.relays.answered:
        raise InfraError(
            "the program ended and had asked the model nothing: has it another address or answers of its "
            "own? The gateway is in OPENAI_BASE_URL and OPENAI_API_KEY",
            kind=FailureKind.CONFIG,
        )
    return with_traffic(solution, model.relays.traffic)


def with_traffic(solution: Solution, traffic: Traffic) -> Solution:
    """A driven unit's solution; where its program did not ask again for what the journal had, its data
    say so under `gateway`. Nothing else of the traffic: answers do not tell of interruptions."""
    if not traffic.unasked:
        return solution
    data = {} if solution.data is None else solution.data
    return replace(solution, data={**data, "gateway": traffic.to_json()})


def _unanswered(
    work: TaskWork, item: WorkItem, model: DurableModel, failure: EvalkitError
) -> UnitEnd:
    """The end of a unit one of whose calls or steps failed, whatever its solve made of that: an answer
    that was made without a reply would be scored for ever."""
    for cls, outcome in OUTCOMES.items():
        if isinstance(failure, cls):
            return _owed(work, item, outcome, failure, model)
    raise failure


def _unit_record(item: WorkItem, solution: Solution, model: DurableModel) -> UnitRecord:
    return UnitRecord(
        sample=item.key.sample,
        repeat=item.key.repeat,
        outcome=solution.outcome,
        text=solution.text,
        data=solution.data,
        calls=model.calls,
        unanswered=model.unanswered,
        relayed=tuple(sorted(model.relays.answered)),
        steps=model.steps,
        undone=model.undone,
        detail=solution.detail,
    )


def _owed(
    work: TaskWork, item: WorkItem, outcome: Outcome, error: EvalkitError, model: DurableModel
) -> UnitEnd:
    """The end of a unit that failed because of us."""
    record = UnitRecord(
        sample=item.key.sample,
        repeat=item.key.repeat,
        outcome=outcome,
        text="",
        calls=model.calls,
        detail=redact(error.message, work.secrets),
        kind=error.kind,
    )
    item.shard.writer.append(record)
    return UnitEnd(outcome)
