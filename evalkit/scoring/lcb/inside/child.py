"""One process of the model's: started, listened to, and ended with everything that it has started.

The supervisor keeps the time, reads what comes, and knows the end from wait4(2). It is not dumpable:
processes of the same user can neither trace it nor open its files below /proc. They could kill it,
which ends the whole program and passes nothing.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 4, 36
_CHUNK = 65536
_MOST_STDERR = 2000
_HIGHEST = 4096
"""Above any descriptor of ours; the kernel gives the lowest."""
_TICKS = os.sysconf("SC_CLK_TCK")
_CLEAN_S = 10.0
_libc = ctypes.CDLL(None, use_errno=True)


def shield() -> int:
    """For the supervisor: be closed to its children, adopt their orphans. What wakes it up."""
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake, theirs = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(theirs, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
    return wake


class Frame(NamedTuple):
    """What a runner has said."""

    kind: bytes
    content: bytes


class TooMuchError(Exception):
    """More was written than anybody wants to read."""


class LeftoverError(Exception):
    """What the program started cannot be ended in time: it starts new processes faster."""


class Child:
    """A running one. `frames` carries up to `most` bytes per frame, `stdout` as much in all."""

    def __init__(
        self, be: Callable[[int], NoReturn], wake: int, stdin: int, folder: str, *, streams: bool
    ) -> None:
        """Raises OSError where none can be started."""
        self._wake = wake
        self._frames, theirs = os.pipe()
        self._outputs = [os.pipe(), os.pipe()] if streams else []
        self.pid = os.fork()
        if self.pid == 0:
            _become(be, [stdin, *(pipe[1] for pipe in self._outputs)], theirs, folder)
        for descriptor in (theirs, *(pipe[1] for pipe in self._outputs)):
            os.close(descriptor)
        self._open = {self._frames: bytearray(), **{pipe[0]: bytearray() for pipe in self._outputs}}
        self._poll = select.poll()
        for descriptor in (wake, *self._open):
            self._poll.register(descriptor, select.POLLIN)
        self.status: int | None = None
        self.cpu_s = 0.0

    def next_frame(self, deadline: float, most: int) -> Frame | None:
        """The next one; None at the process's end, or after `deadline`. Raises TooMuchError."""
        buffer = self._open[self._frames]
        while (frame := _cut(buffer, most)) is None:
            if not self._go_on(deadline, most):
                self._drain(most)
                return _cut(buffer, most)
        return frame

    def until_end(self, deadline: float, most: int) -> Frame | None:
        """Its frame, if it gave one, when it has ended or `deadline` has passed. Raises TooMuchError."""
        while self._go_on(deadline, most):
            pass
        self._drain(most)
        return _cut(self._open[self._frames], most)

    def spent_cpu_s(self) -> float:
        """CPU time of the running process and of its children that have ended."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            return sum(int(field) for field in fields[11:15]) / _TICKS
        except (OSError, ValueError):
            return 0.0

    @property
    def stdout(self) -> bytes:
        """All of it that has been read."""
        return bytes(self._open[self._outputs[0][0]]) if self._outputs else b""

    @property
    def stderr(self) -> bytes:
        """Its end."""
        return bytes(self._open[self._outputs[1][0]]) if self._outputs else b""

    def end(self) -> None:
        """Kill it and its descendants, whatever groups they are in. Raises LeftoverError."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):  # it had no time to make its group
            os.kill(self.pid, signal.SIGKILL)
        if self.status is None:
            self._take(*os.wait4(self.pid, 0)[1:])
        kill_orphans()
        for descriptor in self._open:
            os.close(descriptor)

    def _go_on(self, deadline: float, most: int) -> bool:
        """Read what is there; False where it has ended or its time is over."""
        found, status, usage = os.wait4(self.pid, os.WNOHANG)
        if found:
            self._take(status, usage)
            return False
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        for descriptor, _ in self._poll.poll(left * 1000 + 1):
            if descriptor == self._wake:
                with suppress(BlockingIOError):
                    os.read(self._wake, _CHUNK)
            elif not self._read(descriptor, most):
                self._poll.unregister(descriptor)
        return True

    def _take(self, status: int, usage: object) -> None:
        self.status = os.waitstatus_to_exitcode(status)
        self.cpu_s = usage.ru_utime + usage.ru_stime  # type: ignore[attr-defined]

    def _read(self, descriptor: int, most: int) -> bool:
        part = os.read(descriptor, _CHUNK)
        buffer = self._open[descriptor]
        buffer += part
        if self._outputs and descriptor == self._outputs[1][0]:
            del buffer[:-_MOST_STDERR]
        elif len(buffer) > most + _CHUNK:
            raise TooMuchError
        return bool(part)

    def _drain(self, most: int) -> None:
        """What is left in the pipes; their writers may live on, so nothing is waited for."""
        for descriptor in self._open:
            while select.select([descriptor], [], [], 0)[0] and self._read(descriptor, most):
                pass


def _cut(buffer: bytearray, most: int) -> Frame | None:
    """Take a whole frame off the buffer."""
    if len(buffer) < 9:
        return None
    size = int.from_bytes(buffer[1:9], "big")
    if size > most:
        raise TooMuchError
    if len(buffer) < 9 + size:
        return None
    frame = Frame(bytes(buffer[:1]), bytes(buffer[9 : 9 + size]))
    del buffer[: 9 + size]
    return frame


def _become(
    be: Callable[[int], NoReturn], streams: list[int], frames: int, folder: str
) -> NoReturn:
    """In the child: nothing of the supervisor's stays open, and then it is the model's."""
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.chdir(folder)
        nothing = os.open(os.devnull, os.O_RDWR)
        for target in range(3):
            os.dup2(streams[target] if target < len(streams) else nothing, target)
        os.closerange(3, frames)
        os.closerange(frames + 1, _HIGHEST)
        _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
        be(frames)
    finally:
        os._exit(99)


def kill_orphans() -> None:
    """Whatever has been left to us. Raises LeftoverError where it keeps coming."""
    until = time.monotonic() + _CLEAN_S
    while _reap():
        if time.monotonic() > until:
            raise LeftoverError
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and _parent(process) == os.getpid():
                with suppress(ProcessLookupError):
                    os.kill(int(process.name), signal.SIGKILL)


def _reap() -> bool:
    """Wait for those that have ended; True while there are others."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0  # it has ended since
