"""Runs for tests of `evalkit.cluster`: a small plan of real `addition` tasks, and journals for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from evalkit.benchmarks.addition import Addition, AdditionParams
from evalkit.benchmarks.frozen import checksum, freeze, write_frozen
from evalkit.plan.model import (
    DataProvenance,
    DeploymentPlan,
    ModelIdentity,
    Plan,
    Shard,
    TaskPlan,
)
from evalkit.recipe.schema import Client, Cluster, Generation
from evalkit.recipe.serving import VllmServing
from evalkit.store.layout import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.recipe.serving import AnyServing

FINGERPRINT = "0123456789abcdef" * 4


def make_cluster(**changes: Any) -> Cluster:
    """A cluster with these settings over the schema's defaults."""
    return Cluster.model_validate(changes)


def make_task(
    name: str = "sums", *, n_samples: int = 8, n_shards: int = 2, repeats: int = 1, **params: Any
) -> TaskPlan:
    """An `addition` task."""
    frozen = freeze(Addition(AdditionParams(n=n_samples), "card").load(None).samples)  # type: ignore[arg-type]
    return TaskPlan(
        name=name,
        benchmark="addition",
        benchmark_version=Addition.version,
        profile="card",
        params={"n": n_samples, **params},
        metric="correct",
        generation=Generation(),
        repeats=repeats,
        n_samples=n_samples,
        n_shards=n_shards,
        deployment=0,
        data=DataProvenance(source="generated", sha256="0" * 64, n_rows=n_samples, licence="x"),
        requests_sha256=checksum(frozen),
        fingerprint="f" * 64,
        identity={},
    )


def make_plan(
    *tasks: TaskPlan,
    serving: AnyServing | None = None,
    run: str = "demo",
    fingerprint: str = FINGERPRINT,
) -> Plan:
    """A plan with one deployment."""
    return Plan(
        run=run,
        recipe="demo",
        model=ModelIdentity(name="tiny", source="tiny"),
        deployments=(
            DeploymentPlan(
                serving=serving or VllmServing(),
                model_source="/models/tiny",
                served_model_name="tiny",
            ),
        ),
        tasks=tasks or (make_task(),),
        client=Client(),
        fingerprint=fingerprint,
    )


def write_run(root: Path, plan: Plan) -> RunFolder:
    """A run folder with the plan and the frozen requests of its tasks."""
    folder = RunFolder(root)
    root.mkdir(parents=True, exist_ok=True)
    folder.plan.write_bytes(plan.model_dump_json().encode())
    for task in plan.tasks:
        samples = Addition(AdditionParams(n=task.n_samples), "card").load(None).samples  # type: ignore[arg-type]
        write_frozen(folder.requests(task.name), freeze(samples))
    return folder


def write_json(path: Path, value: Any) -> None:
    """A JSON file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(value))


def write_marker(folder: RunFolder, task: TaskPlan, index: int, **changes: Any) -> None:
    """A valid marker of a finished shard, and the journal it names."""
    shard = Shard(task.name, index)
    journal = folder.journal(shard, "r0.a1")
    journal.parent.mkdir(parents=True, exist_ok=True)
    journal.write_bytes(b"x" * 100)
    units = len(list(task.units(shard)))
    marker = {
        "units": units,
        "outcomes": {"ok": units},
        "scored": units,
        "score_sum": units / 2,
        "journals": {journal.name: 100},
    }
    write_json(folder.marker(shard), {**marker, **changes})
