"""Loading the recipe that a command line names, with its overrides and environment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.cli.console import say
from evalkit.cli.env import command_environment
from evalkit.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from evalkit.cluster.prepare import PreparedRun
    from evalkit.recipe.load import LoadedRecipe
    from evalkit.recipe.nemo.source import Note

DOTENV = ".env"
"""Read for files of the NeMo Evaluator launcher, as the launcher does."""


def load(
    arguments: argparse.Namespace, *, tell: bool = True, only_shows: bool = False
) -> LoadedRecipe:
    """The recipe of `RECIPE -o ... -t ... --limit ...`. Raises RecipeError.

    `only_shows` is for commands that run nothing (`NemoOptions`). With `tell` it is said of a launcher file that it was read, and what a person must know of it.
    """
    from evalkit.recipe.load import is_nemo_file, load_recipe
    from evalkit.recipe.nemo.read import NemoOptions

    env_file = arguments.env_file
    if env_file is None and is_nemo_file(arguments.recipe) and Path(DOTENV).is_file():
        env_file = DOTENV
    loaded = load_recipe(
        arguments.recipe,
        serving=arguments.serving,
        overrides=arguments.override,
        tasks=arguments.task,
        limit=arguments.limit,
        env=command_environment(env_file),
        nemo=NemoOptions(arguments.skip_unsupported, arguments.lenient, only_shows),
    )
    if tell and loaded.notes is not None:
        _say_notes(loaded, loaded.notes)
    return loaded


def _say_notes(loaded: LoadedRecipe, notes: Sequence[Note]) -> None:
    """That a launcher file was read, and what a person must know of it."""
    for note in notes:
        if note.important:
            say(f"note: {note.sentence()}")
    kept = [note for note in notes if not note.is_missing]
    ignored = sum(not note.has_effect for note in kept)
    say(
        f"{loaded.path}: read as a configuration of the NeMo Evaluator launcher. Keys without effect: "
        f"{ignored}, with another meaning: {len(kept) - ignored}; `evalkit convert` lists them"
    )


def prepare(
    arguments: argparse.Namespace,
    loaded: LoadedRecipe | None = None,
    on_progress: Callable[[str], None] = say,
) -> list[PreparedRun]:
    """The recipe's runs on disk, new or as they are; those of `loaded` where it is given. Raises
    EvalkitError."""
    from evalkit.cluster.prepare import prepare_runs

    return prepare_runs(
        load(arguments) if loaded is None else loaded,
        env=command_environment(None),
        command=["evalkit", *sys.argv[1:]],
        clock=SYSTEM_CLOCK,
        on_progress=on_progress,
    )
