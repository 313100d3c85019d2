"""The runs that a command line's RUN means."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.cli.console import skip_note
from evalkit.cli.env import command_environment
from evalkit.cluster.runs import find_runs
from evalkit.errors import UsageError
from evalkit.store.layout import RunFolder
from evalkit.store.registry import registry_path
from evalkit.store.run import is_run

if TYPE_CHECKING:
    import argparse


def runs_of(arguments: argparse.Namespace) -> list[RunFolder]:
    """One run, or the runs of a sweep. Raises UsageError, RecipeError."""
    return runs_named(arguments.run, Path(arguments.output))


def runs_named(text: str, output: Path) -> list[RunFolder]:
    """What a person calls a run, or a sweep, in this output folder. Raises UsageError, RecipeError."""
    if text.endswith((".yaml", ".yml")) and Path(text).is_file():
        return _runs_of_recipe(text)
    return find_runs(text, output, skip_note, registry_path(command_environment(None)))


def label_of(folder: RunFolder, output: Path) -> str:
    """A run's path below the output folder, or its whole path."""
    top, root = output.absolute(), folder.root
    return str(root.relative_to(top) if root.is_relative_to(top) else root)


def _runs_of_recipe(path: str) -> list[RunFolder]:
    from evalkit.cluster.planning import run_folders
    from evalkit.cluster.runs import runs_below
    from evalkit.recipe.load import load_recipe, nemo_run_folder

    env = command_environment(None)
    if folder := nemo_run_folder(path, env):
        here = folder.expanduser().absolute()
        runs = (runs_below(here) if here.is_dir() else []) or [RunFolder(here)]
    else:
        runs = run_folders(load_recipe(path, env=env))
    found = [run for run in runs if is_run(run)]
    if not found:
        raise UsageError(
            f"{path} has no run yet: there is no {runs[0].root}",
            hint="Start it with `evalkit submit` or `evalkit run`; a run with -o output.name=... or "
            "output.dir=... is found by its folder.",
        )
    return found
