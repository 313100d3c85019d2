"""What inspect's logs say: whether they are whole, and their numbers and samples in evalkit's form."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from evalkit.benchmarks.native import NativeMetric, NativeResult, NativeSample
from evalkit.errors import ScorerError
from evalkit.harnesses.driven import unit_error
from evalkit.store.records import Outcome, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


def check_complete(
    logs: Sequence[Mapping[str, Any]], data: Mapping[str, Any], folder: Path
) -> None:
    """Raise InfraError unless there is one log, of success, with all ids in all epochs."""
    if len(logs) != 1:
        raise unit_error(f"inspect wrote {len(logs)} logs, not one", folder)
    [log] = logs
    wanted = _planned(data["ids"], data["epochs"])
    done = {(str(name), epoch) for name, epoch in log["done"]}
    if log["status"] == "success" and done == wanted and log["completed"] == len(wanted):
        return
    why = log["error"] or "; ".join(log["errors"]) or "its log has no reason"
    raise unit_error(
        f"inspect ended with status {log['status']} and {len(done & wanted)} of {len(wanted)} answers: "
        f"{why}",
        folder,
    )


def check_joined(done: Sequence[Sequence[Any]], ids: Sequence[Any], epochs: int) -> None:
    """Raise ScorerError unless the joined log has each planned answer once, and no other."""
    found, wanted = [(str(name), epoch) for name, epoch in done], _planned(ids, epochs)
    if len(found) != len(wanted) or set(found) != wanted:
        raise ScorerError(
            f"the joined log has {len(set(found) & wanted)} of {len(wanted)} planned answers, and "
            f"{len(found)} in all"
        )


def native_result(
    joined: Mapping[str, Any], samples: Path, planned: Mapping[str, Any], n_samples: int
) -> NativeResult:
    """The joined log in evalkit's form; `samples` is its file of JSON lines.

    Raises ScorerError where the log has no metric.
    """
    task = planned["name"]
    if not joined["metrics"]:
        raise ScorerError(f"inspect computed no metric for {task}: it has no scorer")
    metrics = [
        NativeMetric(subset="", **{k: v for k, v in each.items() if k != "is_average"})
        for each in joined["metrics"]
    ]
    averages = [each["name"] for each in joined["metrics"] if each["is_average"]]
    return NativeResult(
        metrics=metrics,
        headline=("", averages[0] if averages else metrics[0].name),
        versions={**joined["packages"], "task": planned["task_version"]},
        samples=list(_read_samples(samples)),
        n_samples=n_samples,
        repeats=planned["epochs"],
        problems=joined["problems"],
    )


def _read_samples(path: Path) -> Iterator[NativeSample]:
    with path.open("rb") as lines:
        for line in lines:
            row = json.loads(line)
            limit = row.pop("limit")
            yield NativeSample(
                **row
                | {
                    "outcome": Outcome(row["outcome"]),
                    "usage": Usage(**row["usage"]),
                    "data": None if limit is None else {"limit": limit},
                }
            )


def _planned(ids: Sequence[Any], epochs: int) -> set[tuple[str, int]]:
    return {(str(name), epoch) for name in ids for epoch in range(1, epochs + 1)}
