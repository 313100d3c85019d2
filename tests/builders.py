"""Builds small recipes, plans, run folders and records; each with what a test wants to change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.benchmarks.contract import Sample
from evalkit.benchmarks.frozen import checksum, freeze, load_frozen, write_frozen
from evalkit.benchmarks.registry import benchmark_for
from evalkit.plan.build import PreparedTask, RunInputs, build_plan
from evalkit.plan.model import DataProvenance, ModelIdentity, Plan, Shard, TaskPlan, UnitKey
from evalkit.recipe.schema import Client, Generation, Recipe
from evalkit.recipe.serving import VllmServing
from evalkit.store.codec import encode, header, seal
from evalkit.store.layout import RunFolder
from evalkit.store.records import (
    CallRecord,
    Outcome,
    Reply,
    StepRecord,
    Timing,
    UnitRecord,
    Usage,
)
from evalkit.store.run import create_run, load_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from evalkit.store.codec import Record


def make_recipe(**changes: Any) -> Recipe:
    """A recipe of one model and one addition task."""
    values: dict[str, Any] = {
        "name": "test",
        "models": {"tiny": {"hub": "owner/tiny"}},
        "tasks": {"addition": {}},
    }
    return Recipe.model_validate(values | changes)


def make_inputs(**changes: Any) -> RunInputs:
    """What a plan is made of besides its tasks: a model with hashed weights."""
    values: dict[str, Any] = {
        "run": "test-run",
        "recipe": "test",
        "model": ModelIdentity(name="tiny", source="tiny", weights="w" * 8, tokenizer="t" * 8),
        "model_source": "/models/tiny",
        "model_name": "tiny",
        "revision": None,
        "client": Client(),
    }
    return RunInputs(**(values | changes))


def make_prepared(name: str = "addition", **changes: Any) -> PreparedTask:
    """A task whose data is loaded: ten samples, two repeats."""
    values: dict[str, Any] = {
        "name": name,
        "benchmark": "addition",
        "benchmark_version": "1",
        "profile": "card",
        "params": {"n": 10},
        "metric": "correct",
        "generation": Generation(temperature=0.5, max_tokens=100),
        "repeats": 2,
        "n_samples": 10,
        "expected_tokens": 50,
        "serving": VllmServing(max_model_len=4096),
        "data": DataProvenance(source="generated", sha256="d" * 64, n_rows=10, licence="x"),
        "requests_sha256": "e" * 64,
        "prompts": {},
    }
    return PreparedTask(**(values | changes))


def make_plan(*tasks: PreparedTask, **inputs: Any) -> Plan:
    """A plan of these tasks, or of one."""
    return build_plan(make_inputs(**inputs), tasks or (make_prepared(),))


def make_samples(n: int) -> list[Sample]:
    """Samples that ask for sums."""
    return [
        Sample(id=f"s{i}", messages=({"role": "user", "content": f"What is {i} + 1?"},), target=i)
        for i in range(n)
    ]


def make_run(root: Path, n: int = 10, *, n_shards: int | None = None, **task: Any) -> RunFolder:
    """A run folder with a plan and frozen requests, and no journal yet."""
    frozen = freeze(make_samples(n))
    prepared = make_prepared(
        n_samples=n, params={"n": n}, requests_sha256=checksum(frozen), **{"repeats": 1, **task}
    )
    plan = make_plan(prepared)
    if n_shards is not None:
        changed = plan.tasks[0].model_copy(update={"n_shards": n_shards})
        plan = plan.model_copy(update={"tasks": (changed,)})
    folder = RunFolder(root)
    write_frozen(folder.requests(prepared.name), frozen)
    assert create_run(folder, plan, {})
    return folder


def make_call(key: UnitKey, text: str = "42", **changes: Any) -> CallRecord:
    """A finished call of a unit; `outcome`, `detail`, `call` and `request` may be changed."""
    reply = Reply(
        changes.pop("outcome", Outcome.OK),
        text,
        finish_reason="stop",
        usage=Usage(10, 5),
        detail=changes.pop("detail", None),
    )
    values: dict[str, Any] = {"call": 0, "request": "hash", **changes}
    return CallRecord(key.sample, key.repeat, reply=reply, timing=Timing(1.0, 0.5), **values)


def make_step(key: UnitKey, result: Any = "fine", **changes: Any) -> StepRecord:
    """A finished step of a unit; `step`, `digest`, `name` and `arguments` may be changed."""
    values: dict[str, Any] = {"step": 0, "digest": "hash", "name": "tool", **changes}
    return StepRecord(key.sample, key.repeat, result=result, started=1.0, seconds=0.5, **values)


def make_unit(key: UnitKey, text: str = "end", calls: int = 1, **changes: Any) -> UnitRecord:
    """The end of a many-call unit."""
    values: dict[str, Any] = {"outcome": Outcome.OK, **changes}
    return UnitRecord(key.sample, key.repeat, text=text, calls=calls, **values)


def journal_bytes(plan: Plan, shard: Shard, attempt: str, records: Iterable[Record]) -> bytes:
    """A whole journal as a writer leaves it."""
    lines = [seal(header(plan.fingerprint, shard.task, shard.index, attempt))]
    return b"".join([*lines, *(seal(encode(record)) for record in records)])


def write_journal(
    folder: RunFolder,
    plan: Plan,
    shard: Shard,
    attempt: str,
    records: Iterable[Record],
) -> Path:
    """Write a journal of one attempt."""
    path = folder.journal(shard, attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(journal_bytes(plan, shard, attempt, records))
    return path


def answer_all(
    folder: RunFolder,
    *,
    wrong: Callable[[str, UnitKey], bool] = lambda task, key: False,
    owed: Callable[[str, UnitKey], bool] = lambda task, key: False,
) -> None:
    """Journal the gold answer of every unit, as one attempt would have; nonsense for those that are to
    be wrong, nothing for those that are to be owed."""
    plan = load_plan(folder)
    for task in plan.tasks:
        benchmark, samples = benchmark_for(task), load_frozen(folder, task)
        for shard in task.shards():
            gold = [(key, benchmark.gold(samples[key.sample])) for key in task.units(shard)]
            records = [
                make_call(key, "no idea" if wrong(task.name, key) else answer.text)
                for key, answer in gold
                if answer is not None and not owed(task.name, key)
            ]
            write_journal(folder, plan, shard, "r0.a1", records)


def units_of(task: TaskPlan) -> list[UnitKey]:
    """All units of a task."""
    return [task.unit(number) for number in range(task.n_units)]
