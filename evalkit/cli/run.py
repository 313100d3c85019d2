"""`evalkit run`: a recipe on this machine, in the foreground, from data to results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.cli import recipes
from evalkit.cli.console import say, show_error
from evalkit.cli.env import command_environment
from evalkit.cli.gather import gather
from evalkit.cli.main import INTERRUPTED
from evalkit.cli.prepare import show_plans
from evalkit.cli.watch import watching_here
from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.here import count_owed, run_here
from evalkit.errors import EvalkitError
from evalkit.store.run import load_plan

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from evalkit.store.layout import RunFolder


def command_run(arguments: argparse.Namespace) -> int:
    """Prepare, serve, evaluate, gather."""
    if arguments.dry_run:
        return show_plans(arguments)
    runs = recipes.prepare(arguments)
    return run_all([run.folder for run in runs], as_json=arguments.json)


def run_all(folders: Sequence[RunFolder], *, as_json: bool = False) -> int:
    """Finish runs one after the other; one that fails does not keep the next from its turn.

    Raises what the only run raises; of several, the errors are shown and the worst code is returned.
    """
    if len(folders) == 1:
        return run_and_gather(folders[0], as_json=as_json)
    worst = 0
    for folder in folders:
        try:
            code = run_and_gather(folder, as_json=as_json)
        except EvalkitError as error:
            show_error(error)
            code = error.exit_code
        worst = max(worst, code)
        if code == INTERRUPTED:
            break
    return worst


def run_and_gather(folder: RunFolder, *, as_json: bool = False) -> int:
    """Finish a run in this process and show its results.

    Raises what `run_here` raises, and IncompleteError when units are missing at the end.
    """
    plan = load_plan(folder)
    owed = count_owed(folder, plan)
    if owed:
        say(f"{plan.run_id}  {folder.root}: {owed:,} of {plan.n_units:,} units to do")
        with watching_here(folder):
            code = run_here(folder, plan, clock=SYSTEM_CLOCK, env=command_environment(None))
        if code:
            say(
                f"interrupted; nothing done is lost. Go on with: evalkit resume {folder.root} --here"
            )
            return INTERRUPTED
    else:
        say(f"{plan.run_id}  {folder.root}: nothing is left to do, no server is started")
    gather(folder, as_json=as_json).require_complete()
    return 0
