"""The stage between generation and gather: every finished unit of a task that needs it is graded.

It may run at any time, beside workers and beside other graders, as often as one likes: what was found
stays found, and what failed is tried again.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, assert_never

from evalkit.benchmarks.registry import benchmark_for
from evalkit.cluster.attempts import begin_attempt
from evalkit.cluster.credentials import run_secrets
from evalkit.cluster.facilities import make_programs, program_slots
from evalkit.cluster.grading.judging import Grader, JudgeModel, with_judge
from evalkit.cluster.grading.unit import UnitTools, grade_unit
from evalkit.cluster.grading.work import (
    GradingProgress,
    GradingQueue,
    GradingTask,
    Watching,
    describe_place,
)
from evalkit.cluster.job import current_job
from evalkit.cluster.runlog import attempt_logging
from evalkit.errors import EvalkitError, JudgeError, ScorerError
from evalkit.redaction import redact
from evalkit.store.journal import JournalSet
from evalkit.store.run import load_cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from evalkit.benchmarks.contract import Benchmark
    from evalkit.clock import Clock
    from evalkit.cluster.grading.work import GradingItem
    from evalkit.plan.model import Plan, TaskPlan
    from evalkit.store.layout import RunFolder

__all__ = ["GradingProgress", "Watching", "grade_run", "ungraded_tasks"]

log = logging.getLogger("evalkit.grading")

REPLICA = "r900"
"""Graders and replicas of a run are told apart by their names, on a node that has both."""


def ungraded_tasks(folder: RunFolder, plan: Plan, tasks: Sequence[TaskPlan]) -> list[TaskPlan]:
    """Those of `tasks` that have finished units which nothing was found about yet.

    Raises StoreError, PlanError.
    """
    return [task for task, _ in _owed(folder, plan, tasks)]


def _owed(
    folder: RunFolder, plan: Plan, tasks: Sequence[TaskPlan]
) -> list[tuple[TaskPlan, GradingTask]]:
    owed = []
    for task in tasks:
        benchmark: Benchmark[Any] = benchmark_for(task)
        if benchmark.grader is None:
            continue
        grading = GradingTask.load(folder, plan, task, benchmark)
        if not grading.is_done():
            owed.append((task, grading))
    return owed


def grade_run(
    folder: RunFolder,
    plan: Plan,
    *,
    tasks: Sequence[TaskPlan],
    env: Mapping[str, str],
    clock: Clock,
    watching: Watching,
) -> list[EvalkitError]:
    """Grade what `tasks`, of this run, owe; the reasons why a whole task could not be.

    Single units that fail are in the journals. Raises StoreError, and PlanError for a benchmark of
    another version.
    """
    failures: list[EvalkitError] = []
    for task, grading in _owed(folder, plan, tasks):
        watching.tell(f"grading {task.name}")
        describe_place(grading)
        attempt = begin_attempt(grading.place, REPLICA)
        # a judge that we serve is on this node, however many a replica has
        cluster = load_cluster(folder).model_copy(update={"nodes": 1})
        grader = Grader(attempt, current_job(), cluster, env, clock, watching.tell)
        hidden = run_secrets(plan, env)
        with attempt_logging(grading.place.worker_log(REPLICA, attempt.number), hidden):
            failure = _try_task(grader, grading, watching)
        if failure is not None:
            failure.message = redact(failure.message, hidden)
            failures.append(failure)
    return failures


def _try_task(grader: Grader, grading: GradingTask, watching: Watching) -> EvalkitError | None:
    """Grade a task; why it, or some of its units, could not be."""
    name = grading.task.name
    last = GradingProgress(name, 0, 0, 0)

    def follow(progress: GradingProgress) -> None:
        nonlocal last
        last = progress
        watching.on_progress(progress)

    try:
        asyncio.run(_grade_task(grader, grading, follow))
    except EvalkitError as error:
        log.exception("%s cannot be graded", name)
        if not error.message.startswith("tasks."):
            error.message = f"tasks.{name} cannot be graded: {error.message}"
        return error
    if not last.failed:
        return None
    kind = JudgeError if grading.benchmark.grader == "judge" else ScorerError
    return kind(
        f"tasks.{name}: {last.failed:,} answers could not be graded; the last: {last.message}",
        hint="They have no score, and are none wrong: `evalkit score` tries them again.",
    )


async def _grade_task(
    grader: Grader, grading: GradingTask, on_progress: Callable[[GradingProgress], None]
) -> None:
    pass_over = Pass(grader.attempt.id, grading, on_progress, grader.tell)
    match grading.benchmark.grader:
        case "sandbox":
            await _run_programs(grader, pass_over)
        case "judge":
            await _ask_judge(grader, pass_over)
        case None:
            raise ScorerError(f"{grading.benchmark.name} has no grader")
        case other:
            assert_never(other)


async def _run_programs(grader: Grader, pass_over: Pass) -> None:
    benchmark, slots = pass_over.grading.benchmark, program_slots()
    scoring = pass_over.grading.plan.scoring
    programs = make_programs(benchmark.sandbox(), scoring, grader.env, slots)
    tools = UnitTools(benchmark.name, runner=programs.run)
    try:
        await programs.check()
        # one more than can run: the next is ready when a core is
        await pass_over.grade(slots + 1, lambda _item: tools)
    finally:
        await programs.close()


async def _ask_judge(grader: Grader, pass_over: Pass) -> None:
    grading = pass_over.grading
    judge = grading.task.judge
    if judge is None:
        raise ScorerError(
            "the run has no judge",
            hint="Add one to the recipe (judges), and submit or prepare it again.",
        )

    async def ask(model: JudgeModel) -> None:
        name = grading.benchmark.name
        await pass_over.grade(
            judge.parallelism, lambda item: UnitTools(name, model=model.for_unit(item))
        )

    await with_judge(grader, grading.plan, judge, ask)


@dataclass(slots=True)
class Pass:
    """One execution's way through what a task owes; again from where it was after a judge that died."""

    attempt: str
    grading: GradingTask
    on_progress: Callable[[GradingProgress], None]
    tell: Callable[[str], None]
    count: int = 0

    async def grade(self, at_once: int, tools_for: Callable[[GradingItem], UnitTools]) -> None:
        """Grade all that is owed, `at_once` units at a time. Raises what ends the stage."""
        journals = JournalSet()
        name = f"{self.attempt}.{self.count}"
        self.count += 1
        queue = GradingQueue(self.grading, name, journals, self.on_progress, self.tell)
        syncing = asyncio.create_task(journals.sync_forever())
        try:
            await self._work_off(queue, at_once, tools_for)
        finally:
            syncing.cancel()
            try:
                await journals.close()
            finally:
                queue.close()

    async def _work_off(
        self, queue: GradingQueue, at_once: int, tools_for: Callable[[GradingItem], UnitTools]
    ) -> None:
        items = queue.items()
        taking = asyncio.Lock()

        async def work() -> None:
            while True:
                async with taking:
                    item = await anext(items, None)
                if item is None:
                    return
                await self._grade_one(queue, item, tools_for(item))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(work())
        except ExceptionGroup as failures:
            raise _first(failures) from None
        finally:
            await items.aclose()

    async def _grade_one(self, queue: GradingQueue, item: GradingItem, tools: UnitTools) -> None:
        sample = self.grading.samples[item.unit.key.sample]
        failure = await grade_unit(self.grading.benchmark, sample, item, tools)
        if queue.journals.failure is not None:
            raise queue.journals.failure
        await queue.done(item, failure)


def _first(failures: ExceptionGroup[Exception]) -> Exception:
    """The first failure that was raised on purpose; the others came of it."""
    matching, rest = failures.split(EvalkitError)
    chosen = matching or rest
    assert chosen is not None
    return chosen.exceptions[0]
