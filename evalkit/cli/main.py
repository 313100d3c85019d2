"""Entry point: parse, call one command, turn errors into one screen of text and an exit code."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from evalkit.cli.parser import build_parser
from evalkit.errors import EvalkitError

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells report it."""
PIPE_CLOSED = 141
"""Exit code after SIGPIPE, likewise."""
MODULES = {
    "submit": "submit",
    "run": "run",
    "status": "status",
    "logs": "logs",
    "resume": "submit",
    "cancel": "submit",
    "score": "gather",
    "gather": "gather",
    "compare": "compare",
    "verify": "verify",
    "report": "report",
    "export": "export",
    "prepare": "prepare",
    "info": "info",
    "convert": "convert",
    "ls": "ls",
    "harness": "harness",
    "new": "new",
    "doctor": "doctor",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = build_parser().parse_args(argv)
    module = import_module(f"evalkit.cli.{MODULES[arguments.command]}")
    try:
        code: int = getattr(module, f"command_{arguments.command}")(arguments)
        sys.stdout.flush()
    except EvalkitError as error:
        from evalkit.cli.console import show_error

        show_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing already done is lost\n")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe went away (`evalkit logs | head`): the code is a shell's for that, for what
        # the command would have said of its work nobody knows.
        from evalkit.cli.console import drop_output

        drop_output()
        return PIPE_CLOSED
    return code
