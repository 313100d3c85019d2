"""`evalkit new`: the beginning of a plug-in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from evalkit.cli.console import out, say
from evalkit.scaffold import write_plugin

if TYPE_CHECKING:
    import argparse


def command_new(arguments: argparse.Namespace) -> int:
    """Write it, and say how to try it."""
    folder = None if arguments.dir is None else Path(arguments.dir)
    for path in write_plugin(arguments.kind, arguments.name, folder):
        out().print(Text(str(path)), soft_wrap=True)
    place = folder or Path(f"evalkit-{arguments.name.replace('_', '-')}")
    say(f"Try it: cd {place} && pip install -e '.[test]' && pytest")
    return 0
