"""A stateful Python tool: cells of one namespace, run in an isolated process that may be lost and rebuilt.

Each session has an enclosure of its own for as long as it lives. A cell that passes its time limit is
interrupted; where that does not help, or where the process died, the next cell finds a new session in
which the earlier successful cells have run again (those that failed or timed out have not: whatever
they did is not done again). So the model's own faults are answers to the model; a sandbox that
cannot be had is a ScorerError and never a text the model sees.
"""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from evalkit.errors import ScorerError
from evalkit.scoring.sandbox.cell_text import (
    MOST_SHOWN,
    clean_stream,
    cut_stream,
    join_streams,
    timeout_line,
)
from evalkit.scoring.sandbox.find import ANSWER_GRACE_S
from evalkit.scoring.sandbox.inside.session import GRACE_S, START_S
from evalkit.scoring.sandbox.program import Limits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from evalkit.scoring.sandbox.find import Sandbox
    from evalkit.scoring.sandbox.zygote import Channel, Zygote

PRELOAD = ("IPython.terminal.interactiveshell",)
"""What a session's interpreter imports, where it has it: the import costs 0.3 s, a fork 3 ms."""
AGAIN = 3
"""A cell that succeeded gets so much more time when it runs again, maybe on a node that is fuller."""
_DIED = "connection closed\n"
_NOT_RESTORED = (
    "RuntimeError: Sandbox state restoration failed after the execution worker restarted. "
    "The interactive session history has been cleared; "
    "please re-run the last code block without relying on prior state.\n"
)
"""Both texts are the ones that the harness behind the published scores shows."""


class CellEnding(StrEnum):
    """How a cell ended."""

    OK = "ok"
    ERROR = "error"
    """It raised, or earlier cells could not be run again."""
    TIMEOUT = "timeout"
    DIED = "died"
    """The process ended in the middle: exited, crashed, or ended by a limit."""


@dataclass(frozen=True, slots=True)
class CellOutput:
    """One cell's answer, cleaned and cut as a model sees it."""

    ended: CellEnding
    stdout: str
    stderr: str
    cut: int
    """Characters that the model does not see."""

    @property
    def text(self) -> str:
        """The result string of the tool."""
        return join_streams(self.stdout, self.stderr)


@dataclass(frozen=True, slots=True)
class CellResult(CellOutput):
    """The answer, and what it took here and now: another run of the same cell has other numbers."""

    restored: int
    """Earlier cells that were run again before this one."""
    wall_s: float
    """With what was run again."""


class PythonSession:
    """One session; use it as a context manager. Thread-safe: cells run one after the other."""

    def __init__(self, zygote: Zygote, limits: Limits | None = None) -> None:
        """`zygote` serves any number of sessions; see `session_zygote`. `output_bytes` limits nothing
        here: what a cell shows is cut anyway.
        """
        self._zygote = zygote
        self._limits = limits or Limits()
        self._lock = threading.Lock()
        self._channel: Channel | None = None
        self._history: list[str] = []
        self._aborted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End its process; blocks until a cell that still runs has come back."""
        with self._lock:
            self._lose()

    def abort(self) -> None:
        """Never run anything again; a cell that runs now ends with a ScorerError. Does not block."""
        self._aborted = True
        if (channel := self._channel) is not None:
            channel.abort()

    def recall(self, code: str) -> None:
        """Take a cell that succeeded in an earlier process: it runs again before the next one."""
        with self._lock:
            self._lose()  # what runs now has not seen it
            self._history.append(code)

    def execute(self, code: str, timeout_s: float) -> CellResult:
        """Run a cell, for at most that many seconds. Raises ScorerError where the sandbox fails.

        Blocks; from an event loop call it through `asyncio.to_thread`.
        """
        with self._lock:
            started = time.monotonic()
            restored = 0
            if self._channel is None:
                restored = len(self._history)
                if not self._restore(timeout_s):
                    return _result({"ended": "error", "stderr": _NOT_RESTORED}, 0, started)
            reply = self._ask(code, timeout_s)
            if reply["ended"] == CellEnding.OK:
                self._history.append(code)
            return _result(_with_reason(reply, timeout_s), restored, started)

    def _restore(self, timeout_s: float) -> bool:
        """A new process with the earlier cells in it; False, and an empty history, where one fails."""
        self._channel = self._zygote.open(self._limits.scratch_bytes)
        try:
            self._refuse_aborted()
            job = {"kind": "session", "limits": asdict(self._limits)}
            _refuse_error(self._channel.ask(job, START_S + ANSWER_GRACE_S))
        except ScorerError:
            self._lose()
            raise
        for code in self._history:
            if self._ask(code, AGAIN * timeout_s)["ended"] != CellEnding.OK:
                self._lose()
                self._history.clear()
                return False
        return True

    def _ask(self, code: str, timeout_s: float) -> dict[str, Any]:
        """What the keeper says of a cell; the session is lost where it says no more."""
        assert self._channel is not None
        try:
            self._refuse_aborted()
            request = {"code": code, "timeout_s": timeout_s}
            reply = self._channel.ask(request, timeout_s + GRACE_S + ANSWER_GRACE_S)
            _refuse_error(reply)
        except ScorerError:
            self._lose()
            raise
        if "stdout" not in reply:
            self._lose()
        return reply

    def _refuse_aborted(self) -> None:
        if self._aborted:
            raise ScorerError("the Python session was closed")

    def _lose(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None


def session_zygote(sandbox: Sandbox, preload: Sequence[str] = ()) -> Zygote:
    """The warm interpreter for sessions; enter it as a context manager, once for all of them.

    `preload` names modules that it must have, and imports ahead.
    """
    return sandbox.zygote(preload, optional=PRELOAD)


def _refuse_error(reply: dict[str, Any]) -> None:
    if "error" in reply:
        raise ScorerError(f"the sandbox could not run a Python session: {reply['error']}")


def _with_reason(reply: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """A timeout and a death are said on stderr, after what the cell wrote there."""
    said = {"timeout": timeout_line(timeout_s), "died": _DIED, "memory": _DIED}
    return {**reply, "stderr": reply.get("stderr", "") + said.get(reply["ended"], "")}


def _result(reply: dict[str, Any], restored: int, started: float) -> CellResult:
    out, err = (clean_stream(_readable(reply.get(name, ""))) for name in ("stdout", "stderr"))
    shown_out, shown_err = cut_stream(out), cut_stream(err)
    cut = reply.get("stdout_cut", 0) + reply.get("stderr_cut", 0)
    cut += sum(max(0, len(text) - MOST_SHOWN) for text in (out, err))
    ended = CellEnding.DIED if reply["ended"] == "memory" else CellEnding(reply["ended"])
    return CellResult(ended, shown_out, shown_err, cut, restored, time.monotonic() - started)


def _readable(text: str) -> str:
    """Half of a surrogate pair can be printed, and neither journaled nor sent."""
    return text.encode(errors="replace").decode()
