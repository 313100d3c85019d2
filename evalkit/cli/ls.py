"""`evalkit ls`: what is installed, shipped and done."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from evalkit.benchmarks.registry import benchmark_class, benchmark_names, is_harness_task
from evalkit.cli.console import out, print_json, say, skip_note
from evalkit.cli.tables import table
from evalkit.errors import UsageError
from evalkit.meanings import field_meanings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from evalkit.benchmarks.data import DataSource
    from evalkit.cluster.listing import RunLine


def command_ls(arguments: argparse.Namespace) -> int:
    """List one kind of thing."""
    _check(arguments)
    if arguments.what == "task":
        if arguments.name is None:
            raise UsageError("ls task needs a name", hint=f"Tasks: {', '.join(benchmark_names())}.")
        return _show_task(arguments.name, as_json=arguments.json)
    listings: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "tasks": _tasks,
        "recipes": _recipes,
        "templates": _templates,
    }
    if arguments.what == "runs":
        return _show_runs([Path(each) for each in arguments.output], as_json=arguments.json)
    if arguments.what == "harnesses" or arguments.harness is not None:
        return _show_harnesses(arguments)
    listing = listings[arguments.what]()
    if arguments.json:
        print_json(listing)
        return 0
    names = list(listing[0]) if listing else []
    out().print(table(names, [[str(row[n]) for n in names] for row in listing]))
    if arguments.what == "tasks":
        say("Those of other harnesses: `evalkit ls harnesses`, `evalkit ls tasks --harness NAME`.")
    return 0


def _show_harnesses(arguments: argparse.Namespace) -> int:
    from evalkit.cli.harness_view import show_harness_tasks, show_harnesses

    if arguments.what == "harnesses":
        show_harnesses(as_json=arguments.json)
    else:
        name, *texts = arguments.harness
        show_harness_tasks(name, texts, as_json=arguments.json)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """No argument without effect. Raises UsageError."""
    if arguments.harness is not None and arguments.what != "tasks":
        raise UsageError(
            f"--harness has no effect with ls {arguments.what}",
            hint=f"`evalkit ls tasks --harness {arguments.harness[0]}` lists its tasks.",
        )
    if arguments.name is not None and arguments.what != "task":
        raise UsageError(
            f"ls {arguments.what} takes no name",
            hint=f"`evalkit ls task {arguments.name}` takes one.",
        )
    if arguments.output and arguments.what != "runs":
        raise UsageError(f"--output has no effect with ls {arguments.what}")
    for folder in arguments.output:
        if not Path(folder).expanduser().is_dir():
            raise UsageError(f"--output {folder}: there is no such folder")


def describe_task(name: str) -> dict[str, Any]:
    """Everything a benchmark says of itself. Raises RecipeError for an unknown name."""
    if is_harness_task(name):
        from evalkit.cli.harness_view import describe_harness_task

        return describe_harness_task(name)
    cls = benchmark_class(name)
    fields = cls.params_type.model_fields
    meanings = field_meanings(cls.params_type)
    return {
        "name": cls.name,
        "title": cls.title,
        "description": cls.description,
        "version": cls.version,
        "metric": cls.metric,
        "repeats": cls.repeats,
        "calls per unit": "one" if cls.single_call else "many",
        "data": cls.source.hub or cls.source.url or _own_data(cls.source),
        "file": cls.source.file,
        "revision": cls.source.revision,
        "gated": cls.source.gated,
        "checksums": dict(cls.source.known),
        "licence": cls.licence,
        "generation": {profile: dict(values) for profile, values in cls.generation.items()},
        "profiles": {profile: dict(values) for profile, values in cls.knobs.items()},
        "params": {
            key: {"default": repr(field.get_default()), "meaning": meanings.get(key, "")}
            for key, field in fields.items()
        },
    }


def _own_data(source: DataSource) -> str:
    return "made by evalkit" if source.generated else "comes with its package"


def _show_task(name: str, *, as_json: bool) -> int:
    described = describe_task(name)
    if as_json:
        print_json(described)
        return 0
    rows = []
    for key, value in described.items():
        if isinstance(value, dict):
            rows += [[f"{key}: {inner}", _text(shown)] for inner, shown in value.items()]
        else:
            rows.append([key, "-" if value is None else str(value)])
    out().print(table(["", ""], rows))
    return 0


def _text(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    if set(value) == {"default", "meaning"}:
        return f"{value['meaning']} (default: {value['default']})"
    return ", ".join(f"{key} {shown}" for key, shown in value.items())


def _tasks() -> list[dict[str, Any]]:
    return [
        {
            "task": name,
            "metric": benchmark_class(name).metric,
            "repeats": benchmark_class(name).repeats,
            "licence": benchmark_class(name).licence,
            "about": benchmark_class(name).description,
        }
        for name in benchmark_names()
    ]


def _recipes() -> list[dict[str, Any]]:
    from evalkit.recipe.load import load_recipe
    from evalkit.shipped import shipped_recipes

    found = []
    for name, path in shipped_recipes().items():
        recipe = load_recipe(path, env={}).recipe
        found.append({"recipe": name, "tasks": len(recipe.tasks), "about": recipe.description})
    return found


def _templates() -> list[dict[str, Any]]:
    from evalkit.recipe.template import load_template
    from evalkit.shipped import shipped_templates

    return [
        {"template": name, "about": load_template(path).get("description", "")}
        for name, path in shipped_templates().items()
    ]


def _show_runs(folders: list[Path], *, as_json: bool) -> int:
    """Runs below the folders; without one, those in `runs` and all that were noted elsewhere."""
    from evalkit.cli.env import command_environment
    from evalkit.clock import SYSTEM_CLOCK
    from evalkit.cluster.listing import list_runs
    from evalkit.store.registry import read_registry, registry_path

    noted = [] if folders else read_registry(registry_path(command_environment(None)))
    folders = [folder.expanduser().absolute() for folder in folders or [Path("runs")]]
    lines = list(list_runs(folders, noted, now=SYSTEM_CLOCK.wall(), on_problem=skip_note))
    if as_json:
        print_json([asdict(line) for line in lines])
    elif lines:
        names = ("id", "run", "model", "recipe", "state", "tasks", "score %", "created", "path")
        out().print(table(names, [_run_row(line) for line in lines]))
    else:
        out().print(Text(f"no runs in {', '.join(map(str, folders))}"), soft_wrap=True)
    return 0


def _run_row(line: RunLine) -> list[str]:
    done = "-" if line.tasks is None else f"{line.tasks_done}/{line.tasks}"
    scores = [f"{task} {words}" for task, words in line.words.items()]
    state = line.state if line.host is None else f"{line.state} (noted on {line.host})"
    created = (line.created or "-").removesuffix("+00:00").replace("T", " ")
    about = [line.id, line.run, line.model, line.recipe, state]
    return [*about, done, ", ".join(scores) or "-", created, line.path]
