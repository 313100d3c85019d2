"""Two slips of published files, mended where that is asked for.

Some tasks of the Nemotron 3 Super files have `config:` where `nemo_evaluator_config:` belongs, or a
`target:` beside it. The launcher refuses both. `--lenient` takes them for what they were meant to be.
"""

from __future__ import annotations

from typing import Any

from evalkit.recipe.document import Document, Path, get, merge

TASKS: Path = ("evaluation", "tasks")
RIGHT = "nemo_evaluator_config"


def mend(document: Document) -> Document:
    """The file with both slips mended; places of keys stay those of the file."""
    tasks = get(document.data, TASKS)
    if not isinstance(tasks, list):
        return document
    sources = dict(document.sources)
    mended = [_task(task, index, sources) for index, task in enumerate(tasks)]
    evaluation = {**document.data["evaluation"], "tasks": mended}
    return Document({**document.data, "evaluation": evaluation}, sources, document.selects)


def _task(task: Any, index: int, sources: dict[Path, str]) -> Any:
    if not isinstance(task, dict):
        return task
    root: Path = (*TASKS, index)
    result = {key: value for key, value in task.items() if key not in ("config", "target")}
    if isinstance(config := task.get("config"), dict):
        # Either the whole section under a wrong name, or its `config` one level too high.
        inner: Path = () if "config" in config or "target" in config else ("config",)
        _move(sources, (*root, "config"), (*root, RIGHT, *inner))
        result[RIGHT] = merge(result.get(RIGHT, {}), {"config": config} if inner else config)
    if isinstance(target := task.get("target"), dict):
        _move(sources, (*root, "target"), (*root, RIGHT, "target"))
        result[RIGHT] = merge(result.get(RIGHT, {}), {"target": target})
    return result


def _move(sources: dict[Path, str], old: Path, new: Path) -> None:
    for path in [path for path in sources if path[: len(old)] == old]:
        sources.setdefault(new + path[len(old) :], sources[path])
