"""`evalkit submit`, `evalkit resume` and `evalkit cancel`: jobs of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from evalkit.cli import recipes
from evalkit.cli.console import out, print_json, say
from evalkit.cli.env import command_environment
from evalkit.cli.runs import runs_of
from evalkit.clock import SYSTEM_CLOCK
from evalkit.store.run import load_cluster, load_plan

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from evalkit.cluster.submit import Submission
    from evalkit.recipe.schema import Cluster
    from evalkit.store.layout import RunFolder


def command_submit(arguments: argparse.Namespace) -> int:
    """Prepare and submit; what is done already is not done again."""
    if arguments.dry_run:
        return _dry_run(arguments)
    runs = recipes.prepare(arguments)
    submissions = [_submit(run.folder, run.cluster) for run in runs]
    return _report([run.folder for run in runs], submissions, arguments)


def command_resume(arguments: argparse.Namespace) -> int:
    """Continue runs with the plan and the cluster settings they have."""
    command_environment(arguments.env_file)
    runs = runs_of(arguments)
    if arguments.here:
        from evalkit.cli.run import run_all

        return run_all(runs, as_json=arguments.json)
    submissions = [_submit(run, load_cluster(run)) for run in runs]
    return _report(runs, submissions, arguments)


def command_cancel(arguments: argparse.Namespace) -> int:
    """Stop all jobs of runs."""
    from evalkit.cluster.cancel import cancel_run

    for run in runs_of(arguments):
        cancelled = cancel_run(run, clock=SYSTEM_CLOCK, env=command_environment(None))
        out().print(Text(f"{run.root.name}: {cancelled.text}"), soft_wrap=True)
    return 0


def _submit(folder: RunFolder, cluster: Cluster) -> Submission:
    from evalkit.cluster.submit import submit_run

    return submit_run(
        folder, load_plan(folder), cluster, clock=SYSTEM_CLOCK, env=command_environment(None)
    )


def _report(
    folders: Sequence[RunFolder], submissions: Sequence[Submission], arguments: argparse.Namespace
) -> int:
    for folder, submission in zip(folders, submissions, strict=True):
        plan = load_plan(folder)
        if arguments.json:
            jobs = [job.job_id for job in submission.jobs]
            print_json(
                {
                    "run_id": plan.run_id,
                    "folder": str(folder.root),
                    "jobs": jobs,
                    "kind": submission.kind,
                    "owed": submission.owed,
                }
            )
            continue
        out().print(Text(f"{plan.run_id}  {folder.root}\n{submission.text}"), soft_wrap=True)
        for warning in submission.warnings:
            say(f"warning: {warning}")
    if arguments.wait:
        return max(_wait(folder) for folder in folders)
    if not arguments.json:
        say(f"next: evalkit status {folders[0].root} --watch")
    return 0


def _wait(folder: RunFolder) -> int:
    """Follow a run to its end, then gather and show its results."""
    from evalkit.cli.gather import gather
    from evalkit.cli.watch import watch

    watch(folder)
    gather(folder).require_complete()
    return 0


def _dry_run(arguments: argparse.Namespace) -> int:
    """Everything a submit would send, exactly; nothing is written."""
    from evalkit.cli.plan_view import plan_json, plan_table
    from evalkit.cluster.executor import replica_gpus
    from evalkit.cluster.prepare import cluster_settings, plan_runs
    from evalkit.cluster.script import render_scripts
    from evalkit.cluster.slurm import SlurmCommands

    loaded = recipes.load(arguments)
    env = command_environment(None)
    cluster = cluster_settings(loaded, env)
    max_array = SlurmCommands(env).max_array_size() if cluster.executor == "slurm" else 1
    for planned in plan_runs(loaded, say):
        plan, folder = planned.plan, planned.folder
        scripts = []
        if cluster.executor == "slurm":
            scripts = render_scripts(folder, plan, cluster, max_array_size=max_array)
        gpus = f"{cluster.replicas} replicas x {replica_gpus(plan)} GPUs"
        if arguments.json:
            print_json(
                {
                    "folder": str(folder.root),
                    **plan_json(plan),
                    "gpus": gpus,
                    "scripts": [{"title": s.title, "text": s.text} for s in scripts],
                }
            )
            continue
        out().print(Text(f"{plan.run_id}  would be {folder.root}"), soft_wrap=True)
        out().print(plan_table(plan))
        out().print(Text(f"{cluster.executor}: {gpus}, {cluster.time_min} min each"))
        for script in scripts:
            out().print(Text(f"\n# {script.title}: {script.command}"), soft_wrap=True)
            out().print(Text(script.text), soft_wrap=True)
    return 0
