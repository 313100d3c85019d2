"""The keeper's work for one program: start it, feed the time, collect the output, say how it ended.

Nothing that the program can write decides the answer: the end comes from wait4(2), the output from
pipes whose reading ends only the keeper holds, the times from the kernel and from the keeper's clock.
A host that closes the channel in the middle ends the program.
"""

from __future__ import annotations

import os
import select
import signal
import time
from typing import TYPE_CHECKING, Any, NoReturn

from .child import Streams, become_child, execute
from .enclosure import Enclosure, fork_until_ready
from .framing import pack_bytes, unpack_bytes
from .places import MAIN, write_files
from .source import run_source

if TYPE_CHECKING:
    from resource import struct_rusage

WATCH_S = 0.1
"""Between two looks at memory: what can be filled in that time, about a gigabyte, the node survives."""
_CHUNK = 65536
_CPU_SHARE = 0.5
"""The kernel's limit counts ticks and its accounting nanoseconds: on a busy virtual machine a program was
ended at a limit of 1 s that had used 0.8 s."""


class HostGoneError(Exception):
    """Nobody waits for the result."""


class _Output:
    """One stream: what is kept, and how much was cut."""

    def __init__(self, most: int) -> None:
        self.ours, self.theirs = os.pipe()
        os.set_blocking(self.ours, False)
        self._most = most
        self._parts: list[bytes] = []
        self._kept = 0
        self.cut = 0

    def read(self) -> bool:
        """Take what is there; False at the end of the stream."""
        try:
            part = os.read(self.ours, _CHUNK)
        except BlockingIOError:
            return True
        room = self._most - self._kept
        self._parts.append(part[:room])
        self._kept += len(part[:room])
        self.cut += len(part) - len(part[:room])
        return bool(part)

    def drain(self) -> None:
        """What is left in the pipe when the writers are gone (or cannot be ended: unsafe)."""
        while self.cut == 0 and select.select([self.ours], [], [], 0)[0] and self.read():
            pass

    @property
    def data(self) -> bytes:
        return b"".join(self._parts)


def run_program(job: dict[str, Any], enclosure: Enclosure, channel: int) -> dict[str, Any]:
    """The result of one job, as JSON. Raises EnclosureError, OSError, HostGoneError."""
    try:
        enclosure.enter(job["limits"]["scratch_bytes"])
        return _Run(job, enclosure, channel).result()
    finally:
        enclosure.leave()


class _Run:
    """One program in its enclosure."""

    def __init__(self, job: dict[str, Any], enclosure: Enclosure, channel: int) -> None:
        self._job = job
        self._enclosure = enclosure
        self._channel = channel
        self._limits = dict(job["limits"], cpu_s=job["cpu_s"])
        self._limits["processes"] += enclosure.extra_processes
        self._outputs = [_Output(self._limits["output_bytes"]) for _ in range(2)]
        self._usage: struct_rusage | None = None
        self._status = 0

    def result(self) -> dict[str, Any]:
        self._place_files()
        stdin = os.memfd_create("stdin")
        with open(stdin, "wb", closefd=False) as file:
            file.write(unpack_bytes(self._job["stdin"]))
        os.lseek(stdin, 0, os.SEEK_SET)
        wake = _wake_on_child()
        out, err = self._outputs
        streams = Streams(stdin, out.theirs, err.theirs)
        child = fork_until_ready(lambda: None, lambda ready: self._be_program(streams, ready))
        started = time.monotonic()
        for descriptor in streams:
            os.close(descriptor)
        try:
            reason = self._attend(child, wake, started + self._job["wall_s"])
        except HostGoneError:
            self._end(child)
            raise
        wall_s = time.monotonic() - started
        return self._report(reason, wall_s, self._end(child))

    def _place_files(self) -> None:
        files = {name: unpack_bytes(text) for name, text in self._job["files"].items()}
        if self._job["source"] is not None:
            files[MAIN] = unpack_bytes(self._job["source"])
        write_files(self._enclosure.work, files)

    def _be_program(self, streams: Streams, ready: int) -> NoReturn:
        become_child(self._enclosure, self._limits, streams, {ready})
        if self._job["source"] is None:
            execute(self._job["argv"])
        os.close(ready)
        run_source(unpack_bytes(self._job["source"]), self._enclosure.work)

    def _attend(self, child: int, wake: int, deadline: float) -> str | None:
        """Until the program ends (None) or must be ended (why)."""
        poll = select.poll()
        for descriptor in (wake, *(output.ours for output in self._outputs)):
            poll.register(descriptor, select.POLLIN)
        poll.register(self._channel, 0)  # asks for nothing: the other side's end is told anyway
        watch_at = time.monotonic() + WATCH_S
        while not self._has_ended(child):
            now = time.monotonic()
            if now >= deadline:
                return "wall_timeout"
            if now >= watch_at:
                if self._enclosure.exceeds_memory(self._limits["memory_bytes"]):
                    return "memory"
                watch_at = now + WATCH_S
            self._listen(poll, wake, min(deadline, watch_at) - now)
            if any(output.cut for output in self._outputs):
                return "output_limit"
        return None

    def _listen(self, poll: select.poll, wake: int, patience_s: float) -> None:
        """Take what comes next. Raises HostGoneError."""
        streams = {output.ours: output for output in self._outputs}
        for descriptor, _ in poll.poll(patience_s * 1000 + 1):
            if descriptor == self._channel:
                raise HostGoneError
            if descriptor == wake:
                os.read(wake, _CHUNK)
            elif not streams[descriptor].read():
                poll.unregister(descriptor)

    def _has_ended(self, child: int) -> bool:
        if self._usage is None:
            found, status, usage = os.wait4(child, os.WNOHANG)
            if found:
                self._status, self._usage = status, usage
        return self._usage is not None

    def _end(self, child: int) -> float:
        """No process of the program is left after this. CPU seconds of all of them."""
        self._enclosure.kill(child)
        if self._usage is None:
            _, self._status, self._usage = os.wait4(child, 0)
        others = self._enclosure.reap()
        for output in self._outputs:
            output.drain()
        return _cpu_s(self._usage) + others

    def _report(self, reason: str | None, wall_s: float, cpu_s: float) -> dict[str, Any]:
        out, err = self._outputs
        code = os.waitstatus_to_exitcode(self._status)
        if reason is None and (out.cut or err.cut):
            reason = "output_limit"
        return {
            "ended": reason or self._own_end(code),
            "exit_code": code if code >= 0 and reason is None else None,
            "signal": -code if code < 0 and reason is None else None,
            "stdout": pack_bytes(out.data),
            "stderr": pack_bytes(err.data),
            "stdout_cut": out.cut,
            "stderr_cut": err.cut,
            "wall_s": wall_s,
            "cpu_s": cpu_s,
        }

    def _own_end(self, code: int) -> str:
        assert self._usage is not None
        spent = _cpu_s(self._usage) >= _CPU_SHARE * self._limits["cpu_s"]
        if code == -signal.SIGXCPU or (spent and code == -signal.SIGKILL):
            return "cpu_timeout"
        return "failed" if code else "ok"


def _cpu_s(usage: struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


def _wake_on_child() -> int:
    """A descriptor that becomes readable when a child changes: pidfd needs Linux 5.3."""
    ours, theirs = os.pipe()
    for descriptor in (ours, theirs):
        os.set_blocking(descriptor, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
    return ours
