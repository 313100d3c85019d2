"""`evalkit submit`, `evalkit resume` and `evalkit cancel`: jobs of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text

from evalkit.cli import recipes
from evalkit.cli.console import out, print_json, say, show_error
from evalkit.cli.env import command_environment
from evalkit.cli.runs import runs_of
from evalkit.clock import SYSTEM_CLOCK
from evalkit.errors import ClusterError, EvalkitError, ServingError, UsageError
from evalkit.store.run import load_cluster, load_plan

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from evalkit.cluster.script import BatchScript
    from evalkit.cluster.slurm import SlurmCommands
    from evalkit.cluster.submit import Submission
    from evalkit.plan.model import Plan
    from evalkit.recipe.schema import Cluster
    from evalkit.store.layout import RunFolder


def command_submit(arguments: argparse.Namespace) -> int:
    """Prepare and submit; what is done already is not done again."""
    if arguments.settle is not None and not arguments.watch:
        raise UsageError(
            "--settle has no effect without --watch", hint="Leave it out, or add --watch."
        )
    if arguments.dry_run:
        return _dry_run(arguments)
    if arguments.watch:
        from evalkit.cli.checkpoints import submit_as_they_appear

        return submit_as_they_appear(arguments, _submit_all)
    runs = recipes.prepare(arguments)
    submissions = _submit_all([(run.folder, run.cluster) for run in runs], arguments.replicas)
    return _report([run.folder for run in runs], submissions, arguments)


def command_resume(arguments: argparse.Namespace) -> int:
    """Continue runs with the plan and the cluster settings they have."""
    command_environment(arguments.env_file)
    runs = runs_of(arguments)
    if arguments.here:
        if arguments.replicas:
            raise UsageError("--here is one replica", hint="Leave out --here or --replicas.")
        from evalkit.cli.run import run_all

        return run_all(runs, as_json=arguments.json)
    submissions = _submit_all([(run, load_cluster(run)) for run in runs], arguments.replicas)
    return _report(runs, submissions, arguments)


def command_cancel(arguments: argparse.Namespace) -> int:
    """Stop all jobs of runs; exit code 9 while something of them is left."""
    from evalkit.cluster.cancel import cancel_run, fence_off

    env = command_environment(None)
    left: list[str] = []
    runs = runs_of(arguments)
    for run in runs if len(runs) > 1 else ():
        fence_off(run)  # first of all: jobs that they share are wanted by none of them any more
    for run in runs:
        cancelled = cancel_run(run, clock=SYSTEM_CLOCK, env=env, wait_s=arguments.wait)
        out().print(Text(f"{run.root.name}: {cancelled.text}"), soft_wrap=True)
        left += cancelled.left
    if left:
        raise ClusterError(
            f"still there: {', '.join(left)}",
            hint="Type `evalkit cancel` again to go on waiting; a job that does not end on a node that "
            "answers no more is the administrators' to free.",
        )
    return 0


def _submit_all(
    runs: Sequence[tuple[RunFolder, Cluster]], replicas: int | None
) -> list[Submission]:
    from evalkit.cluster.share import SweepRun, submit_runs

    return submit_runs(
        [SweepRun(folder, load_plan(folder), cluster) for folder, cluster in runs],
        clock=SYSTEM_CLOCK,
        env=command_environment(None),
        replicas=replicas,
    )


def _report(
    folders: Sequence[RunFolder], submissions: Sequence[Submission], arguments: argparse.Namespace
) -> int:
    documents = []
    for folder, submission in zip(folders, submissions, strict=True):
        documents.append(_submission_json(folder, submission))
        if not arguments.json:
            run_id = documents[-1]["run_id"]
            out().print(Text(f"{run_id}  {folder.root}\n{submission.text}"), soft_wrap=True)
        for warning in submission.warnings:
            say(f"warning: {warning}")
    code = 0
    if arguments.wait:
        code = _wait_all(folders, documents if arguments.json else None)
    elif not arguments.json:
        say(f"next: evalkit status {folders[0].root} --watch")
    if arguments.json:
        print_json(documents)
    return code


def _submission_json(folder: RunFolder, submission: Submission) -> dict[str, Any]:
    return {
        "run_id": load_plan(folder).run_id,
        "folder": str(folder.root),
        "jobs": [job.job_id for job in submission.jobs],
        "kind": submission.kind,
        "owed": submission.owed,
    }


def _wait_all(folders: Sequence[RunFolder], documents: list[dict[str, Any]] | None) -> int:
    """Follow each run to its end; the worst exit code of all. Results are shown or added."""
    worst = 0
    for index, folder in enumerate(folders):
        try:
            code = _wait(folder, None if documents is None else documents[index])
        except EvalkitError as error:
            show_error(error)
            code = error.exit_code
        worst = max(worst, code)
    if documents is None:
        from evalkit.cli.sweep_view import show_sweeps

        show_sweeps(folders)
    return worst


def _wait(folder: RunFolder, document: dict[str, Any] | None) -> int:
    """Follow a run to its end, then gather and show what there is.

    Exit code 6 for a run that failed: its message says of what. Raises IncompleteError otherwise
    while units are missing, and StoreError, PlanError.
    """
    from evalkit.cli.gather import gather, results_json, show_run
    from evalkit.cli.watch import watch

    status = watch(folder)
    results = gather(folder)
    if document is None:
        show_run(folder, results)
    else:
        document |= {"phase": status.phase, "message": status.message}
        document["results"] = results_json(results)
    if status.phase == "failed" and status.done < status.expected:
        raise ServingError(
            f"{status.run}: {status.message}",
            hint=f"`evalkit logs {folder.root} --server` shows the logs; "
            "`evalkit submit` continues the run.",
        )
    if not results.complete:
        say(f"{status.run}: {status.message}")
    results.require_complete()
    return 0


def _dry_run(arguments: argparse.Namespace) -> int:
    """Everything a submit would send, exactly; nothing is written."""
    from evalkit.cli.plan_view import plan_json, show_plan, show_sweep_total
    from evalkit.cluster.parameters import replica_gpus
    from evalkit.cluster.planning import plan_runs
    from evalkit.cluster.resolved import cluster_settings
    from evalkit.cluster.slurm import SlurmCommands

    loaded, env = recipes.load(arguments), command_environment(None)
    commands, documents = SlurmCommands(env), []
    runs = plan_runs(loaded, say)
    for planned in runs:
        cluster = cluster_settings(planned.loaded, env)
        if arguments.replicas:
            cluster = cluster.model_copy(update={"replicas": arguments.replicas})
        plan, folder = planned.plan, planned.folder
        scripts = _scripts(folder, plan, cluster, commands)
        gpus = f"{_count(cluster.replicas, 'replica')} x {_count(replica_gpus(plan), 'GPU')}"
        texts = [{"title": s.title, "text": s.text} for s in scripts]
        about = {"folder": str(folder.root), **plan_json(plan)}
        documents.append({**about, "gpus": gpus, "scripts": texts})
        if arguments.json:
            continue
        out().print(Text(f"{plan.run_id}  would be {folder.root}"), soft_wrap=True)
        show_plan(plan)
        out().print(Text(f"{cluster.executor}: {gpus}, {cluster.time_min} min each"))
        for script in scripts:
            out().print(Text(f"\n# {script.title}: {script.command}"), soft_wrap=True)
            out().print(Text(script.text), soft_wrap=True)
    if arguments.json:
        print_json(documents)
        return 0
    show_sweep_total([planned.plan for planned in runs])
    if len(documents) > 1 and cluster_settings(loaded, env).share:
        say(
            "note: cluster.share: one array of replicas is submitted, for all runs; each has its gather"
        )
    return 0


def _scripts(
    folder: RunFolder, plan: Plan, cluster: Cluster, commands: SlurmCommands
) -> list[BatchScript]:
    """What sbatch would get, and what workers would start on further nodes."""
    from evalkit.cluster.preview import preview_parts
    from evalkit.cluster.script import render_scripts

    if cluster.executor != "slurm":
        return []
    scripts = render_scripts(
        folder,
        plan,
        cluster,
        max_array_size=commands.max_array_size(),
        kill_wait_s=commands.kill_wait_s(),
    )
    return [*scripts, *preview_parts(folder, plan, cluster)]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
