"""Finding and ending process trees, with real processes and without a server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from evalkit.serving import keeper
from evalkit.serving.keeper import Process, end_tree, find_tree, read_process
from evalkit.serving.server import keeper_command

if TYPE_CHECKING:
    from collections.abc import Iterator

SLEEP = [sys.executable, "-I", "-S", "-c", "print(flush=True); import time; time.sleep(100)"]
STUBBORN = [
    *SLEEP[:-1],
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(100)",
]


@contextmanager
def running(command: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has said that it is there; ended afterwards whatever happens."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **env})
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        try:
            yield process
        finally:
            process.kill()


def test_marker_finds_exactly_its_processes() -> None:
    """Another attempt's marker, even one that starts alike, is another's."""
    name = f"unit-{os.getpid()}"
    with (
        running(SLEEP, {keeper.MARKER: name}) as ours,
        running(SLEEP, {keeper.MARKER: name + "0"}) as other,
    ):
        assert {p.pid for p in find_tree(set(), name)} == {ours.pid}
        assert end_tree(set(), name, 10.0) == set()
        assert ours.wait() == -signal.SIGTERM
        assert other.poll() is None


def test_stubborn_processes_are_killed() -> None:
    """Who ignores SIGTERM gets SIGKILL after the grace period."""
    name = f"unit-{os.getpid()}"
    with running(STUBBORN, {keeper.MARKER: name}) as process:
        assert end_tree(set(), name, 0.1) == set()
        assert process.wait() == -signal.SIGKILL


def test_no_grace_without_evalkit() -> None:
    """When evalkit is killed while it waits for a server's end, the rest of the grace is not waited."""
    name = f"unit-{os.getpid()}-urgent"
    with running(STUBBORN, {keeper.MARKER: name}) as process:
        assert end_tree(set(), name, 10_000.0, lambda: True) == set()
        assert read_process(process.pid) is None


def test_we_and_our_ancestors_are_spared() -> None:
    """However the roots are given, this process and those above it are never in a tree."""
    parent = os.getppid()
    assert not {os.getpid(), parent} & {p.pid for p in find_tree({parent}, "nobody")}


def test_a_later_process_with_the_same_pid_is_spared() -> None:
    """A signal is for the process that was found, not for the next one with its pid."""
    with running(SLEEP, {}) as process:
        found = read_process(process.pid)
        assert found is not None
        assert found.parent == os.getpid()
        keeper.send([Process(found.pid, found.parent, "1")], signal.SIGKILL)
        assert psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE
        keeper.send([found], signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert read_process(found.pid) is None


def keep(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end through a keeper."""
    env = {**os.environ, keeper.MARKER: f"unit-{os.getpid()}"}
    whole = [*keeper_command(os.getpid(), 5.0, Path("/nonexistent")), *command]
    return subprocess.run(whole, env=env, capture_output=True, text=True, check=False)


def test_caches_outlive_a_server(tmp_path: Path) -> None:
    """While evalkit lives the caches stay when a server ends: the next one uses them."""
    env = {**os.environ, keeper.MARKER: f"unit-{os.getpid()}"}
    keeping = keeper_command(os.getpid(), 5.0, tmp_path)
    subprocess.run([*keeping, "true"], env=env, capture_output=True, check=True)
    assert tmp_path.is_dir()


def test_exit_codes_pass_through() -> None:
    """The keeper ends as the server did, by a code or by a signal, and when there is no command."""
    assert keep("sh", "-c", "exit 7").returncode == 7
    assert keep("sh", "-c", "kill -9 $$").returncode == 137
    missing = keep("no-such-command")
    assert missing.returncode == 127
    first, last = missing.stderr.splitlines()
    assert first == "cannot start no-such-command: No such file or directory"
    assert last.startswith("evalkit: the server ended with exit code 127 at ")


def test_signals_of_the_server_are_the_default() -> None:
    """The server gets SIGUSR2 ignored, and nothing else ignored or blocked by us."""
    status = keep("grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status").stdout.split()
    masks = {name: int(mask, 16) for name, mask in zip(*[iter(status)] * 2, strict=True)}
    # The C library keeps 32 and 33 to itself: as they were inherited, so they stay.
    free = ~(1 << 31 | 1 << 32)
    ours = {"SigBlk:": 0, "SigIgn:": 1 << (signal.SIGUSR2 - 1)}
    assert {name: mask & free for name, mask in masks.items()} == ours


def test_what_a_server_leaves_behind_is_ended() -> None:
    """A child that outlives the server goes with it, though it left session and parent."""
    script = "setsid sleep 100 >/dev/null 2>&1 & echo $!; exit 0"
    done = keep("sh", "-c", script)
    assert done.returncode == 0
    assert read_process(int(done.stdout)) is None
