"""Harnesses and their tasks as tables: `ls harnesses`, `ls tasks --harness`, `ls task HARNESS/TASK`."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from evalkit.benchmarks.registry import harness, harness_names
from evalkit.cli.console import out, print_json, say
from evalkit.cli.tables import table
from evalkit.errors import EvalkitError, PlanError, RecipeError
from evalkit.harnesses.environments import find_python, install_command, look_at, wheel_manifests
from evalkit.meanings import field_meanings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evalkit.benchmarks.harness import EnvironmentSpec, Harness, HarnessTask

ABOUT_WIDTH = 100
NEAR = 3


def show_harnesses(*, as_json: bool) -> None:
    """All harnesses, installed or not, and what a user's wheels brought."""
    rows = list(_rows())
    if as_json:
        print_json(rows)
        return
    names = ("harness", "version", "where", "about")
    out().print(table(names, [[row[name] or "-" for name in names] for row in rows]))


def _rows() -> Iterator[dict[str, Any]]:
    for name in harness_names():
        try:
            found = harness(name)
        except EvalkitError as error:
            yield _row(name, None, f"broken: {error.message}", "", installed=False)
            continue
        spec = found.environment
        if spec is None:
            yield _row(name, None, "needs none", found.description, installed=True)
            continue
        version, where = _state(spec)
        yield _row(name, version, where, found.description, installed=version is not None)
    for manifest in wheel_manifests():
        seen = look_at(manifest.name)
        about = f"core_evals: {', '.join(manifest.frameworks)}"
        where = "" if seen is None else str(seen.folder)
        yield _row(manifest.name, manifest.version, where, about, installed=True)


def _row(
    name: str, version: str | None, where: str, about: str, *, installed: bool
) -> dict[str, Any]:
    return {
        "harness": name,
        "installed": installed,
        "version": version,
        "where": where,
        "about": about,
    }


def _state(spec: EnvironmentSpec) -> tuple[str | None, str]:
    """Its version, where it can be used, and where it is or what is to be done."""
    try:
        python = find_python(spec)
    except PlanError as error:
        if look_at(spec.name, spec) is None:
            return None, f"not installed: {install_command(spec.name)}"
        return None, f"{error.message}: {install_command(spec.name)}"
    return python.version, str(python.folder or python.path)


def show_harness_tasks(name: str, texts: Sequence[str], *, as_json: bool) -> None:
    """Tasks of a harness, those with all `texts` in name or description. Raises RecipeError, PlanError."""
    found = harness(name)
    wanted = [text.casefold() for text in texts]
    tasks = [
        task
        for task in found.tasks()
        if all(text in f"{task.name}\n{task.description}".casefold() for text in wanted)
    ]
    if not tasks and texts:
        raise RecipeError(
            f"the harness {name} has no task with {' and '.join(map(repr, texts))} in its name or "
            "description",
            hint=f"All of them: evalkit ls tasks --harness {name}",
        )
    if as_json:
        print_json([{"task": _full_name(found, name, task), **_told(task)} for task in tasks])
        return
    rows = [
        [
            _full_name(found, name, task),
            task.kind or "-",
            ", ".join(f"{key} {value}" for key, value in task.defaults.items()) or "-",
            _first_line(task.description),
        ]
        for task in tasks
    ]
    out().print(table(("task", "kind", "defaults", "about"), rows))
    if found.needs_task:
        count = "1 task" if len(tasks) == 1 else f"{len(tasks):,} tasks"
        say(f"{count}; all about one: evalkit ls task {name}/TASK")


def _full_name(found: Harness, name: str, task: HarnessTask) -> str:
    """As a recipe names it."""
    return f"{name}/{task.name}" if found.needs_task else name


def _told(task: HarnessTask) -> dict[str, Any]:
    return {"kind": task.kind, "defaults": dict(task.defaults), "description": task.description}


def _first_line(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= ABOUT_WIDTH else f"{line[:ABOUT_WIDTH]}..."


def describe_harness_task(name: str) -> dict[str, Any]:
    """What a task of a harness, or a harness without tasks, says of itself. Raises RecipeError, PlanError."""
    first, _, task_name = name.partition("/")
    found = harness(first)
    if found.needs_task and not task_name:
        raise RecipeError(
            f"the harness {first} has many tasks, and none is named",
            hint=f"Write {first}/TASK; `evalkit ls tasks --harness {first}` lists them.",
        )
    cls = found.benchmark_type
    meanings = field_meanings(cls.params_type)
    chosen = set(found.task_params(task_name)) if task_name else set()
    described: dict[str, Any] = {"name": name, "harness": found.title}
    if task_name:
        described |= _told(_task(found, first, task_name))
    else:
        described["description"] = found.description
    return {
        **described,
        "version": None if found.environment is None else _state(found.environment)[0],
        "licence": found.licence,
        "generation": {profile: dict(values) for profile, values in cls.generation.items()},
        "profiles": {profile: dict(values) for profile, values in cls.knobs.items()},
        "params": {
            key: {"default": _default(field), "meaning": meanings.get(key, "")}
            for key, field in cls.params_type.model_fields.items()
            if key not in chosen
        },
    }


def _default(field: Any) -> str:
    return (
        "must be given"
        if field.is_required()
        else repr(field.get_default(call_default_factory=True))
    )


def _task(found: Harness, name: str, task: str) -> HarnessTask:
    if not found.needs_task:
        raise RecipeError(
            f"benchmark '{name}/{task}': the harness {name} has no tasks of its own",
            hint=f"Write benchmark: {name}",
        )
    tasks = {each.name: each for each in found.tasks()}
    if task not in tasks:
        near = difflib.get_close_matches(task, tasks, n=NEAR)
        guess = f" Did you mean {' or '.join(near)}?" if near else ""
        raise RecipeError(
            f"the harness {name} has no task {task!r}.{guess}",
            hint=f"`evalkit ls tasks --harness {name} TEXT` lists those with a text in their name.",
        )
    return tasks[task]
