"""`evalkit info`: what a run was, or what a recipe means.

A name may be both, as `nano` is after `evalkit submit nano`: it means the run then, as with every other
command, unless options are given that only a recipe has.
"""

from __future__ import annotations

from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from evalkit.cli import recipes
from evalkit.cli.console import out, print_json, say
from evalkit.clock import SYSTEM_CLOCK
from evalkit.recipe.yaml_text import render_yaml

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping

    from evalkit.store.layout import RunFolder

UNKNOWN = "-"


def command_info(arguments: argparse.Namespace) -> int:
    """A run, the runs of a sweep, or the fully resolved recipe."""
    runs = _runs(arguments)
    return _show_runs(runs, as_json=arguments.json) if runs else _show_recipe(arguments)


def _runs(arguments: argparse.Namespace) -> list[RunFolder]:
    """The runs that are meant; none where a recipe is. Raises UsageError where it is neither."""
    from evalkit.cli.console import skip_note
    from evalkit.cli.env import command_environment
    from evalkit.cluster.runs import find_runs
    from evalkit.errors import UsageError
    from evalkit.shipped import shipped_recipes
    from evalkit.store.registry import registry_path

    text = arguments.what
    only_recipes = (arguments.override, arguments.task, arguments.limit, arguments.env_file)
    if any(only_recipes) or text.endswith((".yaml", ".yml")):
        return []
    is_shipped = text in shipped_recipes()
    try:
        registry = registry_path(command_environment(None))
        runs = find_runs(text, Path(arguments.output), skip_note, registry)
    except UsageError as error:
        if is_shipped:
            return []
        error.hint = " ".join(filter(None, (error.hint, _near_recipes(text))))
        raise
    if is_shipped:
        say(f"note: {text} is a shipped recipe, too: evalkit info {shipped_recipes()[text]}")
    return runs


def _near_recipes(text: str) -> str:
    """The recipes that may have been meant: shipped ones, and files here."""
    from evalkit.shipped import shipped_recipes

    files = [path.name for ending in ("yaml", "yml") for path in sorted(Path().glob(f"*.{ending}"))]
    known = {Path(name).stem: name for name in files} | {name: name for name in shipped_recipes()}
    near = [known[name] for name in get_close_matches(text, known, n=3, cutoff=0.5)]
    if near:
        return f"Recipes of a like name: {', '.join(near)}."
    return "`evalkit ls recipes` lists the recipes that come with evalkit."


def _show_recipe(arguments: argparse.Namespace) -> int:
    """Every key with its value."""
    from evalkit.cli.env import command_environment
    from evalkit.cluster.resolved import describe

    arguments.recipe = arguments.what
    loaded = recipes.load(arguments, only_shows=True)
    resolved = describe(loaded, command_environment(None))
    if arguments.json:
        print_json({"recipe": resolved, "sources": dict(loaded.sources)})
        return 0
    out().print(Text(f"# {loaded.path}\n{render_yaml(resolved)}"))
    out().print(Text("# where values come from; all others are defaults"))
    for key, place in loaded.sources.items():
        out().print(Text(f"# {key}: {place}"))
    return 0


def _show_runs(runs: Iterable[RunFolder], *, as_json: bool) -> int:
    from evalkit.cluster.run_info import describe_run

    described = [describe_run(run, now=SYSTEM_CLOCK.wall()) for run in runs]
    if as_json:
        print_json(described)
        return 0
    for each in described:
        _show_run(each)
    return 0


def _show_run(about: Mapping[str, Any]) -> None:
    model, made_by = about["model"], about["provenance"] or {}
    _section(
        f"{about['run_id']}  {about['run']}",
        {
            "state": about["state"],
            "folder": about["folder"],
            "recipe": about["recipe"],
            "fingerprint": about["fingerprint"],
            **{f"model {key}": value for key, value in model.items() if value is not None},
        },
    )
    for number, deployment in enumerate(about["deployments"]):
        _section(f"server {number}", _flat(deployment))
    for task in about["tasks"]:
        _section(f"task {task['task']}", _task_rows(task))
    _section("made by", _made_by(made_by))
    _section("not as in the recipe's file", _deviations(about["deviations"]))
    _section("attempts", {each["attempt"]: _attempt(each) for each in about["attempts"]})
    _section("files", _files(about["files"]))


def _section(title: str, rows: Mapping[str, Any]) -> None:
    """A title and aligned rows; nothing without rows."""
    if not rows:
        return
    out().print(Text(title, style="bold"))
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(Text(f"  {name}"), Text(_text(value)))
    out().print(table)


def _text(value: Any) -> str:
    if value is None:
        return UNKNOWN
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(each)}" for key, each in value.items()) or UNKNOWN
    if isinstance(value, list | tuple):
        return ", ".join(_text(each) for each in value) or UNKNOWN
    return str(value)


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key, without those that are not set."""
    rows: dict[str, Any] = {}
    for key, each in value.items():
        if isinstance(each, dict) and each:
            rows |= _flat(each, f"{prefix}{key}.")
        elif each not in (None, {}, [], ()):
            rows[f"{prefix}{key}"] = each
    return rows


def _task_rows(task: Mapping[str, Any]) -> dict[str, Any]:
    data, judge, differs = task["data"], task["judge"], task["differs_from_profile"]
    rows = {
        "benchmark": f"{task['benchmark']} {task['version']}, profile {task['profile']}",
        "plan": f"{task['samples']:,} samples x {task['repeats']} repeats = {task['units']:,} units in "
        f"{task['shards']:,} shards, server {task['deployment']}",
        "score": _score(task["results"]),
        "generation": _flat(task["generation"]),
        "params": task["params"],
        "data": f"{data['source']} {data['revision'] or ''} sha256 {data['sha256']}"
        f"{', altered' if data['altered'] else ''}, {data['n_rows']:,} rows, {data['licence']}",
        "prompts": task["prompts"],
        "fingerprint": task["fingerprint"],
    }
    if judge is not None:
        rows["judge"] = _text(_flat({key: judge[key] for key in ("model", "generation")}))
    if isinstance(differs, str):
        return rows | {"not as the profile": differs}
    named = [f"{d['key']} {_text(d['value'])} (profile: {_text(d['profile'])})" for d in differs]
    return rows | {"not as the profile": "; ".join(named) or "nothing"}


def _score(results: Mapping[str, Any] | None) -> str:
    if results is None:
        return "not gathered"
    headline, counts = results["headline"], results["counts"]
    done = f"{counts['scored']:,}/{counts['expected']:,} units"
    if headline["value"] is None:
        return f"{headline['name']}: withheld, {done}"
    is_share = headline.get("is_share", True)
    shown = f"{headline['percent']:.2f} %" if is_share else f"{headline['value']:.4g}"
    return f"{headline['name']}: {shown}, {done}"


def _made_by(made_by: Mapping[str, Any]) -> dict[str, Any]:
    """Without the list of all packages and of all sources, which --json has."""
    shown = ("created", "command", "host", "evalkit", "python", "platform")
    rows = {key: made_by[key] for key in shown if key in made_by}
    recipe = made_by.get("recipe") or {}
    if recipe:
        git = recipe.get("git")
        commit = f", commit {git['commit']}{' (changed)' if git['dirty'] else ''}" if git else ""
        rows["recipe"] = f"{recipe.get('file')}{commit}"
    if "packages" in made_by:
        rows["packages"] = f"{len(made_by['packages'])} (--json names them)"
    return rows


def _deviations(deviations: Mapping[str, Any]) -> dict[str, Any]:
    typed = {
        each["key"]: f"{_text(each['value'])} ({each['place']})" for each in deviations["typed"]
    }
    changed = {
        each["key"]: f"{_text(each['now'])} (planned: {_text(each['planned'])})"
        for each in deviations["execution"]
    }
    return typed | changed


def _attempt(attempt: Mapping[str, Any]) -> str:
    started = datetime.fromtimestamp(attempt["started"], UTC).strftime("%Y-%m-%d %H:%M:%S")
    failure = attempt["failure"] or {}
    parts = [
        f"{started}, {attempt['wall_s']:.0f} s on {attempt['host']}",
        f"{attempt['executor']} {attempt['job_id']}, {attempt['gpus']} GPUs",
        f"{attempt['units']:,} units",
        attempt["end"] or "no end known",
        failure.get("reason"),
    ]
    return ", ".join(str(part) for part in parts if part)


def _files(files: Mapping[str, Any]) -> dict[str, Any]:
    rows = {each["path"]: size_text(each["bytes"]) for each in files["artifacts"]}
    rows |= {
        f"{name}/": f"{each['files']:,} files, {size_text(each['bytes'])}"
        for name, each in files["folders"].items()
        if each["files"]
    }
    return rows


def size_text(size: float) -> str:
    """Bytes as a person reads them: `812 B`, `4.1 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
