"""What the units of a task may use on this node besides the model: the clock, sessions, programs.

Sessions are of one sandbox per worker and task, which a first cell starts; so are programs. Which sandbox that is, and
with which interpreter, is settled here from the benchmark's needs and the recipe's `scoring`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.client.steps import Facilities
from evalkit.cluster.credentials import run_secrets
from evalkit.cluster.driving import SharedGateway, TaskDriver
from evalkit.cluster.units import TaskWork
from evalkit.errors import ScorerError
from evalkit.scoring.sandbox import ProgramPool, SessionPool, find_sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from evalkit.benchmarks.contract import Benchmark, SandboxNeeds
    from evalkit.clock import Clock
    from evalkit.cluster.attempts import Attempt
    from evalkit.plan.model import Plan
    from evalkit.recipe.schema import Scoring
    from evalkit.scoring.sandbox import Sandbox


CORES_PER_PROGRAM = 2
"""Of a solve: the server on the same node needs some, too."""


def make_facilities(
    benchmark: Benchmark[Any], scoring: Scoring, env: Mapping[str, str], clock: Clock
) -> Facilities | None:
    """Those of one task; null for a benchmark of single calls. Starts nothing. Raises ScorerError for
    needs that are not there."""
    if benchmark.single_call:
        return None
    if not benchmark.uses_sessions and not benchmark.uses_programs:
        return Facilities(clock)
    needs, cores = benchmark.sandbox(), program_slots()
    find = partial(find_for, needs, scoring, env)
    workers = max(1, cores // CORES_PER_PROGRAM)
    return Facilities(
        clock,
        SessionPool(find, preload=needs.preload, cores=cores) if benchmark.uses_sessions else None,
        make_programs(needs, scoring, env, workers) if benchmark.uses_programs else None,
    )


def program_slots() -> int:
    """Cores of this process: a time limit means something while each program has one of its own."""
    return len(os.sched_getaffinity(0))


def make_programs(
    needs: SandboxNeeds, scoring: Scoring, env: Mapping[str, str], workers: int
) -> ProgramPool:
    """Programs in the sandbox that works here, so many `workers` at once. Starts nothing."""
    return ProgramPool(
        partial(find_for, needs, scoring, env), preload=needs.preload, workers=workers
    )


def find_for(needs: SandboxNeeds, scoring: Scoring, env: Mapping[str, str]) -> Sandbox:
    """The best sandbox here for what a benchmark needs. Raises ScorerError."""
    return find_sandbox(
        env,
        interpreter=needs.interpreter,
        readonly=needs.readonly,
        image=None if scoring.image is None else Path(scoring.image),
        unsafe=scoring.unsafe,
    )


def load_works(
    attempt: Attempt, plan: Plan, deployment: int, env: Mapping[str, str], clock: Clock
) -> dict[str, TaskWork]:
    """The tasks of one deployment, with what is needed to do them. Raises StoreError, PlanError,
    ScorerError."""
    folder, model = attempt.folder, plan.deployments[deployment].served_model_name
    secrets = run_secrets(plan, env)
    shared = SharedGateway(clock, plan.client.program_idle_s, secrets)
    mark = f"{plan.run_id}-{attempt.id}-0"
    works = {}
    for task in plan.tasks:
        if task.deployment == deployment:
            work = TaskWork.load(folder, task, plan.deployments[deployment])
            facilities = make_facilities(work.benchmark, plan.scoring, env, clock)
            if facilities is not None and work.benchmark.drives:
                driver = TaskDriver(shared, folder, task.name, model, attempt.id, mark)
                facilities = replace(facilities, driver=driver)
            works[task.name] = replace(work, facilities=facilities, secrets=secrets)
    return works


async def check_sandboxes(works: Mapping[str, TaskWork]) -> None:
    """A first cell or program in the sandbox of each task that has one, before a server takes minutes.

    Raises ScorerError where a sandbox cannot be had here.
    """
    for name, pool in _pools(works):
        try:
            await pool.check()
        except ScorerError as error:
            error.message = f"preflight of tasks.{name}: {error.message}"
            raise


async def close_works(works: Mapping[str, TaskWork]) -> None:
    """End all sessions and programs, their sandboxes, and the gateway."""
    for _, pool in _pools(works):
        await pool.close()
    for work in works.values():
        if work.facilities is not None and work.facilities.driver is not None:
            await work.facilities.driver.close()


def _pools(works: Mapping[str, TaskWork]) -> Iterator[tuple[str, SessionPool | ProgramPool]]:
    for name, work in works.items():
        if work.facilities is not None:
            for pool in (work.facilities.sessions, work.facilities.programs):
                if pool is not None:
                    yield name, pool
