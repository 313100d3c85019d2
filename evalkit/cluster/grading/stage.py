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
from evalkit.cluster.drain import Drain, DrainedError
from evalkit.cluster.facilities import make_programs, program_slots
from evalkit.cluster.grading.heard import Heard
from evalkit.cluster.grading.judging import Grader, JudgeModel, with_judge
from evalkit.cluster.grading.queue import GradingQueue
from evalkit.cluster.grading.unit import UnitTools, grade_unit
from evalkit.cluster.grading.work import (
    GradingProgress,
    GradingTask,
    Watching,
    describe_place,
)
from evalkit.cluster.job import current_job
from evalkit.cluster.runlog import attempt_logging
from evalkit.cluster.session import until_done
from evalkit.errors import EvalkitError, JudgeError, ScorerError, ServingError
from evalkit.redaction import redact
from evalkit.store.journal import JournalSet
from evalkit.store.run import load_cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from evalkit.benchmarks.contract import Benchmark
    from evalkit.clock import Clock
    from evalkit.cluster.grading.queue import GradingItem
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

    Single units that fail are in the journals. Raises StoreError, PlanError for a benchmark of another
    version, and DrainedError where somebody asked to stop before all was tried.
    """
    failures: list[EvalkitError] = []
    drain = watching.drain or Drain(clock)
    hidden = run_secrets(plan, env)
    for task, grading in _owed(folder, plan, tasks):
        if drain.requested:
            raise DrainedError(f"interrupted: {drain.reason}")
        watching.tell(f"grading {task.name}")
        describe_place(grading)
        attempt = begin_attempt(grading.place, REPLICA)
        # a judge that we serve is on this node, however many a replica has
        cluster = load_cluster(folder).model_copy(update={"nodes": 1})
        heard = Heard.of(attempt, current_job(), clock, hidden)
        grader = Grader(attempt, heard.job, cluster, env, clock, watching.tell, drain, heard.report)
        with attempt_logging(grading.place.worker_log(REPLICA, attempt.number), hidden), heard:
            failure = _try_task(grader, grading, watching, heard)
            if failure is not None:
                failure.message = redact(failure.message, hidden)
                failures.append(failure)
                heard.fails(failure)
    return failures


def _try_task(
    grader: Grader, grading: GradingTask, watching: Watching, heard: Heard
) -> EvalkitError | None:
    """Grade a task; why it, or some of its units, could not be. Raises DrainedError."""
    name = grading.task.name
    last = GradingProgress(name, 0, 0, 0)

    def follow(progress: GradingProgress) -> None:
        nonlocal last
        last = progress
        watching.on_progress(progress)

    try:
        asyncio.run(_grade_heard(grader, grading, follow, heard))
    except DrainedError:
        raise
    except EvalkitError as error:
        if grader.drain.requested and isinstance(error, ServingError):
            # where Slurm signals every process of a step, a judge ends before it is told to
            raise DrainedError(f"interrupted: {grader.drain.reason}") from error
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


async def _grade_heard(
    grader: Grader,
    grading: GradingTask,
    on_progress: Callable[[GradingProgress], None],
    heard: Heard,
) -> None:
    grader.drain.attach()
    beating = asyncio.create_task(heard.beat())
    try:
        await _grade_task(grader, grading, on_progress)
    finally:
        beating.cancel()
        await asyncio.wait([beating])


async def _grade_task(
    grader: Grader, grading: GradingTask, on_progress: Callable[[GradingProgress], None]
) -> None:
    pass_over = Pass(grader, grading, on_progress)
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
        await grader.drain.unless(programs.check())
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

    grader: Grader
    grading: GradingTask
    on_progress: Callable[[GradingProgress], None]
    count: int = 0

    async def grade(self, at_once: int, tools_for: Callable[[GradingItem], UnitTools]) -> None:
        """Grade all that is owed, `at_once` units at a time. Raises what ends the stage, DrainedError
        among it."""
        journals, grader = JournalSet(), self.grader
        name = f"{grader.attempt.id}.{self.count}"
        self.count += 1
        grader.report.state = "ready"
        grader.report.tasks.clear()  # scores of all units, counted again
        tally = grader.report.tally(self.grading.task.name)
        queue = GradingQueue(self.grading, name, journals, self.on_progress, grader.tell, tally)
        items, taking = queue.items(), asyncio.Lock()

        async def work() -> None:
            while True:
                async with taking:
                    item = await anext(items, None)
                if item is None:
                    return
                await self._grade_one(queue, item, tools_for(item))

        guards = [journals.sync_forever(), self._end_drain(queue)]
        try:
            await until_done([work() for _ in range(at_once)], guards)
            if not queue.is_dry:
                raise DrainedError(f"interrupted: {grader.drain.reason}")
        finally:
            await items.aclose()
            try:
                await journals.close()
            finally:
                await asyncio.to_thread(queue.close)

    async def _grade_one(self, queue: GradingQueue, item: GradingItem, tools: UnitTools) -> None:
        sample = self.grading.samples[item.unit.key.sample]
        record = await grade_unit(self.grading.benchmark, sample, item, tools)
        if queue.journals.failure is not None:
            raise queue.journals.failure
        await queue.done(item, record)

    async def _end_drain(self, queue: GradingQueue) -> None:
        """After a request to stop: begin nothing more, wait, then give up what is left."""
        drain = self.grader.drain
        await drain.wait()
        self.grader.report.state = "draining"
        queue.stop()
        await drain.end_of_grace()
        raise DrainedError(f"interrupted: {drain.reason}")
