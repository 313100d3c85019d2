"""`evalkit logs`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich.text import Text

from evalkit.cli.console import out, say
from evalkit.cli.runs import runs_of
from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.log_times import parse_since
from evalkit.cluster.logs import Wanted, follow
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
    wanted = Wanted(
        replica=arguments.replica,
        server=arguments.server,
        since=parse_since(arguments.since, SYSTEM_CLOCK.wall()) if arguments.since else None,
        grep=_pattern(arguments.grep),
        lines=arguments.lines,
    )
    console = out()
    colours: dict[str, str] = {}
    lines = follow(
        runs[0],
        wanted,
        follow=arguments.follow,
        on_problem=lambda error: say(f"{error.message}; looking again"),
    )
    is_empty = True
    for line in lines:
        is_empty = False
        colour = colours.setdefault(line.attempt, COLOURS[len(colours) % len(COLOURS)])
        style = colour if line.source == "worker" else f"dim {colour}"
        text = Text(line.text)
        if wanted.grep is not None:
            text.highlight_regex(wanted.grep, "bold")
        prefix = (f"{line.attempt} {line.source}| ", style)
        console.print(Text.assemble(prefix, text), soft_wrap=True)
    if is_empty and not wanted.is_filtered and wanted.backlog:
        say("no log of this run has a line yet; `evalkit status` says what it waits for")
    return 0


def _pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(
            f"--grep: {text!r} is no regular expression: {error}",
            hint="It is Python's syntax: \\( for a bracket, (?i) in front to ignore case.",
        ) from error
