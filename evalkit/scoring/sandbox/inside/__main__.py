"""The zygote: one warm interpreter that forks a keeper for every channel the host hands over.

It reads nothing of any job, so whatever a forked copy of its memory shows to a program is the same
for all programs. Standard input is the control socket: each message is one byte with the channel's
descriptor, and its end is the sandbox's end, because everything dies with PID 1.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

from . import kernel
from .child import PYTHON_IGNORES
from .enclosure import EnclosureError, make_enclosure
from .env import set_environment
from .framing import FramingError, encode_frame, read_frame
from .seccomp import assemble_filter
from .session import run_session
from .supervise import HostGoneError, run_program

_REAP_S = 1.0
"""How long a keeper that has ended may stay a zombie."""


def main() -> None:
    """Serve until the host closes the control socket."""
    settings = json.loads(sys.argv[1])
    set_environment(settings["environment"])
    control = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.close(nothing)
    if settings["mounts_proc"]:
        flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
        kernel.mount("proc", "/proc", "proc", flags)
    _become_nobody(settings["uid"])
    if settings["mode"] != "unsafe":  # there the parent is a thread of the host, which may end
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    _reset_signals()
    assemble_filter()
    sys.path.pop(0)  # our own folder: a program that runs in here imports nothing from it
    for name in settings["preload"]:
        importlib.import_module(name)
    for name in settings["optional"]:
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    control.sendall(encode_frame({"ready": True}))
    _serve(control, settings)
    os._exit(0)  # what the preloaded modules do at the end of an interpreter is nobody's affair


def _reset_signals() -> None:
    """What the host ignores is the host's affair: programs inherit what Python starts with.

    SIGINT is ignored here, because PID 1 is deaf to its own programs' signals only where it has no
    handler for them.
    """
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if number not in PYTHON_IGNORES:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _become_nobody(uid: int | None) -> None:
    """As root: be somebody whose number of processes the kernel limits, and whom nothing belongs to."""
    if uid is None:
        return
    kernel.drop_bounding_set()
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # or /proc/self would still be root's


def _serve(control: socket.socket, settings: dict[str, Any]) -> None:
    while True:
        _reap()
        if not select.select([control], [], [], _REAP_S)[0]:
            continue
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        [channel] = descriptors
        if settings["mode"] == "single":
            control.close()
            _keep(channel, settings)
            return
        if os.fork() == 0:
            control.close()
            _keep(channel, settings)
            os._exit(0)
        os.close(channel)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _keep(channel: int, settings: dict[str, Any]) -> None:
    """The keeper: one job on one channel."""
    try:
        job = read_frame(lambda count: os.read(channel, count))
        if job is None:
            return
        enclosure = make_enclosure(settings)
        if job["kind"] == "session":
            run_session(job, enclosure, channel)
            return
        reply = run_program(job, enclosure, channel)
    except HostGoneError:
        return
    except (EnclosureError, FramingError, OSError, MemoryError) as error:
        reply = {"error": f"{type(error).__name__}: {error}"}
    _send(channel, reply)


def _send(channel: int, reply: dict[str, Any]) -> None:
    with (
        socket.socket(fileno=channel) as connection,
        suppress(BrokenPipeError, ConnectionResetError),  # the host has gone
    ):
        connection.sendall(encode_frame(reply))


main()
