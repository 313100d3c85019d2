"""What may go to a service that somebody else runs: nothing that looks like a key, and no text of data
that may not be published.

Artifacts hold no question and no gold answer of such data. An answer quotes what it was asked, so
of its samples only what holds no text goes out, unless texts were asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import zstandard

from evalkit.errors import UsageError
from evalkit.recipe.secret_text import mask
from evalkit.report.artifacts import ZSTD_LEVEL
from evalkit.store.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from evalkit.report.export.source import ExportedRun, ExportedTask

WITHOUT_TEXT = (
    "id",
    "sample",
    "repeat",
    "subset",
    "outcome",
    "scores",
    "finish_reason",
    "usage",
    "calls",
    "messages_sha256",
)
"""Keys of a sample of restricted data that go out."""


def masked(value: Any) -> Any:
    """JSON data with every key that a text of it holds cut short."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {mask(str(name)): masked(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [masked(each) for each in value]
    return value


def outgoing_sample(line: Mapping[str, Any], *, include_restricted: bool) -> dict[str, Any]:
    """A sample as it may leave. A gather tells restricted data by leaving its messages out."""
    if "messages" not in line and not include_restricted:
        line = {key: line[key] for key in WITHOUT_TEXT if key in line} | {"restricted": True}
    found: dict[str, Any] = masked(dict(line))
    return found


def write_samples(task: ExportedTask, folder: Path, *, include_restricted: bool) -> Path:
    """The task's samples as they may leave, as a file to be sent. Raises StoreError."""
    path = folder / f"{task.name}.samples.jsonl.zst"
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
    with path.open("wb") as file, compressor.stream_writer(file) as stream:
        for line in task.samples():
            sample = outgoing_sample(line, include_restricted=include_restricted)
            stream.write(orjson.dumps(sample, option=orjson.OPT_APPEND_NEWLINE))
    return path


def write_results(task: ExportedTask, folder: Path) -> Path:
    """`results.json` as it may leave, as a file to be sent."""
    path = folder / f"{task.name}.results.json"
    path.write_bytes(orjson.dumps(masked(task.results.model_dump(mode="json"))))
    return path


def run_settings(run: ExportedRun) -> dict[str, Any]:
    """What the run was made with; all of it is in the plan, so it is the same in every export."""
    plan = run.plan
    tasks = {
        task.name: {
            "benchmark": task.plan.benchmark,
            "benchmark_version": task.plan.benchmark_version,
            "profile": task.plan.profile,
            "repeats": task.plan.repeats,
            "n_samples": task.plan.n_samples,
            "fingerprint": task.plan.fingerprint,
            "generation": task.plan.generation.model_dump(mode="json", exclude_none=True),
            "request": task.plan.request.model_dump(mode="json", exclude_defaults=True),
            "reasoning": task.plan.reasoning.model_dump(mode="json", exclude_defaults=True),
        }
        for task in run.tasks
    }
    model = plan.model.model_dump(mode="json", exclude_none=True)
    settings: dict[str, Any] = masked(
        {"run": plan.run, "run_id": run.run_id, "recipe": plan.recipe, "model": model}
        | {"fingerprint": plan.fingerprint, "tasks": tasks}
    )
    return settings


def refuse_taking_back(run: ExportedRun, complete: Iterable[str], where: str) -> None:
    """Raises UsageError where a task would be sent as partial that is complete there: a service keeps the
    numbers it has, so the old headline would stand beside the new counts as if it were of them."""
    known = set(complete)
    names = [task.name for task in run.tasks if task.is_partial and task.name in known]
    if names:
        raise UsageError(
            f"{where} has complete results of {', '.join(names)}, and these are partial: the numbers "
            "there would not be of them",
            hint="Nothing was changed. Finish the run (`evalkit resume`), leave the task out with -t, or "
            "delete the run there first.",
        )


def run_numbers(run: ExportedRun) -> dict[str, float]:
    """Every number of every task, by `<task>/<name>`: its headline with error and interval, all metrics,
    and where its units went. A number that does not exist is not there."""
    numbers: dict[str, float] = {}
    for task in run.tasks:
        headline, counts = task.results.headline, task.results.counts
        found: dict[str, float | None] = {
            "headline": headline.value,
            "standard_error": headline.standard_error,
            "interval_low": headline.interval.low if headline.interval else None,
            "interval_high": headline.interval.high if headline.interval else None,
            "expected": counts.expected,
            "scored": counts.scored,
            "missing": counts.missing,
            **task.metrics(),
        }
        # a count of none is sent too: it takes the place of one of an earlier, partial export
        none = {outcome.value: 0 for outcome in Outcome}
        outcomes = {**none, **counts.by_outcome}
        found |= {f"outcome_{name}": number for name, number in outcomes.items()}
        numbers |= {
            f"{task.name}/{name}": number for name, number in found.items() if number is not None
        }
    return numbers
