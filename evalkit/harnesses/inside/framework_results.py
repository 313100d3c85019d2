"""In a wheel's Python: its own reader of what its command wrote, and the samples where they can be read."""

import importlib
import json
import sqlite3
from importlib import metadata
from pathlib import Path

CACHE = "cache/cache.sqlite"
"""Below the folder of its type: where simple_evals keeps each answer."""


def main(arguments):
    """`{"package", "output", "type"}` -> scores, samples, repeats, versions, problems."""
    module = importlib.import_module(f"core_evals.{arguments['package']}.output")
    result = module.parse_output(arguments["output"])
    groups, tasks = result.groups or {}, result.tasks or {}
    scores = [each for name, group in groups.items() for each in scores_of(name, group)]
    known = {(each["task"], each["name"]) for each in scores}
    scores += [
        each
        for name, task in tasks.items()
        for each in scores_of(name, task)
        if (each["task"], each["name"]) not in known
    ]
    rows, problems = [], []
    if arguments["package"] == "simple_evals":
        rows, problems = simple_evals(Path(arguments["output"]) / (arguments["type"] or ""))
    repeats = repeats_of(Path(arguments["output"]), arguments["type"])
    return {
        "package": arguments["package"],
        "scores": scores,
        "samples": numbered(rows, repeats, problems),
        "repeats": repeats,
        "versions": versions("nemo-evaluator"),
        "problems": problems,
    }


def scores_of(task, result):
    """The numbers of a task or group, and of the groups in it."""
    for metric, found in (result.metrics or {}).items():
        for name, score in found.scores.items():
            stats = score.stats.model_dump(exclude_none=True) if score.stats else {}
            yield {"task": task, "name": f"{metric}/{name}", "value": score.value, "stats": stats}
    for name, inner in (getattr(result, "groups", None) or {}).items():
        yield from scores_of(f"{task}/{name}", inner)


def repeats_of(output, kind):
    """Answers to each item, as simple_evals writes it beside its numbers; 1 where nobody says."""
    for path in sorted((output / (kind or "")).glob("*.json")):
        said = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(said, dict) and isinstance(said.get("n_repeats"), int):
            return said["n_repeats"]
    return 1


def simple_evals(folder):
    """(index, answer) of all its items. Its cache is read as it lies: large answers are files beside it."""
    file = folder / CACHE / "cache.db"
    if not file.is_file():
        return [], ["simple_evals left no cache of its answers, so there are no samples"]
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
        found = connection.execute("SELECT key, value, filename FROM Cache").fetchall()
    rows = []
    for key, value, name in found:
        content = (file.parent / name).read_bytes() if name else value
        rows.append((int(key), json.loads(content)))
    rows.sort()
    if [index for index, _ in rows] != list(range(len(rows))):
        return [], ["simple_evals's cache does not hold all its answers, so there are no samples"]
    return rows, []


def numbered(rows, repeats, problems):
    """Answers by item and repeat: the items follow each other, as a whole, once for each repeat."""
    if len(rows) % repeats or any(row["score"] is None for _, row in rows):
        problems.append("simple_evals's answers cannot be told apart, so there are no samples")
        return []
    items = len(rows) // repeats
    return [
        {
            "id": str(index % items),
            "repeat": index // items,
            "score": float(row["score"]),
            "metrics": row["metrics"] or {},
            "messages": (row["convo"] or [])[:-1],
            "content": (row["convo"] or [{}])[-1].get("content"),
        }
        for index, row in rows
    ]


def versions(*names):
    """Of distributions that are there."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
