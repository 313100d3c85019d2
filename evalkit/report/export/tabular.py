"""CSV and Parquet: a table of metrics over all tasks, and one of samples per task.

What is missing is an empty cell, never a 0. A table of a partial task says so in its file's name, so
that nobody who was sent the file alone takes it for the whole.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import orjson

from evalkit.errors import StoreError
from evalkit.report.export.packages import need
from evalkit.report.export.source import PARTIAL, export_id
from evalkit.report.frames import flat_samples, sample_batches
from evalkit.store.publish import publishing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from evalkit.report.export.source import ExportedRun, ExportedTask

COLUMNS = {
    "run_id": str,
    "run": str,
    "model": str,
    "task": str,
    "benchmark": str,
    "benchmark_version": str,
    "profile": str,
    "complete": bool,
    "metric": str,
    "is_headline": bool,
    "value": float,
    "standard_error": float,
    "interval_low": float,
    "interval_high": float,
    "bound_low": float,
    "bound_high": float,
    "n_samples": int,
    "repeats": int,
    "expected": int,
    "scored": int,
    "missing": int,
}
"""Of the table of metrics. Values are fractions; error, interval and bounds are the headline's."""


def export_csv(run: ExportedRun, dest: Path) -> list[Path]:
    """`metrics.csv` and `<task>.csv` in a folder; returns what was written. Raises StoreError."""
    written = [_write_csv(dest / "metrics.csv", list(COLUMNS), metric_rows(run))]
    for task in run.tasks:
        names, rows = flat_samples(task.folder, task.name)
        written.append(_write_csv(table_path(dest, task, ".csv"), names, rows))
    return written


def export_parquet(run: ExportedRun, dest: Path) -> list[Path]:
    """`metrics.parquet` and `<task>.parquet`; what they are of is in the files' metadata, too.

    Raises UsageError without pyarrow, StoreError.
    """
    pa = need("pyarrow", "arrow", "parquet")
    types = {str: pa.string(), bool: pa.bool_(), float: pa.float64(), int: pa.int64()}
    schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    about = {"evalkit": orjson.dumps({"run_id": run.run_id, "complete": not run.is_partial})}
    table = pa.RecordBatch.from_pylist(list(metric_rows(run)), schema=schema)
    written = [_write_parquet(dest / "metrics.parquet", schema.with_metadata(about), [table])]
    for task in run.tasks:
        schema, batches = sample_batches(task.folder, task.name)
        about = {"evalkit": orjson.dumps(describe(task))}
        path = table_path(dest, task, ".parquet")
        written.append(_write_parquet(path, schema.with_metadata(about), batches))
    return written


def _named(task: ExportedTask) -> dict[str, Any]:
    results = task.results
    return {
        "run_id": export_id(task.folder, results.run_id),
        "run": results.run,
        "model": results.provenance.model.name,
        "task": task.name,
        "benchmark": results.benchmark,
        "benchmark_version": results.benchmark_version,
    }


def describe(task: ExportedTask) -> dict[str, Any]:
    """What a file of one task's samples is of."""
    results = task.results
    return _named(task) | {
        "fingerprint": results.settings.fingerprint,
        "complete": results.complete,
        "mark": task.mark,
        "headline": results.headline.model_dump(mode="json"),
    }


def metric_rows(run: ExportedRun) -> Iterator[dict[str, Any]]:
    """A row per metric, the headline first; of a partial task one row without a value."""
    for task in run.tasks:
        yield _headline_row(task)
        headline = task.results.headline
        for mode, scores in (task.results.metrics or {}).items():
            for score, value in scores.items():
                if (mode, score) != (headline.mode, headline.metric):
                    yield _row(task) | {
                        "metric": f"{mode} {score}",
                        "is_headline": False,
                        "value": value,
                    }


def _headline_row(task: ExportedTask) -> dict[str, Any]:
    headline = task.results.headline
    interval, bounds = headline.interval, headline.bounds
    return _row(task) | {
        "metric": headline.name,
        "is_headline": True,
        "value": headline.value,
        "standard_error": headline.standard_error,
        "interval_low": interval.low if interval else None,
        "interval_high": interval.high if interval else None,
        "bound_low": bounds.low if bounds else None,
        "bound_high": bounds.high if bounds else None,
    }


def _row(task: ExportedTask) -> dict[str, Any]:
    results = task.results
    return _named(task) | {
        "profile": results.settings.profile,
        "complete": results.complete,
        "n_samples": results.headline.n_samples,
        "repeats": results.headline.repeats,
        "expected": results.counts.expected,
        "scored": results.counts.scored,
        "missing": results.counts.missing,
    }


def table_path(dest: Path, task: ExportedTask, ending: str) -> Path:
    """Where a task's table goes; the table of the other kind, complete or partial, is removed."""
    plain, partial = dest / f"{task.name}{ending}", dest / f"{task.name}.{PARTIAL}{ending}"
    path, other = (partial, plain) if task.is_partial else (plain, partial)
    try:
        other.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot replace {other}: {error.strerror or error}") from error
    return path


def _write_csv(path: Path, names: list[str], rows: Iterable[dict[str, Any]]) -> Path:
    with publishing(path) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text.detach()
    return path


def _write_parquet(path: Path, schema: Any, batches: Iterable[Any]) -> Path:
    parquet = need("pyarrow.parquet", "arrow", "parquet")
    with publishing(path) as file, parquet.ParquetWriter(file, schema, compression="zstd") as out:
        for batch in batches:
            out.write_batch(batch.replace_schema_metadata(schema.metadata))
    return path
