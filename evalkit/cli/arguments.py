"""Arguments that several commands share, and what their values must be."""

from __future__ import annotations

import argparse


def add_tasks(command: argparse.ArgumentParser) -> None:
    """`-t TASK`."""
    command.add_argument(
        "-t",
        "--task",
        action="append",
        default=[],
        metavar="TASK",
        help="only this task; repeatable",
    )


def add_env_file(command: argparse.ArgumentParser) -> None:
    """`--env-file FILE`."""
    command.add_argument(
        "--env-file", metavar="FILE", help="NAME=VALUE lines; variables already set win"
    )


def add_json(command: argparse.ArgumentParser) -> None:
    """`--json`."""
    command.add_argument("--json", action="store_true", help="print JSON")


def add_runs(command: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """`RUN` and where runs lie."""
    command.add_argument(
        "run",
        metavar="RUN",
        nargs="?" if optional else None,
        help="run folder, run name, run id (or its beginning), or recipe",
    )
    add_output(command)


def add_output(command: argparse.ArgumentParser) -> None:
    """`--output DIR`."""
    command.add_argument(
        "--output", metavar="DIR", default="runs", help="folder the runs lie in (default: runs)"
    )


def seconds(text: str) -> float:
    """A number of seconds."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return float(text)


def share(text: str) -> float:
    """A share, between 0 and 1."""
    value = _number(text)
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(f"{text} does not lie between 0 and 1")
    return value


def points(text: str) -> float:
    """A number of percentage points."""
    value = _number(text)
    if not 0.0 <= value <= 100.0:
        raise argparse.ArgumentTypeError(f"{text} is not a number of points from 0 to 100")
    return value


def points_apart(text: str) -> float:
    """A number of percentage points that two scores can differ by."""
    value = points(text)
    if value == 0.0:
        raise argparse.ArgumentTypeError(
            f"{text} is no difference: it must be above 0, at most 100 points"
        )
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a number") from None


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return int(text)


def natural(text: str) -> int:
    """A whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 on")
    return int(text)
