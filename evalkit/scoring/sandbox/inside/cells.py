"""The process behind a Python session: runs cells in one namespace and answers each with a frame.

A cell is displayed as a notebook would: by IPython where the interpreter has it, else by a plain
stand-in that shows the last expression's value. The answers come from the process that runs the
model's code, so the keeper treats them as text of unknown origin, which is all they ever become.

SIGINT is blocked except while a cell runs, so that an interrupt that comes a moment too late ends no
later cell.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import os
import signal
import sys
import traceback
import types
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from .framing import encode_frame, read_frame

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_KEPT = 100_000
"""Characters of a stream that are kept: a hundred times what a model is shown after the clean-up."""


class _Kept(io.StringIO):
    """Keeps the beginning of what is written and counts the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = 0
        self._room = MOST_KEPT

    def write(self, text: str) -> int:
        super().write(text[: self._room])
        self.cut += max(0, len(text) - self._room)
        self._room = max(0, self._room - len(text))
        return len(text)


class _Shell(Protocol):
    def run(self, code: str) -> bool:
        """Run a cell with everything it shows on sys.stdout and sys.stderr; False where it failed."""
        ...


class _IPythonShell:
    """IPython with plain tracebacks, its files out of the working folder, and no history."""

    def __init__(self, scratch: str) -> None:
        from IPython.terminal.interactiveshell import TerminalInteractiveShell
        from traitlets.config import Config

        config = Config()
        config.HistoryManager.enabled = False
        self._shell: Any = TerminalInteractiveShell.instance(
            config=config, ipython_dir=f"{scratch}/ipython"
        )
        self._shell.InteractiveTB.set_mode(mode="Plain")

    def run(self, code: str) -> bool:
        return bool(self._shell.run_cell(code).success)


class _PlainShell:
    """The same without IPython: no magics, and the value of a last expression as `repr`."""

    def __init__(self) -> None:
        self._module = types.ModuleType("__main__")
        sys.modules["__main__"] = self._module

    def run(self, code: str) -> bool:
        try:
            body = ast.parse(code, "<cell>")
            last = body.body.pop() if body.body and isinstance(body.body[-1], ast.Expr) else None
            exec(compile(body, "<cell>", "exec"), self._module.__dict__)
            if isinstance(last, ast.Expr):
                value = eval(
                    compile(ast.Expression(last.value), "<cell>", "eval"), self._module.__dict__
                )
                sys.displayhook(value)
        except BaseException as error:  # noqa: BLE001 - whatever a cell raises is its output
            trace = error.__traceback__.tb_next if error.__traceback__ is not None else None
            traceback.print_exception(type(error), error, trace)
            return False
        return True


def make_shell(scratch: str) -> _Shell:
    """By what the interpreter has."""
    return _IPythonShell(scratch) if importlib.util.find_spec("IPython") else _PlainShell()


def run_cells(requests: int, replies: int, scratch: str) -> NoReturn:
    """Answer until the keeper closes its end. The first answer, number 0, is to no request."""
    sys.path.insert(0, "")
    shell = make_shell(scratch)
    # IPython's own handler ends the process where no prompt is shown.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _write_all(replies, encode_frame(_reply(0, ok=True, out=_Kept(), err=_Kept())))
    while (request := read_frame(lambda count: os.read(requests, count))) is not None:
        _write_all(replies, encode_frame(_answer(shell, request)))
    os._exit(0)


def _answer(shell: _Shell, request: dict[str, Any]) -> dict[str, Any]:
    out, err = _Kept(), _Kept()
    ok = False
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with _interruptible():
                ok = shell.run(request["code"])
        except KeyboardInterrupt:
            pass  # it came while IPython was not looking; the keeper knows why
    return _reply(request["number"], ok=ok, out=out, err=err)


def _reply(number: int, *, ok: bool, out: _Kept, err: _Kept) -> dict[str, Any]:
    return {
        "number": number,
        "ok": ok,
        "stdout": out.getvalue(),
        "stderr": err.getvalue(),
        "stdout_cut": out.cut,
        "stderr_cut": err.cut,
    }


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT comes through in here, except one that was meant for an earlier cell."""
    while signal.sigtimedwait({signal.SIGINT}, 0):
        pass
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
