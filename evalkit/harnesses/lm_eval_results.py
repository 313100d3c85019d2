"""lm-eval's results and samples in evalkit's words. The numbers are copied, none is computed here.

lm-eval scores documents: one with four answers has one score for each metric and filter. So an item here
is a document, and its further answers are in `data`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import orjson

from evalkit.benchmarks.native import NativeMetric, NativeResult, NativeSample
from evalkit.errors import ScorerError
from evalkit.store.records import Outcome, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from evalkit.benchmarks.contract import Answered

PREFERRED = ("acc_norm", "acc", "exact_match")
WORST_FIRST = (Outcome.REFUSED, Outcome.CONTEXT_OVERFLOW, Outcome.TRUNCATED, Outcome.EMPTY)
KEPT = ("doc_id", "doc_hash", "prompt_hash", "target_hash")


def to_result(
    told: Mapping[str, Any], task: str, metric: str | None, out: Path, answers: Sequence[Answered]
) -> NativeResult:
    """What the driver told, with the samples that it left in `out`. Raises ScorerError where there is no
    headline."""
    results = told["results"]
    metrics = [each for name in results["results"] for each in _metrics(results, name)]
    problems = [*_problems(answers), *_about_code(told)]
    if metric is not None and not any(each.subset == task for each in metrics):
        metrics.append(_mean_of_members(results, metrics, task, metric))
        problems.append(
            f"lm-eval gives the group {task} no number: its {metric} is the plain mean over its tasks"
        )
    samples = list(_samples(out, _by_document(answers)))
    own = [each.name for each in metrics if each.subset == task]
    planned = expected_numbers(told, task) or own
    return NativeResult(
        metrics=metrics,
        headline=(task, choose([name for name in planned if name in own] or own, metric, task)),
        versions=_versions(told),
        samples=samples,
        n_samples=len(samples),
        problems=problems,
    )


def choose(names: Sequence[str], wanted: str | None, task: str) -> str:
    """The headline among a task's numbers, which are named `metric,filter`. Raises ScorerError."""
    for metric in (wanted,) if wanted is not None else PREFERRED:
        for name in names:
            if metric in (name, name.partition(",")[0]):
                return name
    if not names or wanted is not None:
        known = ", ".join(names) or "none: it is a group that only lists tasks"
        raise ScorerError(
            f"lm-eval has no number {wanted or 'of its own'} for {task}; there are {known}",
            hint="Set params.metric to one of them, or name a task of the group.",
        )
    return names[0]


def expected_numbers(
    told: Mapping[str, Any], task: str, wanted: str | None = None
) -> list[str] | None:
    """Names of a task's numbers before it is scored; null where only scoring tells them.

    A group that only lists tasks has those of its tasks, where the recipe names one (`wanted`).
    """
    if task in told["tasks"]:
        return list(told["tasks"][task]["numbers"]) or None
    names: list[str] = []
    for each in told["groups"].get(task, ()):
        if each["filters"] is None:
            return None
        names += [f"{each['metric']},{name}" for name in each["filters"]]
    if not names and wanted is not None:
        return [name for each in told["tasks"].values() for name in each["numbers"]] or None
    return names


def _metrics(results: Mapping[str, Any], name: str) -> Iterator[NativeMetric]:
    found = results["results"][name]
    better = (results.get("higher_is_better") or {}).get(name) or {}
    for key, value in found.items():
        metric, comma, filter_name = key.partition(",")
        if not comma or metric.endswith("_stderr") or not _is_number(value):
            continue
        stderr = found.get(f"{metric}_stderr,{filter_name}")
        yield NativeMetric(
            subset=name,
            name=key,
            value=float(value),
            stderr=float(stderr) if _is_number(stderr) else None,
            n_samples=_count(results, name),
            # null where the tasks of a group disagree
            higher_is_better=better.get(metric) is not False,
        )


def _count(results: Mapping[str, Any], name: str) -> int | None:
    counts = results.get("n-samples") or {}
    if name in counts:
        return int(counts[name]["effective"])
    members = _leaves(results.get("group_subtasks") or {}, name)
    known = [int(counts[member]["effective"]) for member in members if member in counts]
    return sum(known) or None


def _leaves(groups: Mapping[str, Sequence[str]], name: str) -> set[str]:
    members = groups.get(name) or ()
    return {leaf for each in members for leaf in (_leaves(groups, each) or {each})}


def _samples(
    out: Path, answers: Mapping[tuple[str, int], Sequence[Answered]]
) -> Iterator[NativeSample]:
    """A document each; lm-eval has a line for each of its filters."""
    for path in sorted(out.glob("samples_*.jsonl")):
        rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
        documents: dict[int, list[dict[str, Any]]] = {}
        for row in rows:
            documents.setdefault(row["doc_id"], []).append(row)
        for number, filtered in documents.items():
            yield _sample(filtered, answers[_task_of(path, answers), number])


def _task_of(path: Path, answers: Mapping[tuple[str, int], Sequence[Answered]]) -> str:
    """Names of files have no odd characters, those of tasks may."""
    stem = path.stem.removeprefix("samples_")
    return next(task for task, _ in answers if file_name(task) == stem)


def file_name(task: str) -> str:
    """As the driver names files."""
    return "".join(char if char.isalnum() or char in "-_." else "_" for char in task)


def _sample(rows: Sequence[Mapping[str, Any]], answers: Sequence[Answered]) -> NativeSample:
    first = rows[0]
    scores = {
        f"{metric},{row['filter']}": float(row[metric])
        for row in rows
        for metric in row["metrics"]
        if _is_number(row[metric])
    }
    sample = answers[0].sample
    return NativeSample(
        id=str(first["doc_id"]),
        repeat=0,
        scores=scores,
        subset=sample.subset,
        messages=_asked(sample.data),
        content=answers[0].solution.text,
        reasoning=answers[0].reply.reasoning if answers[0].reply is not None else None,
        answer=_extracted(first),
        target=first["target"],
        outcome=_outcome(answers),
        usage=_usage(answers),
        data={
            **{key: first[key] for key in KEPT if key in first},
            "doc": first["doc"],
            "answers": [each.solution.data or each.solution.text for each in answers],
            "filtered": {row["filter"]: row["filtered_resps"] for row in rows},
        },
    )


def _asked(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    body = data.get("body") or {}
    if "messages" in body:
        return list(body["messages"])
    text = body.get("prompt", data.get("context", data.get("text", "")))
    return [{"role": "user", "content": text}]


def _extracted(row: Mapping[str, Any]) -> str | None:
    """What the first filter made of it, where that is one text."""
    found = row["filtered_resps"]
    while isinstance(found, list) and len(found) == 1:
        found = found[0]
    return found if isinstance(found, str) else None


def _outcome(answers: Sequence[Answered]) -> Outcome:
    found = {each.solution.outcome for each in answers}
    return next((each for each in WORST_FIRST if each in found), Outcome.OK)


def _usage(answers: Sequence[Answered]) -> Usage:
    replies = [each.reply for each in answers if each.reply is not None]
    told = [(r.usage.prompt_tokens, r.usage.completion_tokens) for r in replies]
    if not told or any(None in pair for pair in told):
        return Usage()
    return Usage(sum(p or 0 for p, _ in told), sum(c or 0 for _, c in told))


def _by_document(answers: Sequence[Answered]) -> dict[tuple[str, int], list[Answered]]:
    found: dict[tuple[str, int], list[Answered]] = {}
    for each in answers:
        key = str(each.sample.subset), int(each.sample.data["doc"])
        found.setdefault(key, []).append(each)
    return found


def _versions(told: Mapping[str, Any]) -> dict[str, str]:
    tasks = {f"task {name}": task["version"] for name, task in told["tasks"].items()}
    hashes = {f"config {name}": task["config_sha256"] for name, task in told["tasks"].items()}
    return {"lm_eval": told["version"], **told["packages"], **tasks, **hashes}


def _problems(answers: Sequence[Answered]) -> list[str]:
    overflowed = sum(each.solution.outcome is Outcome.CONTEXT_OVERFLOW for each in answers)
    if not overflowed:
        return []
    return [
        f"{overflowed} of {len(answers)} requests did not fit into the model's context; lm-eval scored "
        "an empty answer to each"
    ]


def _about_code(told: Mapping[str, Any]) -> list[str]:
    alone = told.get("run_by_themselves") or []
    if not alone:
        return []
    return [
        f"{', '.join(alone)}: the model's code ran in lm-eval's own process (in a sandbox), where a hostile "
        "program could change this result"
    ]


def _mean_of_members(
    results: Mapping[str, Any], metrics: Sequence[NativeMetric], task: str, metric: str
) -> NativeMetric:
    """The one number that is ours: of a group that only lists tasks. Raises ScorerError."""
    members = sorted(_leaves(results.get("group_subtasks") or {}, task))
    found = []
    for member in members:
        own = {each.name: each for each in metrics if each.subset == member}
        found.append(own[choose(list(own), metric, member)])
    if not found or len({each.name for each in found}) != 1:
        raise ScorerError(
            f"the tasks of {task} have no number {metric} in common",
            hint="Set params.metric to NAME,FILTER.",
        )
    errors = [each.stderr for each in found if each.stderr is not None]
    whole = len(errors) == len(found)
    return NativeMetric(
        subset=task,
        name=found[0].name,
        value=math.fsum(each.value for each in found) / len(found),
        # of a mean of independent means
        stderr=math.hypot(*errors) / len(found) if whole else None,
        n_samples=_count(results, task),
        higher_is_better=found[0].higher_is_better,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
