"""Loading the recipe that a command line names, with its overrides and environment."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from evalkit.cli.console import say
from evalkit.cli.env import command_environment
from evalkit.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    import argparse

    from evalkit.cluster.prepare import PreparedRun
    from evalkit.recipe.load import LoadedRecipe


def load(arguments: argparse.Namespace) -> LoadedRecipe:
    """The recipe of `RECIPE -o ... -t ... --limit ...`. Raises RecipeError."""
    from evalkit.recipe.load import load_recipe

    return load_recipe(
        arguments.recipe,
        serving=arguments.serving,
        overrides=arguments.override,
        tasks=arguments.task,
        limit=arguments.limit,
        env=command_environment(arguments.env_file),
    )


def prepare(arguments: argparse.Namespace) -> list[PreparedRun]:
    """The recipe's runs on disk, new or as they are. Raises EvalkitError."""
    from evalkit.cluster.prepare import prepare_runs

    return prepare_runs(
        load(arguments),
        env=command_environment(None),
        command=["evalkit", *sys.argv[1:]],
        clock=SYSTEM_CLOCK,
        on_progress=say,
    )
