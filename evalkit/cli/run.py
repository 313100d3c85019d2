"""`evalkit run`: a recipe on this machine, in the foreground, from data to results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.cli import recipes
from evalkit.cli.console import say
from evalkit.cli.env import command_environment
from evalkit.cli.gather import gather
from evalkit.cli.main import INTERRUPTED
from evalkit.cli.prepare import show_plans
from evalkit.cli.watch import watching_here
from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.here import count_owed, run_here
from evalkit.store.run import load_plan

if TYPE_CHECKING:
    import argparse

    from evalkit.store.layout import RunFolder


def command_run(arguments: argparse.Namespace) -> int:
    """Prepare, serve, evaluate, gather."""
    if arguments.dry_run:
        return show_plans(arguments)
    runs = recipes.prepare(arguments)
    return max(run_and_gather(run.folder, as_json=arguments.json) for run in runs)


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
