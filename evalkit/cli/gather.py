"""`evalkit gather` and `evalkit score`: journals to artifacts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.text import Text

from evalkit.cli.console import err, out, print_json, say, show_error, unavailable_lines
from evalkit.cli.env import command_environment
from evalkit.cli.runs import runs_of
from evalkit.cli.sweep_view import show_sweeps
from evalkit.clock import SYSTEM_CLOCK
from evalkit.report.gather import GatherProgress, RunResults, choose_tasks, gather_run
from evalkit.report.rescore import rescored
from evalkit.report.tables import row_of, show_results
from evalkit.store.run import load_plan

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from evalkit.errors import EvalkitError
    from evalkit.plan.model import Plan
    from evalkit.recipe.schema import Profile
    from evalkit.report.results import Results
    from evalkit.store.layout import RunFolder


SUSPICIOUS = 0.5
"""Share of answers with one outcome of the model's own from which on the score is worth a look."""


def command_gather(arguments: argparse.Namespace) -> int:
    """Score everything; exit code 10 while units are missing, unless --allow-partial."""
    if arguments.replay:
        for run in runs_of(arguments):
            _replay(run, arguments.task)
    results = _gather_all(arguments)
    if not arguments.allow_partial:
        for result in results:
            result.require_complete()
    return 0


def _replay(folder: RunFolder, tasks: Sequence[str]) -> None:
    """Have lost output of programs written again; what cannot be, the gather then finds missing."""
    from evalkit.cluster.replaying import replay_lost  # heavy: serving and client

    plan = load_plan(folder)
    found = replay_lost(
        folder,
        plan,
        choose_tasks(plan, tasks or None),
        env=command_environment(None),
        clock=SYSTEM_CLOCK,
        tell=say,
    )
    for failure in found.failures:
        show_error(failure)
    if not found.lost:
        say(f"{folder.root}: no output of programs is lost")


def command_score(arguments: argparse.Namespace) -> int:
    """Grade and score what is there; units that were not generated are said, and are no error.

    What could not be graded is one: its code is the first failure's.
    """
    code = 0
    for run in runs_of(arguments):
        plan = load_plan(run)
        failures = grade(run, plan_as(plan, arguments.profile), arguments.task, arguments.env_file)
        for failure in failures:
            show_error(failure)
            code = code or failure.exit_code
    _gather_all(arguments, arguments.profile)
    return code


def grade(
    folder: RunFolder, plan: Plan, tasks: Sequence[str] = (), env_file: str | None = None
) -> list[EvalkitError]:
    """Grade what is not graded, with progress; why whole tasks could not be. Raises StoreError."""
    # what grades starts sandboxes and asks judges: gather, which does neither, begins without it
    from evalkit.cli.grading_view import GradingView
    from evalkit.cluster.grading import Watching, grade_run

    chosen = choose_tasks(plan, tasks or None)
    with GradingView() as view:
        return grade_run(
            folder,
            plan,
            tasks=chosen,
            env=command_environment(env_file),
            clock=SYSTEM_CLOCK,
            watching=Watching(view.show, view.tell),
        )


def plan_as(plan: Plan, profile: Profile | None) -> Plan:
    """The plan, scored by a profile where one is given. Raises RecipeError."""
    return plan if profile is None else rescored(plan, profile)


def _gather_all(arguments: argparse.Namespace, profile: Profile | None = None) -> list[RunResults]:
    """Gather one run or a sweep's; as JSON, one list of the results of all tasks of all runs."""
    gathered = []
    folders = runs_of(arguments)
    for found in folders:
        run = replace(found, profile=profile)
        results = gather(run, arguments.task)
        gathered.append(results)
        if not arguments.json:
            show_run(run, results)
    if arguments.json:
        print_json([document for results in gathered for document in results_json(results)])
    elif profile is None:
        show_sweeps(folders)
    return gathered


def gather(folder: RunFolder, tasks: Sequence[str] = ()) -> RunResults:
    """Gather one run, complete or not. Raises StoreError, PlanError, UsageError."""
    console = err()
    with console.status("reading journals") as spinner:

        def show(progress: GatherProgress) -> None:
            spinner.update(
                f"gathering {progress.task}: shard {progress.shards}/{progress.of_shards}, "
                f"{progress.scored:,} units scored"
            )

        return gather_run(
            folder,
            plan_as(load_plan(folder), folder.profile),
            tasks=list(tasks) or None,
            allow_partial=True,
            on_progress=show,
            clock=SYSTEM_CLOCK.wall,
        )


def show_run(folder: RunFolder, results: RunResults) -> None:
    """A run's table of results, and where its artifacts are."""
    show_results(out(), [row_of(task) for task in results.tasks])
    for line in unavailable_lines(results.summary.unavailable):
        out().print(Text(line), soft_wrap=True)
    continued = sum(task.counts.continued for task in results.tasks)
    if continued:
        saved = sum(task.tokens.saved for task in results.tasks)
        units = "unit" if continued == 1 else "units"
        text = f"{continued:,} {units} went on where an interruption had stopped them: "
        out().print(Text(f"{text}{saved:,} tokens were saved"), soft_wrap=True)
    for task in results.tasks:
        for note in suspicions(task):
            say(f"note: {task.task}: {note}")
    problems = list(dict.fromkeys(problem for task in results.tasks for problem in task.problems))
    if problems:
        lines = "line or file" if len(problems) == 1 else "lines or files"
        say(
            f"warning: {len(problems):,} damaged {lines} of the run left out, all named in results.json; "
            f"first: {problems[0]}"
        )
    out().print(Text(f"artifacts: {folder.artifacts()}"), soft_wrap=True)


def suspicions(results: Results) -> Iterator[str]:
    """What makes a score worth a look, though it counts: outcomes that are the model's own in name."""
    scored = results.counts.scored
    outcomes = results.counts.by_outcome
    hints = {
        "empty": "does the reasoning parser fit the model, and is max_tokens enough for its reasoning",
        "truncated": "is max_tokens, or the server's context, enough for this model",
        "refused": "what does the endpoint say: samples.jsonl.zst has its words",
    }
    for outcome, question in hints.items():
        share = outcomes.get(outcome, 0) / scored if scored else 0.0
        if share >= SUSPICIOUS:
            yield f"{share:.0%} of the answers are {outcome}: {question}?"


def results_json(results: RunResults) -> list[dict[str, Any]]:
    """`results.json` of each task; each says which run it is of."""
    return [task.model_dump(mode="json") for task in results.tasks]
