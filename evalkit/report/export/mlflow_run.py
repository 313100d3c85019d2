"""MLflow: one run of theirs per run of ours, found again by the tag `evalkit.run_id`.

Settings are parameters, which MLflow never changes: only what the plan fixes for ever is one. What may
change with a later gather (whether the run is complete) is a tag. A metric is sent where it is new or
another one than before, as the next step of its history: of points at one step and time MLflow shows the
largest, so a 0 would not take the place of a 2.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import evalkit
from evalkit.errors import UsageError
from evalkit.report.export.outgoing import (
    refuse_taking_back,
    run_numbers,
    run_settings,
    write_results,
    write_samples,
)
from evalkit.report.export.packages import need
from evalkit.report.export.source import PARTIAL

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType

    from evalkit.report.export.options import ExportOptions
    from evalkit.report.export.source import ExportedRun

EXPERIMENT = "evalkit"
URI_ENV = "MLFLOW_TRACKING_URI"
RUN_ID = "evalkit.run_id"
BATCH = 500
"""Metrics in one request; the server takes 1,000, and 100 parameters."""
PARAMS = 100


def export_mlflow(run: ExportedRun, options: ExportOptions) -> list[str]:
    """Send the run to a tracking server, or into its file or database; says where it is.

    Raises UsageError without mlflow, without a tracking URI, or where MLflow refuses.
    """
    mlflow = need("mlflow", "export-mlflow", "mlflow")
    uri = options.tracking_uri or options.env.get(URI_ENV)
    if not uri:
        raise UsageError(
            "an export to mlflow needs to know where to",
            hint=f"Give --tracking-uri, a server's URL or sqlite:///FILE, or set {URI_ENV}.",
        )
    try:
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        experiment = _experiment(client, options.project or EXPERIMENT)
        ours = _find_or_create(client, experiment, run)
        tags = client.get_run(ours).data.tags
        complete = [t.name for t in run.tasks if tags.get(f"evalkit.complete.{t.name}") == "true"]
        refuse_taking_back(run, complete, f"MLflow run {ours}")
        _fill(mlflow, client, ours, run, options)
    except (mlflow.exceptions.MlflowException, OSError, ModuleNotFoundError) as error:
        raise UsageError(
            f"MLflow at {uri}: {str(error).splitlines()[0]}",
            hint="Check the URI and the network. Databases (sqlite:///FILE) need the whole package: "
            "pip install mlflow.",
        ) from error
    return [f"{uri}, experiment {options.project or EXPERIMENT}, run {ours}"]


def _experiment(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


def _find_or_create(client: Any, experiment: str, run: ExportedRun) -> str:
    run_id = run.run_id
    found = client.search_runs([experiment], filter_string=f"tags.`{RUN_ID}` = '{run_id}'")
    if found:
        return str(found[0].info.run_id)
    created = client.create_run(
        experiment,
        start_time=_milliseconds(run),
        tags={RUN_ID: run_id, "evalkit.version": evalkit.__version__},
        run_name=run.title,
    )
    return str(created.info.run_id)


def _fill(
    mlflow: ModuleType, client: Any, ours: str, run: ExportedRun, options: ExportOptions
) -> None:
    entities = mlflow.entities
    params = [entities.Param(_name(name), str(value)) for name, value in _flat(run_settings(run))]
    for start in range(0, len(params), PARAMS):
        client.log_batch(ours, params=params[start : start + PARAMS])
    metrics = list(_changed(mlflow, client, ours, run))
    for start in range(0, len(metrics), BATCH):
        client.log_batch(ours, metrics=metrics[start : start + BATCH])
    client.set_tag(ours, "evalkit.complete", str(not run.is_partial).lower())
    for task in run.tasks:
        client.set_tag(ours, f"evalkit.complete.{task.name}", str(task.results.complete).lower())
        client.set_tag(ours, f"evalkit.{PARTIAL}.{task.name}", task.note or "")
    with tempfile.TemporaryDirectory() as folder:
        for task in run.tasks:
            client.log_artifact(ours, str(write_results(task, Path(folder))))
            if options.samples:
                path = write_samples(
                    task, Path(folder), include_restricted=options.include_restricted
                )
                client.log_artifact(ours, str(path))
    client.set_terminated(
        ours, "FAILED" if run.is_partial else "FINISHED", end_time=_milliseconds(run)
    )


def _changed(mlflow: ModuleType, client: Any, ours: str, run: ExportedRun) -> Iterator[Any]:
    """The metrics that are not what MLflow has for the run."""
    known = client.get_run(ours).data.metrics
    for name, number in run_numbers(run).items():
        key = _name(name)
        if key not in known:
            yield mlflow.entities.Metric(key, number, _milliseconds(run), 0)
        elif known[key] != number:
            step = 1 + max(point.step for point in client.get_metric_history(ours, key))
            yield mlflow.entities.Metric(key, number, _milliseconds(run), step)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _name(name: str) -> str:
    """MLflow's names have no brackets, signs and the like."""
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in name)


def _milliseconds(run: ExportedRun) -> int:
    return int(run.created.timestamp() * 1000)
