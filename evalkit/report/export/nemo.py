"""The artifacts of NVIDIA's NeMo Evaluator: what its launcher and its exporters read.

Per task a folder as that launcher makes one, `<task>.<index>/artifacts/`, with the four files that its
exporters ask for, and over all tasks the summary of its local export (`processed_results.json`).
A score needs a number there, so a partial task has no metrics at all, and `complete: false` beside them.
What was not measured (times of day, memory) is left out rather than made up.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import evalkit
from evalkit.recipe.yaml_text import render_yaml
from evalkit.report.artifacts import judged_name, render_json
from evalkit.report.export.tabular import describe
from evalkit.store.publish import publish

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from evalkit.report.export.source import ExportedRun, ExportedTask
    from evalkit.report.results import Distribution

HARNESS = "evalkit"


def export_nemo(run: ExportedRun, dest: Path) -> list[Path]:
    """Write the layout into a folder; returns what was written. Raises StoreError."""
    written = []
    for task in run.tasks:
        index = [each.name for each in run.plan.tasks].index(task.name)
        folder = dest / f"{task.name}.{index}" / "artifacts"
        files = {
            "run_config.yml": render_yaml(_run_config(run, task, folder)).encode(),
            "metadata.yaml": render_yaml(_metadata(task)).encode(),
            "eval_factory_metrics.json": render_json(_traffic(task)),
            "results.yml": render_yaml(render_results(run, task, folder)).encode(),
        }
        for name, content in files.items():
            publish(folder / name, content)
            written.append(folder / name)
    summary = dest / "processed_results.json"
    publish(summary, render_json(_summary(run, dest)))
    return [*written, summary]


def render_results(run: ExportedRun, task: ExportedTask, folder: Path) -> dict[str, Any]:
    """The content of `results.yml`. Raises StoreError where samples cannot be read."""
    made_by = task.results.provenance.made_by or {}
    git = (made_by.get("recipe") or {}).get("git") or {}
    config = _run_config(run, task, folder)
    return {
        "command": config["command"],
        "config": config["config"],
        "git_hash": git.get("commit", ""),
        "results": {"groups": {}, "tasks": {task.name: {"metrics": _metrics(task)}}},
        "target": config["target"],
        "metadata": _metadata(task),
    }


def _metrics(task: ExportedTask) -> dict[str, Any]:
    """Metric -> scores -> value and statistics; statistics where the metric is the plain mean of the
    values of all units, and neither weighted nor of another mode."""
    results = task.results
    if task.is_partial:
        return {}
    values: dict[str, list[float]] = {}
    for line in task.samples():
        for name, value in (line["scores"] or {}).items():
            values.setdefault(name, []).append(value)
    judged = judged_name(results)
    metrics: dict[str, Any] = {}
    for mode, scores in (results.metrics or {}).items():
        named = {}
        for name, value in scores.items():
            stats: dict[str, Any] = {}
            if mode == results.headline.mode and name in values:
                found = (results.statistics or {}).get(name)
                stats = _stats(values[name], found.se_items_clustered if found else None)
            is_mean = math.isclose(stats.get("mean", math.nan), value)
            named[judged.get(name, name)] = {"value": value, "stats": stats if is_mean else {}}
        metrics[_flat(mode)] = {"scores": named}
    return metrics


def _flat(mode: str) -> str:
    """`pass_at_1_avg-of-8`: with the task before it and the score behind it, a metric's whole name."""
    return mode.replace("@", "_at_").replace("[", "_").replace("]", "")


def _stats(values: Iterable[float], error: float | None) -> dict[str, Any]:
    """Of all units' scores; variance and deviation are those of the population."""
    found = list(values)
    mean = math.fsum(found) / len(found)
    variance = math.fsum((value - mean) ** 2 for value in found) / len(found)
    stats: dict[str, Any] = {
        "count": len(found),
        "sum": math.fsum(found),
        "sum_squared": math.fsum(value * value for value in found),
        "min": min(found),
        "max": max(found),
        "mean": mean,
        "variance": variance,
        "stddev": math.sqrt(variance),
    }
    return stats if error is None else {**stats, "stderr": error}


def _run_config(run: ExportedRun, task: ExportedTask, folder: Path) -> dict[str, Any]:
    results, plan = task.results, task.plan
    generation, serving = results.settings.generation, results.settings.serving
    differs = results.settings.differs_from_profile
    limit = next((each.value for each in differs if each.key == "limit"), None)
    extra = {**results.settings.params, "num_repeats": plan.repeats}
    return {
        "framework_name": HARNESS,
        "pkg_name": HARNESS,
        "config": {
            "type": task.name,
            "output_dir": str(folder),
            "supported_endpoint_types": ["chat"],
            "params": {
                "task": results.benchmark,
                "limit_samples": limit,
                "max_new_tokens": generation.get("max_tokens"),
                "temperature": generation.get("temperature"),
                "top_p": generation.get("top_p"),
                "parallelism": run.plan.client.parallelism,
                "extra": extra,
            },
        },
        "target": {
            "api_endpoint": {
                "url": serving.get("base_url"),
                "model_id": results.settings.served_model_name,
                "type": "chat",
                "api_key_name": serving.get("api_key_env"),
            }
        },
        "command": (results.provenance.made_by or {}).get("command", ""),
    }


def _metadata(task: ExportedTask) -> dict[str, Any]:
    results = task.results
    versioning = {
        "evalkit": evalkit.__version__,
        "benchmark": f"{results.benchmark} {results.benchmark_version}",
        "data": results.provenance.data.model_dump(mode="json"),
        "model": results.provenance.model.model_dump(mode="json"),
    }
    about = describe(task)
    counts = results.counts.model_dump(mode="json")
    return {
        "versioning": versioning,
        "complete": results.complete,
        "unit": "fraction",
        "evalkit": about | counts,
    }


def _traffic(task: ExportedTask) -> dict[str, Any]:
    """Statistics of calls, as far as results.json has them."""
    results = task.results
    stats: dict[str, Any] = {
        "count": results.counts.calls,
        "successful_count": results.counts.calls,
    }
    for name, numbers in (
        ("prompt_tokens", results.tokens.prompt),
        ("completion_tokens", results.tokens.completion),
    ):
        stats |= _average(name, numbers)
    seconds = results.latency_s
    stats |= {
        f"{kind}_latency_ms": 1000 * value
        for kind, value in (("avg", seconds.mean), ("max", seconds.max))
        if value is not None
    }
    if seconds.total is not None:
        stats["inference_time"] = seconds.total
    reasoning = _average("reasoning_tokens", results.tokens.reasoning)
    return {"response_stats": stats, "reasoning": reasoning, "complete": results.complete}


def _average(name: str, numbers: Distribution) -> dict[str, Any]:
    pairs = (("avg", numbers.mean), ("max", numbers.max))
    return {f"{kind}_{name}": value for kind, value in pairs if value is not None}


def _summary(run: ExportedRun, dest: Path) -> Mapping[str, Any]:
    benchmarks: dict[str, Any] = {}
    for task in run.tasks:
        index = [each.name for each in run.plan.tasks].index(task.name)
        entry = {
            "invocation_id": run.run_id,
            "job_id": f"{run.run_id}.{index}",
            "harness": HARNESS,
            "container": None,
            "scores": task.metrics(),
            "complete": task.results.complete,
            "timestamp": run.created.isoformat(),
            "executor": HARNESS,
            "results_dir": str(dest / f"{task.name}.{index}"),
        }
        model = task.results.provenance.model.name
        benchmarks[task.name] = {"models": {model: [entry]}}
    return {"benchmarks": benchmarks, "export_timestamp": run.created.isoformat()}
