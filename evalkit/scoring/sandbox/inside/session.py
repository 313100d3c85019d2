"""The keeper's work for a Python session: pass cells on, keep the time, interrupt, notice the end.

The cells run in a process of the model's, so all that comes back is read against a deadline and a
size, and a process that answers nonsense counts as one that died. The keeper restores nothing: that
the earlier cells run again in a new session is the host's affair, which has them.
"""

from __future__ import annotations

import os
import select
import signal
import time
from typing import Any, NoReturn

from .cells import run_cells
from .child import Streams, become_child
from .enclosure import Enclosure, EnclosureError, fork_until_ready
from .framing import FramingError, encode_frame, read_frame
from .supervise import WATCH_S, HostGoneError

GRACE_S = 2.0
"""From the interrupt to the kill: what the harness that the published scores come from waits."""
START_S = 60.0
"""Making IPython's shell takes a twentieth of a second, and much longer on a node that is full."""
_MOST_REPLY = 2**22
"""Two streams of kept characters, escaped."""


class _EndedError(Exception):
    """The session's process ended, or it must: `how` is the cell's ending."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


def run_session(job: dict[str, Any], enclosure: Enclosure, channel: int) -> None:
    """Until the host closes the channel or the session's process has ended.

    Raises EnclosureError, OSError, HostGoneError.
    """
    try:
        enclosure.enter(job["limits"]["scratch_bytes"])
        _Session(job["limits"], enclosure, channel).serve()
    finally:
        enclosure.leave()


class _Session:
    """One session's process, and the pipes to it."""

    def __init__(self, limits: dict[str, Any], enclosure: Enclosure, channel: int) -> None:
        self._limits = dict(limits, processes=limits["processes"] + enclosure.extra_processes)
        self._enclosure = enclosure
        self._channel = channel
        self._number = 0
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        self._child = fork_until_ready(
            lambda: None, lambda ready: self._be(requests, replies, ready)
        )
        os.close(requests)
        os.close(replies)

    def _be(self, requests: int, replies: int, ready: int) -> NoReturn:
        nothing = os.open(os.devnull, os.O_RDWR)
        streams = Streams(nothing, nothing, nothing)
        become_child(self._enclosure, self._limits, streams, {requests, replies, ready})
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        os.close(ready)
        run_cells(requests, replies, self._enclosure.scratch)

    def serve(self) -> None:
        try:
            if self._reply(time.monotonic() + START_S) is None:
                raise EnclosureError(f"no Python session within {START_S:g} s")
            self._send({"ready": True})
            while (request := read_frame(self._read_channel)) is not None:
                self._send(self._execute(request["code"], request["timeout_s"]))
        except _EndedError as ended:
            self._send({"ended": ended.how})
        finally:
            self._end()

    def _send(self, value: dict[str, Any]) -> None:
        view = memoryview(encode_frame(value))
        while view:
            try:
                view = view[os.write(self._channel, view) :]
            except (BrokenPipeError, ConnectionResetError) as error:
                raise HostGoneError from error

    def _read_channel(self, count: int) -> bytes:
        """From the host, who may take hours; memory is looked at meanwhile."""
        self._wait_for(self._channel, None)
        return os.read(self._channel, count)

    def _execute(self, code: str, timeout_s: float) -> dict[str, Any]:
        self._number += 1
        started = time.monotonic()
        reply = self._ask({"number": self._number, "code": code}, started + timeout_s)
        ended = "timeout"
        if reply is None:
            os.kill(self._child, signal.SIGINT)
            reply = self._reply(started + timeout_s + GRACE_S)
            if reply is None:
                raise _EndedError("timeout")
        else:
            ended = "ok" if reply["ok"] else "error"
        return {
            "ended": ended,
            **{name: reply[name] for name in ("stdout", "stderr", "stdout_cut", "stderr_cut")},
        }

    def _ask(self, request: dict[str, Any], deadline: float) -> dict[str, Any] | None:
        """The reply, or None where there was none in time."""
        view = memoryview(encode_frame(request))
        os.set_blocking(self._requests, False)
        while view:
            if not select.select([], [self._requests], [], max(0.0, deadline - time.monotonic()))[
                1
            ]:
                return None
            try:
                view = view[os.write(self._requests, view) :]
            except BrokenPipeError:
                raise _EndedError("died") from None
        return self._reply(deadline)

    def _reply(self, deadline: float) -> dict[str, Any] | None:
        def read(count: int) -> bytes:
            if not self._wait_for(self._replies, deadline):
                raise TimeoutError
            return os.read(self._replies, count)

        try:
            reply = read_frame(read, _MOST_REPLY)
        except TimeoutError:
            return None
        except FramingError:
            raise _EndedError("died") from None
        if reply is None or not _is_reply(reply, self._number):
            raise _EndedError("died")
        return reply

    def _wait_for(self, descriptor: int, deadline: float | None) -> bool:
        """True once it can be read, False at the deadline."""
        while True:
            patience = WATCH_S if deadline is None else deadline - time.monotonic()
            watched = [descriptor, self._channel]
            readable = select.select(watched, [], [], max(0.0, min(WATCH_S, patience)))[0]
            if descriptor in readable:
                return True
            if self._channel in readable:
                raise HostGoneError  # it says nothing while it waits for an answer
            if patience <= 0:
                return False
            if self._enclosure.exceeds_memory(self._limits["memory_bytes"]):
                raise _EndedError("memory")

    def _end(self) -> None:
        self._enclosure.kill(self._child)
        os.waitpid(self._child, 0)
        self._enclosure.reap()


def _is_reply(reply: dict[str, Any], number: int) -> bool:
    """Whether it answers that request, in the form that `cells` gives it."""
    return (
        reply.get("number") == number
        and type(reply.get("ok")) is bool
        and all(type(reply.get(name)) is str for name in ("stdout", "stderr"))
        and all(type(reply.get(name)) is int for name in ("stdout_cut", "stderr_cut"))
    )
