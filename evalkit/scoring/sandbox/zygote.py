"""The host's side of a running sandbox: starts it, opens channels into it, ends it.

In mode `nested` one zygote serves every channel, and one that has died is replaced when the next
channel is opened; in mode `single` every channel has a sandbox of its own, which ends with it.
Closing a channel ends what runs on it. All of a sandbox is gone when its first process is, and that
one dies with the control socket, so nothing survives a host that is killed.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
import threading
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from evalkit.errors import ScorerError
from evalkit.scoring.sandbox.inside.framing import FramingError, encode_frame, read_frame
from evalkit.scoring.sandbox.view import environment

if TYPE_CHECKING:
    from types import TracebackType

    from evalkit.scoring.sandbox.backends import Backend, Start

START_DEADLINE_S = 120.0
"""Preloaded modules are imported first; on a cold network disk that is slow."""
_OWN_END_S = 2.0
"""What a zygote gets to end by itself, which takes milliseconds and accounts for its CPU time."""
_END_DEADLINE_S = 10.0
"""From SIGKILL to the end; more than that is a process in uninterruptible sleep."""
_SHOWN_LOG = 2000


class Channel:
    """One conversation with one keeper."""

    def __init__(self, connection: socket.socket, process: Process | None) -> None:
        self._connection = connection
        self._process = process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ask(self, frame: dict[str, Any], patience_s: float) -> dict[str, Any]:
        """The answer to a frame. Raises ScorerError where there is none in time."""
        try:
            self._connection.settimeout(patience_s)
            self._connection.sendall(encode_frame(frame))
            answer = read_frame(self._connection.recv)
        except TimeoutError as error:
            raise ScorerError(f"the sandbox gave no answer within {patience_s:g} s") from error
        except (OSError, FramingError) as error:
            raise ScorerError(f"the sandbox ended in the middle: {error}") from error
        if answer is None:
            raise ScorerError("the sandbox ended without an answer")
        return answer

    def abort(self) -> None:
        """Let a question that waits in another thread end without an answer."""
        with suppress(OSError):  # the other side has gone, or it is closed
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End what runs on it."""
        self._connection.close()
        if self._process is not None:
            self._process.end()


class Process:
    """A sandbox that has been started and said that it is ready."""

    def __init__(self, backend: Backend, start: Start) -> None:
        """Raises ScorerError with what the sandbox wrote, where it does not start."""
        command = backend.render_command(start)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self._control, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command.argv,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=self._log,
                    cwd=command.cwd,
                    env=environment(start.view.interpreter),
                    start_new_session=True,
                )
        except OSError as error:
            self._control.close()
            self._log.close()
            raise ScorerError(f"{command.argv[0]}: {error.strerror or error}") from error
        try:
            self._wait_until_ready()
        except BaseException:
            self.end()
            raise

    def _wait_until_ready(self) -> None:
        self._control.settimeout(START_DEADLINE_S)
        try:
            if read_frame(self._control.recv) is not None:
                return
            reason = "ended at once"
        except (OSError, FramingError) as error:
            reason = str(error)
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip()[-_SHOWN_LOG:]
        raise ScorerError(f"{reason}: {said.splitlines()[-1]}" if said else reason)

    def is_alive(self) -> bool:
        """Its first process runs."""
        return self._process.poll() is None

    def open(self) -> socket.socket:
        """A new channel's socket. Raises OSError where the sandbox has just died."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [b"+"], [theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        return ours

    def end(self) -> None:
        """End everything in it and wait for that."""
        self._control.close()  # which tells it to end
        try:
            self._process.wait(_OWN_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):  # it will go; nothing more can be done
                self._process.wait(_END_DEADLINE_S)
        self._log.close()


class Zygote:
    """Opens channels into a sandbox, starting it when needed. Thread-safe; use as a context manager."""

    def __init__(self, backend: Backend, start: Start) -> None:
        self._backend = backend
        self._start = start
        self._lock = threading.Lock()
        self._process: Process | None = None

    def __enter__(self) -> Self:
        """Start at once where there is something to keep warm."""
        if self._start.mode != "single":
            with self._lock:
                self._running()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._end()

    def open(self, scratch_bytes: int) -> Channel:
        """A channel to a keeper of its own. Raises ScorerError where no sandbox can be started."""
        try:
            if self._start.mode == "single":
                return self._open_single(scratch_bytes)
            with self._lock:
                return Channel(self._open_shared(), None)
        except OSError as error:
            raise ScorerError(f"the sandbox ended before a program could start: {error}") from error

    def _open_shared(self) -> socket.socket:
        try:
            return self._running().open()
        except OSError:  # it has died, and the process that waits for it has not noticed yet
            self._end()
            return self._running().open()

    def _open_single(self, scratch_bytes: int) -> Channel:
        process = Process(self._backend, replace(self._start, scratch_bytes=scratch_bytes))
        try:
            return Channel(process.open(), process)
        except OSError:
            process.end()
            raise

    def _running(self) -> Process:
        if self._process is None or not self._process.is_alive():
            self._end()
            self._process = Process(self._backend, self._start)
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None
