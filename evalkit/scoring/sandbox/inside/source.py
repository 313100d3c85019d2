"""Runs a model's source in the forked warm interpreter as if it had been started with `python main.py`.

Spares the start of an interpreter and the imports of the preloaded modules, which is most of the time
a small program takes. What a fresh interpreter would have of its own is made anew: `__main__`,
standard streams, seeds. Preloaded modules are in `sys.modules` already, and that is visible.
"""

from __future__ import annotations

import atexit
import io
import sys
import threading
import traceback
import types
from typing import Any, NoReturn

from .child import flush_and_exit
from .places import MAIN

_ENCODING = "utf-8"


def run_source(source: bytes, work: str) -> NoReturn:
    """Run it and end the process as the interpreter would, exit code included."""
    _renew_streams()
    _renew_seeds()
    sys.argv = [MAIN]
    sys.path.insert(0, work)
    module = types.ModuleType("__main__")
    module.__file__ = f"{work}/{MAIN}"
    sys.modules["__main__"] = module
    code = 0
    try:
        exec(compile(source, MAIN, "exec", dont_inherit=True), module.__dict__)
    except SystemExit as stop:
        code = _exit_code(stop.code)
    except BaseException as error:  # noqa: BLE001 - anything a program raises is its own end
        code = 1
        _show(error)
    _finish()
    flush_and_exit(code)


def _renew_streams() -> None:
    """The zygote's own stream objects belong to other files."""
    options: dict[str, Any] = {"encoding": _ENCODING, "closefd": False}
    sys.stdin = open(0, errors="surrogateescape", **options)  # noqa: SIM115
    sys.stdout = open(1, "w", errors="surrogateescape", **options)  # noqa: SIM115
    error = io.TextIOWrapper(
        io.FileIO(2, "w", closefd=False),
        encoding=_ENCODING,
        errors="backslashreplace",
        write_through=True,
    )
    sys.stderr = error
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, error  # type: ignore[misc]


def _renew_seeds() -> None:
    """`random` renews itself after a fork; numpy's global generator would repeat the parent's numbers."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _exit_code(code: object) -> int:
    """What `sys.exit(code)` means to the shell."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)  # noqa: T201
    return 1


def _show(error: BaseException) -> None:
    """The traceback, from the program's own first line on."""
    trace = error.__traceback__.tb_next if error.__traceback__ is not None else None
    try:
        sys.excepthook(type(error), error.with_traceback(trace), trace)
    except BaseException:  # noqa: BLE001 - a program may replace the hook by something broken
        traceback.print_exception(type(error), error, trace)


def _finish() -> None:
    """Threads that are not daemons end first, then what was registered for the end runs."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except BaseException as error:  # noqa: BLE001
        _show(error)
