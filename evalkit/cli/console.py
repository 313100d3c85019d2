"""Where text goes: data to stdout, progress and errors to stderr. rich honours NO_COLOR and pipes."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

import orjson
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.errors import EvalkitError

PIPE_WIDTH = 10_000
"""Columns where no terminal is: nothing is folded, so that a line of output is one line to a tool."""


class DataConsole(Console):
    """Writes data. A reader that goes away (`evalkit logs mine | head`) has what it wanted."""

    def on_broken_pipe(self) -> None:
        """rich would end with exit code 1: the command line decides instead."""
        raise BrokenPipeError


def out() -> Console:
    """The console for data."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return DataConsole(file=sys.stdout, highlight=False, width=width)


def drop_output() -> None:
    """Nobody reads stdout any more: what is left in its buffer must not fail when Python ends."""
    with contextlib.suppress(OSError):  # a stdout that is no file has no such end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def err() -> Console:
    """The console for progress and messages."""
    return Console(file=sys.stderr, highlight=False)


def say(text: str) -> None:
    """A message that is not data."""
    err().print(Text(text), soft_wrap=True)


def skip_note(error: EvalkitError) -> None:
    """Say which run was left out of a list, and why."""
    say(f"skipped: {error.message}")


def unavailable_lines(unavailable: Mapping[str, str]) -> list[str]:
    """A line for each task that the recipe names and that cannot be run."""
    return [f"not available: {name}: {reason}" for name, reason in unavailable.items()]


def print_json(value: Any) -> None:
    """A JSON document on stdout."""
    option = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    sys.stdout.write(orjson.dumps(value, option=option).decode())


def show_error(error: EvalkitError) -> None:
    """What was wrong, and what to do."""
    console = err()
    console.print(Text("error: ", style="bold red") + Text(error.message), soft_wrap=True)
    if error.hint:
        console.print(Text(error.hint, style="dim"), soft_wrap=True)
