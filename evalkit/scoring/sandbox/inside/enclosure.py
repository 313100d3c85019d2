"""What is made afresh around each program, and how everything in it is ended.

There are three kinds, and the host chooses. `nested`: the keeper leaves for new user, mount, PID,
IPC and network namespaces; their PID 1 does nothing but reap, so that killing it ends every
descendant, however it was started. `single`: where the kernel allows no further namespaces, the
whole sandbox serves one program, with the keeper as PID 1. `unsafe`: a process group and nothing
else. A program never shares a PID namespace with a process it could signal and that matters.
"""

from __future__ import annotations

import os
import resource
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from . import kernel
from .env import set_home
from .places import (
    NOBODY,
    SCRATCH,
    WORK,
    close_all_but,
    make_scratch,
    make_unsafe_scratch,
    mount_scratch,
    remove_unsafe_scratch,
)
from .seccomp import install_filter
from .watch import exceeds_memory

if TYPE_CHECKING:
    from collections.abc import Callable

_NAMESPACES = (
    kernel.CLONE_NEWUSER
    | kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWNET
)


class EnclosureError(Exception):
    """The enclosure could not be made: our failure, never the program's."""


class Enclosure:
    """One program's surroundings. `single` is this class as it is: the backend has made them."""

    scratch = SCRATCH
    work = WORK
    extra_processes = 0
    """Processes of ours that count against the program's limit and that the host has not counted."""

    def enter(self, scratch_bytes: int) -> None:
        """Make it; `scratch_bytes` was given to the backend when the sandbox was started."""
        if os.getpid() != 1:
            raise EnclosureError("single: the sandbox's first process is not ours")
        # The child shares our PID namespace: it must not trace us, nor open what we hold open.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        make_scratch()

    def confine(self) -> None:
        """In the child: give up what it must not have, for good."""
        kernel.drop_capabilities()
        install_filter()
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)

    def kill(self, child: int) -> None:
        """End every process of the program."""
        with suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)

    def reap(self) -> float:
        """After the child: wait for all others. CPU seconds that only they account for."""
        before = _children_cpu_s()
        try:
            while True:
                os.waitpid(-1, 0)
        except ChildProcessError:
            return _children_cpu_s() - before

    def exceeds_memory(self, most_bytes: int) -> bool:
        """Whether its processes hold more than that together."""
        return exceeds_memory(most_bytes)

    def leave(self) -> None:
        """Clean up what does not vanish by itself."""


class NestedEnclosure(Enclosure):
    """Namespaces of the program's own, below those of the zygote."""

    extra_processes = 2

    def __init__(self, shown_in_scratch: list[str]) -> None:
        self._shown = shown_in_scratch
        self._init = 0

    def enter(self, scratch_bytes: int) -> None:
        uid, gid = os.getuid(), os.getgid()
        kernel.unshare(_NAMESPACES)
        kernel.map_user(NOBODY, uid, gid)
        mount_scratch(scratch_bytes, self._shown)
        make_scratch()
        self._init = fork_until_ready(_mount_proc, lambda ready: _be_init(self, ready))

    def kill(self, child: int) -> None:
        os.kill(self._init, signal.SIGKILL)

    def reap(self) -> float:
        _, _, usage = os.wait4(self._init, 0)
        self._init = 0
        return usage.ru_utime + usage.ru_stime

    def leave(self) -> None:
        if self._init:  # something failed before there was a program to end
            self.kill(self._init)
            self.reap()


class UnsafeEnclosure(Enclosure):
    """A process group, in a folder that is removed afterwards."""

    extra_processes = 1

    def __init__(self) -> None:
        self.scratch = make_unsafe_scratch()
        self.work = f"{self.scratch}/box"

    def enter(self, scratch_bytes: int) -> None:
        pass

    def confine(self) -> None:
        set_home(self.work, self.scratch)

    def kill(self, child: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)

    def exceeds_memory(self, most_bytes: int) -> bool:
        return False  # which processes are its own cannot be told

    def leave(self) -> None:
        remove_unsafe_scratch(self.scratch)


def make_enclosure(settings: dict[str, Any]) -> Enclosure:
    """By what the host has told the zygote."""
    if settings["mode"] == "nested":
        return NestedEnclosure(settings["shown_in_scratch"])
    return UnsafeEnclosure() if settings["mode"] == "unsafe" else Enclosure()


def fork_until_ready(prepare: Callable[[], None], go_on: Callable[[int], NoReturn]) -> int:
    """Fork; the child prepares, then goes on with a pipe it may close or write an error into.

    Returns the child's PID once the pipe is closed. Raises EnclosureError with what was written,
    and then the child is gone.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            prepare()
            go_on(theirs)
        except BaseException as error:  # noqa: BLE001 - nothing may return into the parent's code
            os.write(theirs, f"{type(error).__name__}: {error}".encode()[:4000])
        finally:
            os._exit(127)
    os.close(theirs)
    try:
        reason = _read_all(ours)
    finally:
        os.close(ours)
    if reason:
        os.waitpid(child, 0)
        raise EnclosureError(reason)
    return child


def _read_all(descriptor: int) -> str:
    parts = []
    while part := os.read(descriptor, 65536):
        parts.append(part)
    return b"".join(parts).decode(errors="replace")


def _mount_proc() -> None:
    """From within the new PID namespace, which is the one that the mount shows."""
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("proc", "/proc", "proc", flags)


def _be_init(enclosure: Enclosure, ready: int) -> NoReturn:
    """PID 1 of the program's namespace: as powerless as the program, and nothing in its hands."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    enclosure.confine()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)  # should the keeper itself be killed
    close_all_but({ready})
    os.close(ready)
    while True:
        # Waiting for them adds their CPU time to ours, which the keeper reads when we are gone.
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        signal.sigwait({signal.SIGCHLD})


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
