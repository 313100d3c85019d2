"""The command line's grammar. Nothing heavy is imported here: `evalkit --help` must be instant."""

from __future__ import annotations

import argparse

import evalkit
from evalkit.cli.arguments import (
    add_env_file,
    add_json,
    add_output,
    add_runs,
    add_tasks,
    natural,
    positive,
    seconds,
)
from evalkit.cli.plugins_parser import add_harness, add_ls, add_new
from evalkit.cli.results_parser import (
    add_compare,
    add_export,
    add_gather,
    add_report,
    add_score,
    add_verify,
)

DESCRIPTION = "Evaluate language models reproducibly, on Slurm with local vLLM servers or anywhere."
EPILOG = """\
start here:
  evalkit run recipes/demo.yaml          evaluate on this machine, in the foreground
  evalkit submit recipes/nano.yaml       send it to Slurm; the same command again resumes
  evalkit status RUN --watch             follow a run; RUN is a folder, a name, an id or a recipe
"""

COMMANDS = {
    "submit": "send a recipe's runs to Slurm (or the background); continues what is there",
    "run": "evaluate on this machine in the foreground; continues what is there",
    "status": "what is done, what runs, and what is wrong",
    "logs": "logs of workers and servers",
    "resume": "continue a run as it was planned",
    "cancel": "stop all jobs of a run; nothing already done is lost",
    "score": "grade (sandbox, judge) and score what is there now, without generating",
    "gather": "score everything, write the artifacts, prove completeness",
    "compare": "how the scores and settings of runs differ, and what that proves",
    "verify": "whether a run fits a published model card, and how both were made",
    "report": "one page of a run or of several side by side; also Markdown or text",
    "export": "published results for W&B, MLflow, Inspect, model cards, NeMo, or as tables",
    "prepare": "load data and write the plan; nothing is submitted",
    "convert": "the recipe that a file of the NeMo Evaluator launcher is read as",
    "info": "a run: what was evaluated, how, and its files; or a fully resolved recipe",
    "ls": "installed benchmarks, harnesses, recipes, templates and runs",
    "harness": "install and remove other harnesses, each in a Python of its own",
    "new": "begin a plug-in of your own: a benchmark or a harness, with its tests",
    "doctor": "check this installation",
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; `namespace.command` names the one that was given."""
    parser = argparse.ArgumentParser(
        prog="evalkit",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"evalkit {evalkit.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    adders = {
        "submit": _add_submit,
        "run": _add_run,
        "status": _add_status,
        "logs": _add_logs,
        "resume": _add_resume,
        "cancel": _add_cancel,
        "score": add_score,
        "gather": add_gather,
        "compare": add_compare,
        "verify": add_verify,
        "report": add_report,
        "export": add_export,
        "prepare": _add_prepare,
        "convert": _add_convert,
        "info": _add_info,
        "ls": add_ls,
        "harness": add_harness,
        "new": add_new,
        "doctor": _add_doctor,
    }
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        adders[name](command)
    return parser


def _add_recipe(command: argparse.ArgumentParser, *, only_shows: bool = False) -> None:
    command.add_argument(
        "recipe",
        metavar="RECIPE",
        help="recipe file, a shipped recipe's name, or a file of the NeMo Evaluator launcher",
    )
    _add_recipe_options(command, only_shows=only_shows)


def _add_recipe_options(command: argparse.ArgumentParser, *, only_shows: bool = False) -> None:
    """`only_shows`: nothing is left out of what is shown, so there is nothing to skip."""
    command.add_argument(
        "-o",
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a key (value in YAML; a task's name may come first: aime2025.repeats=8); "
        "~KEY removes one",
    )
    command.add_argument(
        "--serving",
        metavar="FILE",
        help="a file that says who is asked, and how: laid over the recipe, whose tasks it may not touch",
    )
    add_tasks(command)
    _add_nemo(command)
    if only_shows:
        command.set_defaults(skip_unsupported=False)
    else:
        _add_skip(command)
    command.add_argument("--limit", type=positive, metavar="N", help="at most N samples per task")
    add_env_file(command)
    add_json(command)


def _add_skip(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--skip-unsupported",
        action="store_true",
        help="launcher files: go on without tasks that evalkit has not got; plan and results name them",
    )


def _add_nemo(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--lenient",
        action="store_true",
        help="launcher files: take config: and target: of a task for what they were meant to be",
    )


def _add_convert(command: argparse.ArgumentParser) -> None:
    _add_recipe(command, only_shows=True)
    command.add_argument(
        "--output", metavar="FILE", help="write the recipe there, and not over another file"
    )


def _add_prepare(command: argparse.ArgumentParser) -> None:
    _add_recipe(command)
    command.add_argument("--dry-run", action="store_true", help="show the plan; write nothing")


def _add_submit(command: argparse.ArgumentParser) -> None:
    _add_recipe(command)
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="show plan and batch scripts; write and submit nothing",
    )
    _add_replicas(command)
    waiting = command.add_mutually_exclusive_group()
    waiting.add_argument("--wait", action="store_true", help="follow until the run is over")
    waiting.add_argument(
        "--watch",
        action="store_true",
        help="stay, and submit each new checkpoint that a wildcard in the recipe matches",
    )
    command.add_argument(
        "--settle",
        type=seconds,
        metavar="S",
        help="with --watch: seconds that a checkpoint must not have changed for (default: 60)",
    )


def _add_replicas(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--replicas",
        type=positive,
        metavar="N",
        help="start N replicas; beside those that work on a run that is running",
    )


def _add_run(command: argparse.ArgumentParser) -> None:
    _add_recipe(command)
    command.add_argument("--dry-run", action="store_true", help="show the plan; run nothing")


def _add_status(command: argparse.ArgumentParser) -> None:
    add_runs(command, optional=True)
    command.add_argument("--watch", action="store_true", help="follow until the run is over")
    add_json(command)


def _add_logs(command: argparse.ArgumentParser) -> None:
    add_runs(command)
    command.add_argument("-f", "--follow", action="store_true", help="wait for more")
    command.add_argument(
        "--replica", metavar="NAME", help="only this replica (r0), or this attempt of it (r0.a2)"
    )
    command.add_argument(
        "--server", action="store_true", help="the servers' logs beside the workers'"
    )
    command.add_argument(
        "--since",
        metavar="TIME",
        help="only lines written since: a time ago (10m, 2h, 1d) or local time (2026-01-31T23:59)",
    )
    command.add_argument(
        "--grep", metavar="REGEX", help="only lines in which this regular expression is found"
    )
    command.add_argument(
        "-n",
        "--lines",
        type=natural,
        metavar="N",
        help="last lines of each file (default: 20; all with --since or --grep)",
    )


def _add_resume(command: argparse.ArgumentParser) -> None:
    add_runs(command)
    command.add_argument(
        "--here", action="store_true", help="in the foreground, whatever the run's cluster settings"
    )
    _add_replicas(command)
    command.add_argument("--wait", action="store_true", help="follow until the run is over")
    add_env_file(command)
    add_json(command)


def _add_cancel(command: argparse.ArgumentParser) -> None:
    add_runs(command)
    command.add_argument(
        "--wait",
        type=seconds,
        metavar="S",
        help="see everything end for at most S seconds (default: the cluster's KillWait and 30)",
    )


def _add_info(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "what",
        metavar="RUN|RECIPE",
        help="run folder, run name, run id (or its beginning); or recipe file, or a shipped recipe's name",
    )
    add_output(command)
    _add_recipe_options(command, only_shows=True)


def _add_doctor(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--gold",
        metavar="TASK",
        help="send a benchmark's gold answers through its scorer: must be 100 %%",
    )
    command.add_argument(
        "--data", metavar="PATH", help="data file for --gold, instead of the pinned source"
    )
    command.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="parameter of the benchmark for --gold",
    )
    command.add_argument(
        "--profile", choices=["card", "fixed"], default="card", help="profile for --gold"
    )
    add_json(command)
