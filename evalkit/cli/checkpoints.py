"""`evalkit submit --watch`: evaluate a training run's checkpoints as they appear."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from rich.text import Text

from evalkit.cli import recipes
from evalkit.cli.console import out, say, show_error
from evalkit.clock import SYSTEM_CLOCK
from evalkit.errors import EvalkitError, RecipeError, UsageError
from evalkit.store.run import is_run

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from evalkit.cluster.prepare import PreparedRun
    from evalkit.cluster.submit import Submission
    from evalkit.recipe.load import LoadedRecipe
    from evalkit.recipe.schema import Cluster
    from evalkit.store.layout import RunFolder

    Submit = Callable[[Sequence[tuple[RunFolder, Cluster]], int | None], list[Submission]]

SETTLE_S = 60.0
MOST_S = 30.0
"""Longest time between two looks."""


def submit_as_they_appear(
    arguments: argparse.Namespace,
    submit: Submit,
) -> int:
    """Submit what is there, then each new checkpoint that is whole and at rest, until interrupted.

    A checkpoint that cannot be evaluated is told once and looked at again; the others go on. Raises
    UsageError for a recipe without a wildcard, EvalkitError where the recipe itself is wrong.
    """
    settle_s = _settle(arguments)
    told: set[str] = set()
    submitted: set[Path] = set()
    first = True
    while True:
        loaded = _load(arguments, told, first=first)
        if loaded is not None:
            _submit_new(arguments, loaded, submit, submitted, told)
        if first:
            say("watching for checkpoints; stop with Ctrl-C, nothing that is submitted is lost")
        first = False
        try:
            time.sleep(min(MOST_S, max(1.0, settle_s)))
        except KeyboardInterrupt:
            say("not watching any more")
            return 0


def _settle(arguments: argparse.Namespace) -> float:
    return SETTLE_S if arguments.settle is None else float(arguments.settle)


def _load(arguments: argparse.Namespace, told: set[str], *, first: bool) -> LoadedRecipe | None:
    """The recipe as it is meant now; None while nothing matches yet."""
    try:
        loaded = recipes.load(arguments)
    except RecipeError as error:
        # the training may not have written its first checkpoint
        if first and "no checkpoint matches" not in error.message:
            raise
        _tell(error, told)
        return None
    if not loaded.families:
        raise UsageError(
            f"{loaded.path}: no model's path has a wildcard, so no checkpoint can appear",
            hint="Write models: {NAME: {path: FOLDER/step-*}}, or leave out --watch.",
        )
    return loaded


def _submit_new(
    arguments: argparse.Namespace,
    loaded: LoadedRecipe,
    submit: Submit,
    submitted: set[Path],
    told: set[str],
) -> None:
    runs: list[PreparedRun] = []
    for model in loaded.recipe.models:
        one = loaded.keep_models({model})
        if not _is_new(one, submitted) or not _is_at_rest(one, model, _settle(arguments)):
            continue
        try:
            runs += recipes.prepare(arguments, one, partial(_say_once, told))
        except EvalkitError as error:
            _tell(error, told)
    if not runs:
        return
    try:
        submissions = submit([(run.folder, run.cluster) for run in runs], arguments.replicas)
    except EvalkitError as error:
        _tell(error, told)
        return
    for run, submission in zip(runs, submissions, strict=True):
        submitted.add(run.folder.root)
        line = f"{run.plan.run_id}  {run.folder.root}\n{submission.text}"
        out().print(Text(line), soft_wrap=True)
        for warning in submission.warnings:
            say(f"warning: {warning}")


def _is_new(loaded: LoadedRecipe, submitted: set[Path]) -> bool:
    """Whether a run of it was not submitted by us yet: one that others began is continued once."""
    from evalkit.cluster.planning import run_folders

    return any(folder.root not in submitted for folder in run_folders(loaded))


def _is_at_rest(loaded: LoadedRecipe, model: str, settle_s: float) -> bool:
    """Whether nothing in a checkpoint was written lately. One that has a run is not asked."""
    from evalkit.cluster.planning import run_folders

    if all(is_run(folder) for folder in run_folders(loaded)):
        return True
    folder = loaded.base / (loaded.recipe.models[model].path or "")
    try:
        newest = max(file.stat().st_mtime for file in (folder, *folder.iterdir()))
    except OSError:
        return False  # it is being moved or removed
    return SYSTEM_CLOCK.wall() - newest >= settle_s


def _say_once(told: set[str], text: str) -> None:
    if text not in told:
        told.add(text)
        say(text)


def _tell(error: EvalkitError, told: set[str]) -> None:
    if error.message not in told:
        told.add(error.message)
        show_error(error)
