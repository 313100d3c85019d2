"""From a forked copy of the supervisor to the model's program, and back to it with what came of it.

The public graders call the program within their own process: it becomes a function that is called once
per test, with `sys.stdin` and `sys.stdout` replaced, and quite a few programs fail because of that.
`run_all` does the same. `run_one` runs the program as a program: one process per test with real
streams. Either way the process may say what it likes: it has inputs here and no expected output.

A frame is one byte (how it ended), eight of length, and that many of content.
"""

from __future__ import annotations

import ast
import atexit
import builtins
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import types
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from .preamble import PREAMBLE
from .values import encode_value

if TYPE_CHECKING:
    from collections.abc import Callable

READY, RETURNED, RAISED = b"c", b"r", b"x"
_MOST_DETAIL = 300
_GUARDED = ((os, "kill system putenv remove removedirs rmdir fchdir setuid fork forkpty killpg rename "
    "renames truncate replace unlink fchmod fchown chmod chown chroot lchflags lchmod lchown getcwd "
    "chdir"), (shutil, "rmtree move chown"), (subprocess, "Popen"), (builtins, "quit help"))  # fmt: skip
"""What the original graders take away from programs; it keeps nobody from anything."""
_GUARDED_MODULES = ("ipdb", "joblib", "resource", "psutil", "tkinter")
_INT_DIGITS = 50_000
"""Longest integer that can be printed in the original graders; Python's own limit is 4,300."""


class Frames:
    """The way back; opened by number, because a program may close what it finds."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def send(self, kind: bytes, content: bytes = b"") -> None:
        """Write one frame."""
        data = memoryview(kind + len(content).to_bytes(8, "big") + content)
        while data:
            data = data[os.write(self._descriptor, data) :]

    def send_error(self, error: BaseException) -> None:
        """Say what was raised."""
        try:
            text = f"{type(error).__name__}: {error}"
        except BaseException:  # noqa: BLE001 - its text is the program's own code
            text = type(error).__name__
        self.send(RAISED, text[:_MOST_DETAIL].encode(errors="backslashreplace"))


def renew_streams() -> None:
    """The supervisor's stream objects have been read from; the descriptors are new."""
    options: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "closefd": False}
    sys.stdin = sys.__stdin__ = open(0, **options)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", **options)  # type: ignore[misc]  # noqa: SIM115
    options["errors"] = "backslashreplace"
    sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, **options)  # type: ignore[misc]  # noqa: SIM115


# As in the public graders: all tests in one process.


def run_all(job: dict[str, Any], frames: Frames) -> NoReturn:
    """Call the program once per test, first to last, with a frame for each."""
    _guard()
    try:
        call = _stdin_caller(job) if job["function"] is None else _function_caller(job)
    except BaseException as error:  # noqa: BLE001 - whatever it raises is the program's end
        frames.send_error(error)
        os._exit(0)
    frames.send(READY)
    for index in range(len(job["inputs"])):
        try:
            content = call(index)
        except BaseException as error:  # noqa: BLE001
            frames.send_error(error)
            break
        frames.send(RETURNED, content)
    os._exit(0)


def _guard() -> None:
    with suppress(
        ImportError
    ):  # it cannot be imported any more afterwards, and was in the originals
        importlib.import_module("numpy")
    for module, names in _GUARDED:
        for name in names.split():
            setattr(module, name, None)
    for name in _GUARDED_MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(_INT_DIGITS)


def _stdin_caller(job: dict[str, Any]) -> Callable[[int], bytes]:
    function = wrap_program(job["code"])
    make_stdin = MockStdin if job["grader"] == "official" else io.StringIO

    def call(index: int) -> bytes:
        captured = io.StringIO()
        captured.close = _close_captured  # type: ignore[method-assign]
        sys.stdin, sys.stdout = make_stdin(job["inputs"][index]), captured
        try:
            with suppress(SystemExit):
                function()
        finally:
            sys.stdin, sys.stdout = sys.__stdin__, sys.__stdout__
        return captured.getvalue().encode(errors="surrogatepass")

    return call


def _close_captured() -> None:
    raise TypeError("the captured output cannot be closed, as in the original graders")


def _function_caller(job: dict[str, Any]) -> Callable[[int], bytes]:
    code = job["code"]
    module = _module("tmp_sol")
    exec(compile(PREAMBLE + code, "<string>", "exec", dont_inherit=True), module.__dict__)
    holder = module.__dict__["Solution"]() if "class Solution" in code else module
    method = getattr(holder, job["function"])
    arguments = [_arguments(text) for text in job["inputs"]]

    def call(index: int) -> bytes:
        captured, sys.stdout = sys.stdout, io.StringIO()
        try:
            result = method(*arguments[index])
        finally:
            sys.stdout = captured
        return encode_value(result)

    return call


def _arguments(text: str) -> list[Any]:
    return [json.loads(line) for line in text.split("\n")]


def wrap_program(code: str) -> Callable[[], object]:
    """All statements but imports as the body of one function, as the original graders have it.

    So a module-level name is a local one, which `global` does not find. Raises what compiling raises.
    """
    body = ast.parse(code).body
    last = body[-1] if body else None
    if isinstance(last, ast.If) and ast.unparse(last.test) == "__name__ == '__main__'":
        body = body[:-1] + last.body
    imports = [node for node in body if isinstance(node, (ast.Import, ast.ImportFrom))]
    tree = ast.parse(PREAMBLE + "def wrapped_function(): pass\n")
    function = tree.body[-1]
    assert isinstance(function, ast.FunctionDef)
    function.body = [node for node in body if not isinstance(node, (ast.Import, ast.ImportFrom))]
    tree.body[-1:-1] = imports
    module = _module("tmp_sol")
    exec(compile(tree, "<string>", "exec", dont_inherit=True), module.__dict__)
    wrapped: Callable[[], object] = module.__dict__["wrapped_function"]
    return wrapped


class MockStdin:
    """What the official grader shows as `sys.stdin`: `read` and `buffer` begin anew each time."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._lines = io.StringIO(text)
        self.buffer = MockBuffer(text.encode(errors="surrogatepass"))

    def read(self, *_: int) -> str:
        """Always the whole input."""
        return self._text

    def readline(self, *sizes: int) -> str:
        """The only method that goes on."""
        return self._lines.readline(*sizes)

    def readlines(self, *_: int) -> list[str]:
        """All lines, without their ends."""
        return self._text.split("\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lines, name)


class MockBuffer:
    """Its `sys.stdin.buffer`."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, *_: int) -> bytes:
        """Always the whole input."""
        return self._data

    def readline(self, *_: int) -> bytes:
        """Always the first line."""
        return self._data.partition(b"\n")[0] + b"\n"


# As a program: one process per test.


class Prepared(NamedTuple):
    """What all processes of one program begin with; each is a copy, so each may change it."""

    module: types.ModuleType
    """What the preamble has made. Copying its names would touch a thousand pages in each process."""
    code: types.CodeType | None
    """None where it does not compile, which its processes find out for themselves."""


def prepare(job: dict[str, Any]) -> Prepared:
    """Done once, in the supervisor: it runs nothing of the model's."""
    module = _module("__main__" if job["function"] is None else "solution")
    exec(PREAMBLE, module.__dict__)
    try:
        return Prepared(module, _compile(job["code"]))
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return Prepared(module, None)


def _compile(source: str) -> types.CodeType:
    return compile(source, "main.py", "exec", dont_inherit=True)


def run_one(job: dict[str, Any], prepared: Prepared, index: int, frames: Frames) -> NoReturn:
    """Run it on the descriptors 0, 1 and 2, or call its function, and end as an interpreter would."""
    code, content = 0, b""
    try:
        if job["function"] is None:
            _run_main(job, prepared)
        else:
            content = _run_function(job, prepared, index)
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - whatever it raises is the program's end
        code = 1
        frames.send_error(error)
    else:
        frames.send(RETURNED, content)
    os._exit(code)


def _run_main(job: dict[str, Any], prepared: Prepared) -> None:
    sys.argv = ["main.py"]
    prepared.module.__file__ = "main.py"
    with suppress(SystemExit):
        _execute(job, prepared)


def _run_function(job: dict[str, Any], prepared: Prepared, index: int) -> bytes:
    _execute(job, prepared)
    holder = prepared.module
    solution = holder.__dict__["Solution"]() if "class Solution" in job["code"] else holder
    return encode_value(getattr(solution, job["function"])(*_arguments(job["inputs"][index])))


def _execute(job: dict[str, Any], prepared: Prepared) -> None:
    sys.modules[prepared.module.__name__] = prepared.module
    exec(prepared.code or _compile(job["code"]), prepared.module.__dict__)


def _module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__["__builtins__"] = builtins
    return module
