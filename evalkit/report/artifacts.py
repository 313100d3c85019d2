"""Writes the artifacts of one task and of a run, each complete or not at all.

`results.json` is written last, so whoever reads it finds the others. An incomplete gather leaves the
artifacts of an earlier complete one alone: the plan is immutable, so what was once proven complete
stays true, and a journal that is lost later, or a grader that fails today, does not undo it. Remove
the task's artifacts folder to give up a complete result on purpose.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import orjson
import yaml
import zstandard
from pydantic import ValidationError

from evalkit.errors import StoreError
from evalkit.report.aggregate import exported_name
from evalkit.report.results import Results, Summary, TaskSummary
from evalkit.store.publish import publish, publishing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from evalkit.plan.model import Plan, TaskPlan
    from evalkit.report.results import Headline
    from evalkit.report.traffic import Traffic
    from evalkit.store.layout import RunFolder

ZSTD_LEVEL = 3
"""Fixed, with one thread, so that equal lines are equal bytes."""


def write_samples(path: Path, lines: Iterable[bytes]) -> str:
    """Publish samples.jsonl.zst; returns the sha256 of its lines. Raises StoreError."""
    digest = hashlib.sha256()
    compressor = zstandard.ZstdCompressor(
        level=ZSTD_LEVEL, write_checksum=True, write_content_size=False
    )
    with publishing(path) as file, compressor.stream_writer(file, closefd=False) as stream:
        for line in lines:
            digest.update(line)
            stream.write(line)
    return digest.hexdigest()


def hash_lines(lines: Iterable[bytes]) -> str:
    """sha256 of the lines, one after the other."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line)
    return digest.hexdigest()


def write_task(folder: RunFolder, plan: Plan, results: Results, traffic: Traffic) -> None:
    """Publish a task's artifacts, samples excepted. Raises StoreError."""
    task = plan.task(results.task)
    publish(folder.traffic(task.name), orjson.dumps(traffic.model_dump(mode="json")) + b"\n")
    publish(folder.metrics(task.name), render_json(render_metrics(results)))
    publish(folder.run_config(task.name), render_run_config(plan, task).encode())
    publish(folder.results(task.name), render_json(results.model_dump(mode="json")))


def render_json(value: Mapping[str, Any]) -> bytes:
    """Indented JSON, UTF-8, with a newline at the end."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def render_metrics(results: Results) -> dict[str, Any]:
    """Every metric, flat, by the name other tools know it by; fractions."""
    judged = judged_name(results)
    subsets = {
        name: _flat(results.task, part.metrics, judged)
        for name, part in (results.subsets or {}).items()
    }
    return {
        "task": results.task,
        "unit": "fraction",
        "complete": results.complete,
        "metrics": None
        if results.metrics is None
        else _flat(results.task, results.metrics, judged),
        "subsets": None if results.subsets is None else subsets,
    }


def judged_name(results: Results) -> dict[str, str]:
    """The headline's metric with the judge's id, for verdicts of two judges are two metrics."""
    if results.settings.judge is None:
        return {}
    judge = results.settings.judge["deployment"]["served_model_name"]
    return {results.headline.metric: f"{results.headline.metric}[{judge}]"}


def _flat(
    task: str, metrics: Mapping[str, Mapping[str, float]], names: Mapping[str, str]
) -> dict[str, float]:
    return {
        exported_name(task, mode, names.get(score, score)): value
        for mode, scores in metrics.items()
        for score, value in scores.items()
    }


def render_run_config(plan: Plan, task: TaskPlan) -> str:
    """The resolved settings of a task as YAML."""
    config = {
        "run": plan.run,
        "run_id": plan.run_id,
        "recipe": plan.recipe,
        "model": plan.model.model_dump(mode="json"),
        "deployment": plan.deployments[task.deployment].model_dump(mode="json"),
        "client": plan.client.model_dump(mode="json"),
        "scoring": plan.scoring.model_dump(mode="json"),
        "task": task.model_dump(mode="json"),
    }
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)


def read_results(path: Path) -> Results | None:
    """A `results.json`, or null where there is none of this version. Raises StoreError for one that
    is damaged or cannot be read."""
    try:
        content = path.read_bytes()
        orjson.loads(content)
        return Results.model_validate_json(content)
    except (FileNotFoundError, ValidationError):
        return None
    except orjson.JSONDecodeError as error:
        raise StoreError(
            f"{path} is damaged: {error}",
            hint="`evalkit gather` writes it again from the journals.",
        ) from error
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error


def find_complete(folder: RunFolder, plan: Plan, task: TaskPlan) -> Results | None:
    """Complete results of this very task that an earlier gather published, if they can be read; by
    whatever grader, which they name."""
    try:
        results = read_results(folder.results(task.name))
    except StoreError:
        return None
    if results is None or not results.complete:
        return None
    settings = results.settings
    found = (settings.fingerprint, settings.plan_fingerprint)
    return results if found == (task.fingerprint, plan.fingerprint) else None


def write_summary(folder: RunFolder, plan: Plan, gpu_seconds: float | None) -> Summary:
    """Publish summary.json over the published results of all tasks. Raises StoreError."""
    tasks = tuple(_summarise(folder, task) for task in plan.tasks)
    summary = Summary(
        run=plan.run,
        run_id=plan.run_id,
        recipe=plan.recipe,
        model=plan.model.name,
        complete=all(task.complete is True for task in tasks),
        run_gpu_seconds=gpu_seconds,
        unavailable=plan.unavailable,
        tasks=tasks,
    )
    publish(folder.summary, render_json(summary.model_dump(mode="json")))
    return summary


def _summarise(folder: RunFolder, task: TaskPlan) -> TaskSummary:
    results = read_results(folder.results(task.name))
    headline: Headline | None = results.headline if results else None
    return TaskSummary(
        task=task.name,
        benchmark=task.benchmark,
        profile=task.profile,
        expected=task.n_units,
        complete=results.complete if results else None,
        headline=headline,
        counts=results.counts if results else None,
        cost=results.cost if results else None,
        judge=results.provenance.judge if results else None,
    )
