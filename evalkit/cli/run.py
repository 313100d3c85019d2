"""`evalkit run`: a recipe on this machine, in the foreground, from data to results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.cli import recipes
from evalkit.cli.console import print_json, say, show_error
from evalkit.cli.env import command_environment
from evalkit.cli.gather import gather, grade, results_json, show_run
from evalkit.cli.main import INTERRUPTED
from evalkit.cli.prepare import show_plans
from evalkit.cli.sweep_view import show_sweeps
from evalkit.cli.watch import watching_here
from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.here import run_here, slurm_note, survey_here
from evalkit.errors import EvalkitError
from evalkit.store.run import load_plan

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from evalkit.plan.model import Plan
    from evalkit.report.gather import RunResults
    from evalkit.store.layout import RunFolder


MOST_PROBLEMS = 10
"""Warnings before a run; results.json lists all."""


def command_run(arguments: argparse.Namespace) -> int:
    """Prepare, serve, evaluate, gather."""
    if arguments.dry_run:
        return show_plans(arguments)
    runs = recipes.prepare(arguments)
    return run_all([run.folder for run in runs], as_json=arguments.json)


def run_all(folders: Sequence[RunFolder], *, as_json: bool = False) -> int:
    """Finish runs one after the other; one that fails does not keep the next from its turn.

    Raises what the only run raises; of several, the errors are shown and the worst code is returned.
    With `as_json`, stdout gets one list of the results of all tasks of all runs, whatever happens.
    """
    documents: list[dict[str, Any]] = []
    try:
        if len(folders) == 1:
            return _finish(folders[0], documents if as_json else None)
        return _finish_all(folders, documents if as_json else None)
    finally:
        if as_json:
            print_json(documents)


def _finish_all(folders: Sequence[RunFolder], documents: list[dict[str, Any]] | None) -> int:
    worst = 0
    for folder in folders:
        try:
            code = _finish(folder, documents)
        except EvalkitError as error:
            show_error(error)
            code = error.exit_code
        worst = max(worst, code)
        if code == INTERRUPTED:
            break
    if documents is None:
        show_sweeps(folders)
    return worst


def _finish(folder: RunFolder, documents: list[dict[str, Any]] | None) -> int:
    """Finish a run in this process; its results are shown, or added to `documents`.

    Raises what `run_here` raises, and IncompleteError when units are missing at the end.
    """
    plan = load_plan(folder)
    owed = _say_owed(folder, plan)
    if owed and _work(folder, plan):
        return _interrupted(folder)
    results = _score(folder, plan)
    if not owed and not results.complete and _say_owed(folder, plan):
        # the gather has read journals that were taken for whole, and removed their markers
        if _work(folder, plan):
            return _interrupted(folder)
        results = _score(folder, plan)
    if documents is None:
        show_run(folder, results)
    else:
        documents += results_json(results)
    results.require_complete()
    return 0


def _score(folder: RunFolder, plan: Plan) -> RunResults:
    """Grade and gather; why a task could not be graded is shown, and it is incomplete then."""
    for failure in grade(folder, plan):
        show_error(failure)
    return gather(folder)


def _say_owed(folder: RunFolder, plan: Plan) -> int:
    """Units to do, after what there is to say of them."""
    survey = survey_here(folder, plan)
    for problem in survey.problems[:MOST_PROBLEMS]:
        say(f"warning: {problem}")
    left = f"{survey.total:,} of {plan.n_units:,} units to do"
    if not survey.total:
        left = "nothing is left to do, no server is started"
    say(f"{plan.run_id}  {folder.root}: {left}")
    return survey.total


def _interrupted(folder: RunFolder) -> int:
    say(f"interrupted; nothing done is lost. Go on with: evalkit resume {folder.root} --here")
    return INTERRUPTED


def _work(folder: RunFolder, plan: Plan) -> int:
    env = command_environment(None)
    note = slurm_note(folder, env)
    if note is not None:
        say(f"note: {note}")
    with watching_here(folder):
        return run_here(folder, plan, clock=SYSTEM_CLOCK, env=env)
