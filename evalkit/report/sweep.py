"""A sweep's runs side by side: which cells there are, and their headlines.

`sweep.json` names the cells in their order; `summary.json` has what was published of them. Both are made
from the runs' own files and can be made again; nothing is computed from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from filelock import SoftFileLock, Timeout

from evalkit.errors import StoreError
from evalkit.report.artifacts import read_results, render_json
from evalkit.store.layout import RunFolder
from evalkit.store.publish import publish

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from evalkit.report.results import Results
    from evalkit.report.statistics import Interval

CELLS = "sweep.json"
SUMMARY = "summary.json"
LOCK_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a sweep."""

    label: str
    """Name of its folder."""
    model: str
    variant: str = ""
    """Empty where only the model varies."""
    step: int | None = None
    """Training step, where the checkpoint's name says it."""


def write_cells(root: Path, cells: Sequence[Cell]) -> None:
    """Add cells to those that the sweep has. Raises StoreError."""
    lock = SoftFileLock(root / ".sweep.lock", timeout=LOCK_WAIT_S)
    try:
        lock.acquire()
    except (Timeout, OSError) as error:
        raise StoreError(
            f"cannot lock {lock.lock_file}: {error}",
            hint="Another evalkit may note runs of this sweep; when none runs any more, remove that file.",
        ) from error
    try:
        known = {cell.label: cell for cell in (*read_cells(root), *cells)}
        body = [
            {"label": c.label, "model": c.model, "variant": c.variant or None, "step": c.step}
            for c in known.values()
        ]
        publish(root / CELLS, render_json({"cells": body}))
    finally:
        lock.release()


def read_cells(root: Path) -> list[Cell]:
    """The cells of a sweep's folder, in their order; [] where it is none. Raises StoreError."""
    try:
        body = orjson.loads((root / CELLS).read_bytes())
        return [
            Cell(c["label"], c["model"], c.get("variant") or "", c.get("step"))
            for c in body["cells"]
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{root / CELLS} cannot be read: {error}",
            hint="It only lists the sweep's runs: remove it, and `evalkit prepare` writes it again.",
        ) from error


def published(root: Path, label: str, tasks: Sequence[str]) -> dict[str, Results]:
    """What was published of a cell, by task; a task that was not gathered is not in it."""
    folder = RunFolder(root / label)
    found = {task: read_results(folder.results(task)) for task in tasks}
    return {task: results for task, results in found.items() if results is not None}


def summarise(rows: Sequence[tuple[Cell, dict[str, Results]]]) -> dict[str, Any]:
    """Headlines by cell and task. A share is between 0 and 1; it is null while it is withheld."""
    return {
        "cells": [
            {
                "label": cell.label,
                "model": cell.model,
                "variant": cell.variant or None,
                "step": cell.step,
                "tasks": {task: _headline(results) for task, results in found.items()},
            }
            for cell, found in rows
        ]
    }


def _headline(results: Results) -> dict[str, Any]:
    headline = results.headline
    return {
        "metric": f"{headline.mode} {headline.metric}",
        "value": headline.value,
        "standard_error": headline.standard_error,
        "interval": _pair(headline.interval),
        "bounds": _pair(headline.bounds),
        "n_samples": headline.n_samples,
        "complete": results.complete,
        "profile": results.settings.profile,
    }


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]
