"""The runs that a command line's RUN means."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.cli.console import skip_note
from evalkit.cli.env import command_environment
from evalkit.cluster.runs import find_runs
from evalkit.errors import UsageError
from evalkit.store.registry import registry_path
from evalkit.store.run import is_run

if TYPE_CHECKING:
    import argparse

    from evalkit.store.layout import RunFolder


def runs_of(arguments: argparse.Namespace) -> list[RunFolder]:
    """One run, or the runs of a sweep. Raises UsageError, RecipeError."""
    text = arguments.run
    if text.endswith((".yaml", ".yml")) and Path(text).is_file():
        return _runs_of_recipe(text)
    registry = registry_path(command_environment(None))
    return find_runs(text, Path(arguments.output), skip_note, registry)


def _runs_of_recipe(path: str) -> list[RunFolder]:
    from evalkit.cluster.prepare import run_folder
    from evalkit.recipe.load import load_recipe

    loaded = load_recipe(path, env=command_environment(None))
    runs = [run_folder(loaded, model) for model in loaded.recipe.models]
    found = [run for run in runs if is_run(run)]
    if not found:
        raise UsageError(
            f"{path} has no run yet: there is no {runs[0].root}",
            hint="Start it with `evalkit submit` or `evalkit run`; a run with -o output.name=... or "
            "output.dir=... is found by its folder.",
        )
    return found
