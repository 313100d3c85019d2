"""What a run is: what was evaluated, how, where that differs from the recipe, and which files there are.

From the run's folder alone, as plain data that is printed or given out as JSON. Nothing is computed anew
that a gather has published, and no journal is read.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import orjson

from evalkit.benchmarks.registry import benchmark_for
from evalkit.cluster.attempts import read_attempts
from evalkit.cluster.listing import find_state, read_summary, run_name
from evalkit.errors import EvalkitError, StoreError
from evalkit.recipe.yaml_text import parse_yaml
from evalkit.report.artifacts import read_results
from evalkit.report.settings import find_differences
from evalkit.store.run import load_first_plan, load_plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from evalkit.cluster.attempts import AttemptRecord
    from evalkit.plan.model import Plan, TaskPlan
    from evalkit.store.layout import RunFolder

TYPED = ("-o ", "--limit")
"""How places of values begin that were typed, not read from a file."""


def describe_run(folder: RunFolder, *, now: float) -> dict[str, Any]:
    """Everything there is to say of a run; `now` is a Unix time (s). Raises StoreError, UsageError."""
    plan = load_plan(folder)
    made_by = _read_json(folder.provenance) or {}
    return {
        "run_id": plan.run_id,
        "run": run_name(folder, plan),
        "folder": str(folder.root),
        "recipe": plan.recipe,
        "state": find_state(folder, read_summary(folder), now),
        "fingerprint": plan.fingerprint,
        "model": plan.model.model_dump(mode="json"),
        "deployments": [each.model_dump(mode="json") for each in plan.deployments],
        "client": plan.client.model_dump(mode="json"),
        "tasks": [_describe_task(folder, plan, task) for task in plan.tasks],
        "deviations": {
            "typed": _typed(folder, made_by),
            "execution": list(_changes(_execution(load_first_plan(folder)), _execution(plan))),
        },
        "provenance": made_by or None,
        "attempts": [_describe_attempt(record) for record in read_attempts(folder)],
        "files": _files(folder),
    }


def _describe_task(folder: RunFolder, plan: Plan, task: TaskPlan) -> dict[str, Any]:
    results = read_results(folder.results(task.name))
    try:
        differs: Any = [
            each.model_dump(mode="json") for each in find_differences(task, benchmark_for(task))
        ]
    except EvalkitError as error:  # of a plug-in that is not installed here
        differs = f"not known here: {error.message}"
    found = None
    if results is not None and results.settings.plan_fingerprint == plan.fingerprint:
        found = results.model_dump(mode="json", include={"complete", "headline", "counts"})
        found["grader"] = results.settings.grader
    return {
        "task": task.name,
        "benchmark": task.benchmark,
        "version": task.benchmark_version,
        "profile": task.profile,
        "metric": task.metric,
        "samples": task.n_samples,
        "repeats": task.repeats,
        "units": task.n_units,
        "shards": task.n_shards,
        "deployment": task.deployment,
        "generation": task.generation.model_dump(mode="json", exclude_none=True),
        "params": task.params,
        "prompts": task.identity.get("prompts", {}),
        "data": task.data.model_dump(mode="json"),
        "judge": None if task.judge is None else task.judge.model_dump(mode="json"),
        "differs_from_profile": differs,
        "fingerprint": task.fingerprint,
        "results": found,
    }


def _typed(folder: RunFolder, made_by: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Values that came from the command line, and so are not those of the recipe's file."""
    sources: Mapping[str, str] = (made_by.get("recipe") or {}).get("sources") or {}
    typed = {key: place for key, place in sources.items() if place.startswith(TYPED)}
    if not typed:
        return []
    try:
        recipe = parse_yaml(folder.recipe.read_text("utf-8"), folder.recipe.name).data
    except (OSError, EvalkitError):
        recipe = {}
    return [
        {"key": key, "value": _value_at(recipe, key), "place": place}
        for key, place in typed.items()
    ]


def _value_at(data: Any, key: str) -> Any:
    """The value at a dotted key; null where there is none."""
    for name in key.split("."):
        if not isinstance(data, dict) or name not in data:
            return None
        data = data[name]
    return data


def _execution(plan: Plan) -> dict[str, Any]:
    """What a later recipe may change of a run."""
    judges = {
        task.name: task.judge.model_dump(mode="json")
        for task in plan.tasks
        if task.judge is not None
    }
    dumped = plan.model_dump(mode="json", include={"deployments", "client", "scoring"})
    return {**dumped, "params": {t.name: t.params for t in plan.tasks}, "judges": judges}


def _changes(before: Any, after: Any, key: str = "") -> Iterator[dict[str, Any]]:
    """Where two values differ, by dotted key."""
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        before, after = dict(enumerate(before)), dict(enumerate(after))
    if isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys([*before, *after]):
            yield from _changes(before.get(name), after.get(name), f"{key}.{name}".lstrip("."))
    elif before != after:
        yield {"key": key, "planned": before, "now": after}


def _describe_attempt(record: AttemptRecord) -> dict[str, Any]:
    shown = ("executor", "job_id", "host", "nodes", "gpus", "started", "ended", "end", "reason")
    values = asdict(record)
    return {
        "attempt": record.id,
        **{name: values[name] for name in shown},
        "wall_s": record.wall_s,
        "units": record.units,
        "failure": values["failure"],
    }


def _files(folder: RunFolder) -> dict[str, Any]:
    """Each artifact with its size, and the sizes of the folders beside them (bytes)."""
    artifacts = [
        {"path": str(path.relative_to(folder.root)), "bytes": size}
        for top in (folder.artifacts(), folder.root / "rescored", folder.root / "exports")
        for path, size in _sizes(top)
    ]
    folders = {}
    for name in ("tasks", "journal", "gradings", "logs"):
        sizes = [size for _, size in _sizes(folder.root / name)]
        folders[name] = {"files": len(sizes), "bytes": sum(sizes)}
    return {"artifacts": artifacts, "folders": folders}


def _sizes(top: Path) -> list[tuple[Path, int]]:
    try:
        return [(p, p.stat().st_size) for p in sorted(top.rglob("*")) if _is_shown(p)]
    except OSError as error:
        raise StoreError(f"cannot look into {top}: {error.strerror or error}") from error


def _is_shown(path: Path) -> bool:
    """A file of its own that is not being written."""
    return path.is_file() and not path.is_symlink() and not path.name.startswith(".")


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return value if isinstance(value, dict) else None
