"""The grammar of the commands that make results and read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.cli.arguments import (
    add_env_file,
    add_json,
    add_output,
    add_runs,
    add_tasks,
    natural,
    points,
    points_apart,
    share,
)
from evalkit.report.export.kinds import KINDS

if TYPE_CHECKING:
    import argparse


def _add_scoring(command: argparse.ArgumentParser) -> None:
    add_runs(command)
    add_tasks(command)
    add_json(command)


def add_score(command: argparse.ArgumentParser) -> None:
    """Arguments of `evalkit score`."""
    _add_scoring(command)
    command.add_argument(
        "--profile",
        choices=["card", "fixed"],
        help="score the same answers by another profile; its artifacts lie apart, in rescored/",
    )
    add_env_file(command)


def add_gather(command: argparse.ArgumentParser) -> None:
    """Arguments of `evalkit gather`."""
    _add_scoring(command)
    command.add_argument(
        "--allow-partial", action="store_true", help="exit 0 although units are missing"
    )
    command.add_argument(
        "--replay",
        action="store_true",
        help="first run programs of harnesses again whose output is lost, answered from the journal alone",
    )


def add_compare(command: argparse.ArgumentParser) -> None:
    """Arguments of `evalkit compare`."""
    command.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="run folders, names, ids (or their beginnings), sweeps, or results.json files; each is "
        "compared with the first",
    )
    add_output(command)
    add_tasks(command)
    command.add_argument(
        "--alpha",
        type=share,
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
        type=points,
        default=0.0,
        metavar="PT",
        help="a regression is a loss of more than so many points (default: 0)",
    )
    command.add_argument(
        "--flips",
        type=natural,
        default=5,
        metavar="N",
        help="samples that are named in each direction (default: 5); --json has all",
    )
    command.add_argument(
        "--all-settings",
        action="store_true",
        help="each setting of servers of different kinds, not just the kinds; --json has all",
    )
    add_json(command)


def add_verify(command: argparse.ArgumentParser) -> None:
    """Arguments of `evalkit verify`."""
    add_runs(command)
    add_tasks(command)
    command.add_argument(
        "--card", required=True, metavar="CARD", help="card file, or a shipped card's name"
    )
    command.add_argument(
        "--detect",
        type=points_apart,
        default=3.0,
        metavar="PT",
        help="say how many repeats would find a difference of so many points (default: 3)",
    )
    command.add_argument(
        "--strict",
        action="store_true",
        help="exit 13 where the run is consistent and its settings are not the card's",
    )
    add_json(command)


def add_report(command: argparse.ArgumentParser) -> None:
    """Arguments of `evalkit report`."""
    command.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="run folder, run name, run id (or its beginning), recipe, or the folder of a sweep",
    )
    add_output(command)
    add_tasks(command)
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
        type=natural,
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


def add_export(command: argparse.ArgumentParser) -> None:
    """Arguments of `evalkit export`."""
    add_runs(command)
    add_tasks(command)
    command.add_argument(
        "--to",
        required=True,
        choices=list(KINDS),
        help="; ".join(f"{name}: {kind.what}" for name, kind in KINDS.items()),
    )
    command.add_argument(
        "--profile",
        choices=["card", "fixed"],
        help="the results that `evalkit score --profile` made",
    )
    command.add_argument(
        "--allow-partial",
        action="store_true",
        help="also tasks with missing units: without scores, and marked as partial",
    )
    command.add_argument(
        "--dest",
        metavar="DIR",
        help="folder to write to (default: exports/KIND in the run's folder)",
    )
    command.add_argument(
        "--project", metavar="NAME", help="W&B project, MLflow experiment (default: evalkit)"
    )
    command.add_argument("--entity", metavar="NAME", help="W&B: user or team")
    command.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow: server or sqlite:///FILE (default: MLFLOW_TRACKING_URI)",
    )
    command.add_argument(
        "--key-env", metavar="NAME", help="W&B: variable with the key (default: WANDB_API_KEY)"
    )
    command.add_argument(
        "--offline", action="store_true", help="W&B: write what `wandb sync` sends, send nothing"
    )
    command.add_argument(
        "--samples", action="store_true", help="W&B, MLflow: send the samples, too"
    )
    command.add_argument(
        "--include-restricted",
        action="store_true",
        help="with --samples: also texts of data that may not be published",
    )
    add_env_file(command)
    add_json(command)
