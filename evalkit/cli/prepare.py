"""`evalkit prepare`: what a recipe means, without running anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from evalkit.cli import recipes
from evalkit.cli.console import out, print_json, say
from evalkit.cli.plan_view import plan_json, show_plan, show_sweep_total

if TYPE_CHECKING:
    import argparse


def command_prepare(arguments: argparse.Namespace) -> int:
    """Load data, freeze requests, write the plan."""
    if arguments.dry_run:
        return show_plans(arguments)
    runs = recipes.prepare(arguments)
    if arguments.json:
        print_json([{"folder": str(r.folder.root), **plan_json(r.plan)} for r in runs])
        return 0
    for run in runs:
        what = "prepared" if run.is_new else "already prepared"
        out().print(Text(f"{run.plan.run_id}  {what}: {run.folder.root}"))
        show_plan(run.plan)
    say("next: evalkit submit with the same arguments, or evalkit run")
    return 0


def show_plans(arguments: argparse.Namespace) -> int:
    """Show what would be prepared; nothing is written."""
    from evalkit.cluster.planning import plan_runs

    planned = plan_runs(recipes.load(arguments), say)
    if arguments.json:
        print_json([{"folder": str(p.folder.root), **plan_json(p.plan)} for p in planned])
        return 0
    for run in planned:
        out().print(Text(f"{run.plan.run_id}  would be {run.folder.root}"))
        show_plan(run.plan)
    show_sweep_total([run.plan for run in planned])
    return 0
