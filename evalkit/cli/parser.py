"""The command line's grammar. Nothing heavy is imported here: `evalkit --help` must be instant."""

from __future__ import annotations

import argparse

import evalkit

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
    "prepare": "load data and write the plan; nothing is submitted",
    "convert": "the recipe that a file of the NeMo Evaluator launcher is read as",
    "info": "the fully resolved recipe, with the place of each value",
    "ls": "installed benchmarks, recipes, templates and runs",
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
        "score": _add_score,
        "gather": _add_gather,
        "compare": _add_compare,
        "verify": _add_verify,
        "report": _add_report,
        "prepare": _add_prepare,
        "convert": _add_convert,
        "info": _add_recipe,
        "ls": _add_ls,
        "doctor": _add_doctor,
    }
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        adders[name](command)
    return parser


def _add_recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "recipe",
        metavar="RECIPE",
        help="recipe file, a shipped recipe's name, or a file of the NeMo Evaluator launcher",
    )
    command.add_argument(
        "-o",
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a key (value in YAML; a task's name may come first: aime2025.repeats=8); "
        "~KEY removes one",
    )
    _add_tasks(command)
    _add_nemo(command)
    command.add_argument("--limit", type=_positive, metavar="N", help="at most N samples per task")
    _add_env_file(command)
    _add_json(command)


def _add_nemo(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--skip-unsupported",
        action="store_true",
        help="launcher files: go on without tasks that evalkit has not got; plan and results name them",
    )
    command.add_argument(
        "--lenient",
        action="store_true",
        help="launcher files: take config: and target: of a task for what they were meant to be",
    )


def _add_convert(command: argparse.ArgumentParser) -> None:
    _add_recipe(command)
    command.add_argument(
        "--output", metavar="FILE", help="write the recipe there, and not over another file"
    )


def _add_tasks(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-t",
        "--task",
        action="append",
        default=[],
        metavar="TASK",
        help="only this task; repeatable",
    )


def _add_env_file(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--env-file", metavar="FILE", help="NAME=VALUE lines; variables already set win"
    )


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON")


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
        type=_seconds,
        default=60.0,
        metavar="S",
        help="with --watch: seconds that a checkpoint must not have changed for (default: 60)",
    )


def _add_replicas(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--replicas",
        type=_positive,
        metavar="N",
        help="start N replicas; beside those that work on a run that is running",
    )


def _add_run(command: argparse.ArgumentParser) -> None:
    _add_recipe(command)
    command.add_argument("--dry-run", action="store_true", help="show the plan; run nothing")


def _add_runs(command: argparse.ArgumentParser, *, optional: bool = False) -> None:
    command.add_argument(
        "run",
        metavar="RUN",
        nargs="?" if optional else None,
        help="run folder, run name, run id (or its beginning), or recipe",
    )
    _add_output(command)


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--output", metavar="DIR", default="runs", help="folder the runs lie in (default: runs)"
    )


def _add_status(command: argparse.ArgumentParser) -> None:
    _add_runs(command, optional=True)
    command.add_argument("--watch", action="store_true", help="follow until the run is over")
    _add_json(command)


def _add_logs(command: argparse.ArgumentParser) -> None:
    _add_runs(command)
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
        type=_natural,
        metavar="N",
        help="last lines of each file (default: 20; all with --since or --grep)",
    )


def _add_resume(command: argparse.ArgumentParser) -> None:
    _add_runs(command)
    command.add_argument(
        "--here", action="store_true", help="in the foreground, whatever the run's cluster settings"
    )
    _add_replicas(command)
    command.add_argument("--wait", action="store_true", help="follow until the run is over")
    _add_env_file(command)
    _add_json(command)


def _add_cancel(command: argparse.ArgumentParser) -> None:
    _add_runs(command)
    command.add_argument(
        "--wait",
        type=_seconds,
        metavar="S",
        help="see everything end for at most S seconds (default: the cluster's KillWait and 30)",
    )


def _add_scoring(command: argparse.ArgumentParser) -> None:
    _add_runs(command)
    _add_tasks(command)
    _add_json(command)


def _add_score(command: argparse.ArgumentParser) -> None:
    _add_scoring(command)
    command.add_argument(
        "--profile",
        choices=["card", "fixed"],
        help="score the same answers by another profile; its artifacts lie apart, in rescored/",
    )
    _add_env_file(command)


def _add_gather(command: argparse.ArgumentParser) -> None:
    _add_scoring(command)
    command.add_argument(
        "--allow-partial", action="store_true", help="exit 0 although units are missing"
    )


def _add_compare(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="run folders, names, ids (or their beginnings), sweeps, or results.json files; each is "
        "compared with the first",
    )
    _add_output(command)
    _add_tasks(command)
    command.add_argument(
        "--alpha",
        type=_share,
        default=0.05,
        metavar="A",
        help="significance level, and 1 - A that of the intervals (default: 0.05)",
    )
    command.add_argument(
        "--fail-on-regression",
        action="store_true",
        help="exit 11 where a run is worse than the first (adjusted p < A), 10 where a task could not "
        "be compared",
    )
    command.add_argument(
        "--margin",
        type=_points,
        default=0.0,
        metavar="PT",
        help="a regression is a loss of more than so many points (default: 0)",
    )
    command.add_argument(
        "--flips",
        type=_natural,
        default=5,
        metavar="N",
        help="samples that are named in each direction (default: 5); --json has all",
    )
    _add_json(command)


def _add_verify(command: argparse.ArgumentParser) -> None:
    _add_runs(command)
    _add_tasks(command)
    command.add_argument(
        "--card", required=True, metavar="CARD", help="card file, or a shipped card's name"
    )
    command.add_argument(
        "--detect",
        type=_points,
        default=3.0,
        metavar="PT",
        help="say how many repeats would find a difference of so many points (default: 3)",
    )
    command.add_argument(
        "--strict",
        action="store_true",
        help="exit 13 where the run is consistent and its settings are not the card's",
    )
    _add_json(command)


def _add_report(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="run folder, run name, run id (or its beginning), recipe, or the folder of a sweep",
    )
    _add_output(command)
    _add_tasks(command)
    command.add_argument(
        "--format",
        choices=["html", "markdown", "text", "json"],
        default="html",
        help="html (default) writes a page and prints where; the others print",
    )
    command.add_argument(
        "--out",
        metavar="FILE",
        help="where to write it; by default artifacts/report.html of the run, or report.html of the sweep",
    )
    command.add_argument(
        "--max-mb",
        type=_natural,
        metavar="N",
        help="most megabytes of samples in the page (default: 16); 0 has none",
    )
    command.add_argument(
        "--include-restricted",
        action="store_true",
        help="put texts of data into the page that may not be published; to report.restricted.html",
    )
    command.add_argument(
        "--profile",
        choices=["card", "fixed"],
        help="of what `evalkit score --profile` made, in rescored/",
    )


def _add_ls(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "what", choices=["tasks", "task", "recipes", "templates", "runs"], help="what to list"
    )
    command.add_argument("name", nargs="?", help="the task's name (after `task`)")
    _add_output(command)
    _add_json(command)


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
    _add_json(command)


def _seconds(text: str) -> float:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return float(text)


def _share(text: str) -> float:
    value = _number(text)
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(f"{text} does not lie between 0 and 1")
    return value


def _points(text: str) -> float:
    value = _number(text)
    if not 0.0 <= value <= 100.0:
        raise argparse.ArgumentTypeError(f"{text} is not a number of points from 0 to 100")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a number") from None


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 on")
    return int(text)
