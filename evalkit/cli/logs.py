"""`evalkit logs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from evalkit.cli.console import out
from evalkit.cli.runs import runs_of
from evalkit.cluster.logs import follow
from evalkit.errors import UsageError

if TYPE_CHECKING:
    import argparse

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_red")


def command_logs(arguments: argparse.Namespace) -> int:
    """Lines of all replicas and attempts, with their origin before each."""
    runs = runs_of(arguments)
    if len(runs) > 1:
        names = ", ".join(str(run.root) for run in runs)
        raise UsageError(f"that is a sweep; name one of its runs: {names}")
    console = out()
    colours: dict[str, str] = {}
    lines = follow(
        runs[0],
        follow=arguments.follow,
        replica=arguments.replica,
        server=arguments.server,
        lines=arguments.lines,
    )
    for line in lines:
        colour = colours.setdefault(line.attempt, COLOURS[len(colours) % len(COLOURS)])
        prefix = f"{line.attempt} {line.source}| "
        console.print(Text(prefix, style=colour) + Text(line.text), soft_wrap=True)
    return 0
