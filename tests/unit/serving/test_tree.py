"""Finding and ending process trees, with real processes and without a server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil

from evalkit.serving.tree import (
    MARKER,
    Marks,
    Process,
    end_tree,
    find_outputs,
    find_processes,
    find_tree,
    read_marker,
    read_process,
    send,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SLEEP = [sys.executable, "-I", "-S", "-c", "print(flush=True); import time; time.sleep(100)"]
STUBBORN = [
    *SLEEP[:-1],
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(100)",
]
# As vLLM's engine core is in the end: no marker to be seen, no parent of the server's, another name.
ORPHAN = """
import os, sys, time
if os.fork():
    os._exit(0)
if "setsid" in sys.argv:
    os.setsid()
os.write(3, b"%d\\n" % os.getpid())
time.sleep(100)
"""


@contextmanager
def running(
    command: list[str], env: dict[str, str], **more: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has said that it is there; ended afterwards whatever happens."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **env}, **more)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def orphan(folder: Path, *arguments: str) -> Iterator[tuple[Process, Process]]:
    """The leader of a session, which has ended, and its child without a marker, which writes to
    `server.log`."""
    read, write = os.pipe()
    with (folder / "server.log").open("ab") as log:
        leading = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                "-c",
                f"import os; os.dup2({write}, 3);{ORPHAN}",
                *arguments,
            ],
            env={"PATH": os.defpath},
            stdout=log,
            stderr=log,
            pass_fds=[write],
            start_new_session=True,
        )
    leader = read_process(leading.pid)
    os.close(write)
    with os.fdopen(read) as said:
        pid = int(said.readline())
    leading.wait()  # only now has the child the parent that it keeps
    child = read_process(pid)
    assert child is not None
    try:
        yield leader or Process(leading.pid, os.getpid(), leading.pid, child.started), child
    finally:
        if (now := read_process(child.pid)) is not None and now.started == child.started:
            os.kill(child.pid, signal.SIGKILL)


def test_marker_finds_exactly_its_processes() -> None:
    """Another attempt's marker, even one that starts alike, is another's."""
    name = f"unit-{os.getpid()}"
    with (
        running(SLEEP, {MARKER: name}) as ours,
        running(SLEEP, {MARKER: name + "0"}) as other,
    ):
        assert {p.pid for p in find_tree(set(), Marks(name))} == {ours.pid}
        assert end_tree(set(), Marks(name), 10.0) == set()
        assert ours.wait() == -signal.SIGTERM
        assert other.poll() is None


def test_an_orphan_is_known_by_its_log(tmp_path: Path) -> None:
    """Without marker, session and parent, the open log tells; who reads the log is another."""
    log = tmp_path / "server.log"
    with orphan(tmp_path, "setsid") as (_, child), log.open("rb") as reading:
        assert read_marker(child.pid) is None
        assert find_outputs(child.pid) == {str(log)}
        with running(SLEEP, {}, stderr=reading):
            assert find_tree(set(), Marks("none", log)) == {child}
            assert find_tree(set(), Marks("none", tmp_path / "server-node1.log")) == set()
            assert end_tree(set(), Marks("none", log), 0.0) == set()
        assert read_process(child.pid) is None


def test_an_orphan_is_known_by_its_session(tmp_path: Path) -> None:
    """Its session keeps the number of the leader that began it; a later process's number is not it."""
    with orphan(tmp_path) as (leader, child):
        assert child.session == leader.pid
        assert find_tree(set(), Marks("none", None, leader)) == {child}
    with running(SLEEP, {}, start_new_session=True) as later:
        now = read_process(later.pid)
        assert now is not None
        assert find_tree(set(), Marks("none", None, now)) == {now}
        earlier = now._replace(started=now.started - 1)
        assert find_tree(set(), Marks("none", None, earlier)) == set()


def test_descendants_come_along(tmp_path: Path) -> None:
    """A child with a clean environment, in a session of its own and with its own output, is found."""
    script = "import subprocess, sys; print(flush=True); subprocess.run(sys.argv[1:], env={}, start_new_session=True, stdout=-3)"
    name = f"unit-{os.getpid()}-down"
    command = [sys.executable, "-I", "-S", "-c", script, *SLEEP]
    with running(command, {MARKER: name}) as top:
        while not (children := psutil.Process(top.pid).children()):
            os.sched_yield()
        assert {p.pid for p in find_tree(set(), Marks(name))} == {top.pid, children[0].pid}
        assert end_tree(set(), Marks(name), 5.0) == set()
        assert read_process(children[0].pid) is None


def test_stubborn_processes_are_killed() -> None:
    """Who ignores SIGTERM gets SIGKILL after the grace period."""
    name = f"unit-{os.getpid()}"
    with running(STUBBORN, {MARKER: name}) as process:
        assert end_tree(set(), Marks(name), 0.1) == set()
        assert process.wait() == -signal.SIGKILL


def test_no_grace_without_evalkit() -> None:
    """When evalkit is killed while it waits for a server's end, the rest of the grace is not waited."""
    name = f"unit-{os.getpid()}-urgent"
    with running(STUBBORN, {MARKER: name}) as process:
        assert end_tree(set(), Marks(name), 10_000.0, lambda: True) == set()
        assert read_process(process.pid) is None


def test_we_and_our_ancestors_are_spared() -> None:
    """However the roots and the session are given, this process and those above it are in no tree."""
    parent, own = os.getppid(), read_process(os.getpid())
    assert own is not None
    leader = find_processes().get(own.session)
    found = find_tree({parent}, Marks("nobody", None, leader))
    assert not {os.getpid(), parent} & {p.pid for p in found}


def test_a_later_process_with_the_same_pid_is_spared() -> None:
    """A signal is for the process that was found, not for the next one with its pid."""
    with running(SLEEP, {}) as process:
        found = read_process(process.pid)
        assert found is not None
        assert found.parent == os.getpid()
        send([found._replace(started=1)], signal.SIGKILL)
        assert psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE
        send([found], signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert read_process(found.pid) is None
