"""Programs whose output is lost run again where a run is gathered, answered from the journal alone.

What a harness makes of its answers is in files, and the answers are in the journal: nothing has to be asked
of the model to have the files again. A program that asks anything else this time does not do the same, and
what it wrote then is not its unit's.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from evalkit.benchmarks.registry import benchmark_class
from evalkit.client.steps import Facilities
from evalkit.cluster.credentials import run_secrets
from evalkit.cluster.driving import SharedGateway, TaskDriver, places
from evalkit.cluster.units import TaskWork, do_unit
from evalkit.errors import EvalkitError, FailureKind, InfraError, StoreError
from evalkit.report.facts import read_run_facts
from evalkit.store.alone import alone
from evalkit.store.parts import part_key
from evalkit.store.records import UnitRecord
from evalkit.store.replayed import is_lost, output_of, put_replayed
from evalkit.store.union import ShardUnion
from evalkit.store.work import OpenShard, WorkItem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from evalkit.client.calls import Answer
    from evalkit.clock import Clock
    from evalkit.plan.model import DeploymentPlan, Plan, Shard, TaskPlan
    from evalkit.store.journal import JournalWriter
    from evalkit.store.layout import RunFolder
    from evalkit.store.union import FinishedUnit

ATTEMPT = "replay"
"""Names the folder of a program that runs again, until it is in its place."""


class _NoModel:
    """In place of a client: the journal knows the answers, or there is none."""

    keeps_tokens = False

    def __init__(self, max_model_len: int | None) -> None:
        self.max_model_len = max_model_len

    async def call(self, request: object, think_tags: object, tokens: object = None) -> Answer:
        """Raises InfraError."""
        raise InfraError(
            "the program asks what it did not ask when its unit was answered, and a replay asks nothing of "
            "the model",
            kind=FailureKind.CLIENT_ERROR,
        )


@dataclass(slots=True)
class _Kept:
    """In place of a journal: what comes of a unit stays here."""

    records: list[Any] = field(default_factory=list)

    def append(self, record: Any) -> None:
        """As a JournalWriter."""
        self.records.append(record)


@dataclass(slots=True)
class Replayed:
    """What came of it."""

    lost: int = 0
    """Units whose folder was gone, or had no file in it."""
    failures: list[EvalkitError] = field(default_factory=list)
    """Why those stay so that do."""


@dataclass(frozen=True, slots=True)
class _Replay:
    """What all units share."""

    folder: RunFolder
    plan: Plan
    shared: SharedGateway
    model: _NoModel
    tell: Callable[[str], None]
    found: Replayed = field(default_factory=Replayed)
    at_once: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(places()))


def replay_lost(
    folder: RunFolder,
    plan: Plan,
    tasks: Sequence[TaskPlan],
    *,
    env: Mapping[str, str],
    clock: Clock,
    tell: Callable[[str], None],
) -> Replayed:
    """Have programs of finished units whose folders are gone, or empty, write them again.

    `tell` hears of each one that is back. Raises StoreError, also where another one is at work in this run,
    PlanError for a benchmark of another version.
    """
    shared = SharedGateway(clock, plan.client.program_idle_s, run_secrets(plan, env))
    replay = _Replay(folder, plan, shared, _NoModel(None), tell)
    # both would write, and remove, the same folders
    doing = f"has lost output of {folder.root} written again"
    with alone(folder.root / ".replay.lock", doing, wait_s=0):
        asyncio.run(_replay_all(replay, tasks))
    return replay.found


async def _replay_all(replay: _Replay, tasks: Sequence[TaskPlan]) -> None:
    try:
        for task in tasks:
            cls = benchmark_class(task.benchmark)
            if cls.drives and cls.whole:
                work = _work(replay, task)
                mine = replace(replay, model=_NoModel(_context(replay, task)))
                async with asyncio.TaskGroup() as group:
                    for shard in task.shards():
                        group.create_task(_replay_shard(mine, work, shard))
    except* EvalkitError as errors:
        raise errors.exceptions[0] from None
    finally:
        await replay.shared.close()


def _work(replay: _Replay, task: TaskPlan) -> TaskWork:
    deployment = replay.plan.deployments[task.deployment]
    mark = f"{replay.plan.run_id}-{ATTEMPT}{os.getpid()}-0"
    model = deployment.served_model_name
    driver = TaskDriver(replay.shared, replay.folder, task.name, model, ATTEMPT, mark)
    facilities = Facilities(replay.shared.clock, driver=driver)
    work = TaskWork.load(replay.folder, task, deployment)
    return replace(work, facilities=facilities, secrets=replay.shared.secrets)


async def _replay_shard(replay: _Replay, work: TaskWork, shard: Shard) -> None:
    async with replay.at_once:  # the calls of a unit are in memory meanwhile
        union = await asyncio.to_thread(
            ShardUnion.read, replay.folder, replay.plan, shard, single_call=False
        )
        for unit in union.finished.values():
            name = output_of(unit.data)
            if name is None or not is_lost(replay.folder.root / name):
                continue
            replay.found.lost += 1
            where = f"tasks.{work.plan.name}, unit {unit.key.sample}-{unit.key.repeat}"
            try:
                await _replay_unit(replay, work, shard, unit, name)
            except InfraError as error:
                text = f"{where}: its program could not write {name} again: {error.message}"
                replay.found.failures.append(InfraError(text, kind=error.kind))
            else:
                replay.tell(f"{where}: {name} is back: {len(unit.calls):,} calls of the journal")
            finally:
                _clear(replay.folder.harness(work.plan.name, *unit.key, ATTEMPT))


async def _replay_unit(
    replay: _Replay, work: TaskWork, shard: Shard, unit: FinishedUnit, name: str
) -> None:
    """Raises InfraError where the program fails, or does not ask the same; StoreError."""
    kept = _Kept()
    calls = {unit.key: {part_key(call): call for call in unit.calls}}
    opened = OpenShard(shard, cast("JournalWriter", kept), {unit.key}, calls, {}, {})
    await do_unit(work, WorkItem(unit.key, opened), replay.model)
    record = kept.records[-1]
    assert isinstance(record, UnitRecord)
    if not record.outcome.is_models_own:
        raise InfraError(record.detail or "it failed", kind=FailureKind.CONFIG)
    asked, before = set(record.relayed), {call.call for call in unit.calls}
    if asked != before:
        raise InfraError(
            f"it asked {len(asked):,} questions, and {len(before):,} when its unit was answered",
            kind=FailureKind.CONFIG,
        )
    made = output_of(record.data)
    if made is None:
        raise StoreError(f"{work.plan.benchmark} does not say where its program wrote")
    put_replayed(replay.folder.root / made, record.data, replay.folder.root, name)


def _clear(folder: Path) -> None:
    """Remove what tries left that failed, and those of a replay that was killed: nobody else is at work."""
    for path in (folder, *folder.parent.glob(f"{folder.name}-*")):
        shutil.rmtree(path, ignore_errors=True)


def _context(replay: _Replay, task: TaskPlan) -> int | None:
    """Context length of the task's model (tokens), as its servers had it; null where they differ, and as the
    recipe has it where none said."""
    deployment = replay.plan.deployments[task.deployment]
    is_only = len(replay.plan.deployments) == 1
    found = {
        server.facts.get("max_model_len")
        for server in read_run_facts(replay.folder).servers
        if is_only or _is_of(deployment, server.facts)
    } - {None}
    if not found:
        return deployment.serving.max_model_len
    return found.pop() if len(found) == 1 else None


def _is_of(deployment: DeploymentPlan, facts: Mapping[str, Any]) -> bool:
    """Whether a server on record may be of this deployment: its command says so, an endpoint has none."""
    if deployment.serving.kind == "external":
        return facts.get("kind") == "external"
    name = deployment.served_model_name
    return any(part == name or part.endswith(f"={name}") for part in facts.get("argv", ()))
