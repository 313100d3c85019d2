"""What earlier attempts left on a node: told from what is in use, with real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from evalkit.serving import keeper
from evalkit.serving.leftovers import Name, end_leftovers, find_leftovers, parse_marker
from evalkit.serving.server import keeper_command
from evalkit.serving.tree import MARKER, read_process
from tests.unit.serving.test_tree import SLEEP, STUBBORN, orphan, running

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[3]
# A worker is younger than what it may end, so it is a process of its own here.
LOOK = """
import sys
from pathlib import Path
from evalkit.serving.leftovers import end_leftovers
print(*end_leftovers(sys.argv[1], Path(sys.argv[2])), sep="\\n")
"""

# A worker that stops its keeper with its last breath.
HOLDER = """
import os, signal, subprocess, sys
argv = [str(os.getpid()) if part == "PARENT" else part for part in sys.argv[1:]]
process = subprocess.Popen(argv, start_new_session=True)
print(process.pid, flush=True)
input()
os.kill(process.pid, signal.SIGSTOP)
"""


def look(marker: str, run_dir: Path) -> list[str]:
    """What a starting attempt says of its node."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK, marker, str(run_dir)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines() if done.stdout.strip() else []


@pytest.fixture
def run_id(tmp_path: Path) -> str:
    """Of this test alone."""
    return f"run{os.getpid()}{tmp_path.name[-8:]}"


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Where the first attempt of r0 logged."""
    folder = tmp_path / "logs" / "r0" / "attempt-1"
    folder.mkdir(parents=True)
    return folder


@contextlib.contextmanager
def kept(marker: str, log: Path) -> Iterator[int]:
    """A server with its keeper, held by us; the server's pid."""
    command = [*keeper_command(os.getpid(), 0.1, Path("/nonexistent")), *SLEEP]
    with (
        log.open("ab") as out,
        running(command, {MARKER: marker}, stderr=out, start_new_session=True) as held,
    ):
        children = Path(f"/proc/{held.pid}/task/{held.pid}/children")
        try:
            yield int(children.read_text().split()[0])
        finally:
            held.terminate()
            held.wait()


def test_what_a_killed_attempt_left_is_ended(logs: Path, tmp_path: Path, run_id: str) -> None:
    """By its marker or by its log, and the attempt that looks says what it ended and where."""
    with (
        orphan(logs, "setsid") as (_, hidden),
        running(STUBBORN, {MARKER: f"{run_id}-r0.a2-1:20000"}) as marked,
    ):
        said = look(f"{run_id}-r0.a3-0", tmp_path)
        node = os.uname().nodename
        assert said == [
            f"r0.a1, which is over, had left processes on {node} ({hidden.pid}); they are ended",
            f"r0.a2, which is over, had left processes on {node} ({marked.pid}); they are ended",
        ]
        assert marked.wait() == -signal.SIGKILL
        assert read_process(hidden.pid) is None
        assert look(f"{run_id}-r0.a3-0", tmp_path) == []


def test_what_is_in_use_is_left_alone(logs: Path, tmp_path: Path, run_id: str) -> None:
    """Another replica's server, an older attempt that still lives, our own, another run's."""
    other = tmp_path / "other" / "logs" / "r0" / "attempt-1"
    other.mkdir(parents=True)
    with (
        kept(f"{run_id}-r1.a1-0:1", logs / "x.log"),
        kept(f"{run_id}-r0.a1-0:1", logs / "server.log"),
        running(SLEEP, {MARKER: f"{run_id}-r0.a1-0:1"}),
        running(SLEEP, {MARKER: f"{run_id}-r0.a2-0:1"}),
        running(SLEEP, {MARKER: f"{run_id}0-r0.a1-0:1"}),
        orphan(other),
        (logs / "worker.log").open("ab") as log,
        running(SLEEP, {}, stderr=log),
    ):
        assert look(f"{run_id}-r0.a2-0", tmp_path) == []


def test_what_is_younger_is_left_alone(run_id: str, tmp_path: Path) -> None:
    """A process that was started after the one that looks is nobody's leftover."""
    with running(SLEEP, {MARKER: f"{run_id}-r0.a1-0:1"}):
        assert find_leftovers(Name(run_id, "r0.a2"), tmp_path) == {}


def test_a_keeper_without_its_evalkit_holds_nothing(
    run_id: str, logs: Path, tmp_path: Path
) -> None:
    """Whose worker was killed while it is stopped itself: it is ended with its server."""
    command = [sys.executable, "-I", "-S", keeper.__file__, "PARENT", "0.1", "/nonexistent", *SLEEP]
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, *command],
        env={**os.environ, MARKER: f"{run_id}-r0.a1-0:1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdout is not None
        # the server says that it is there, perhaps before the worker says its keeper's pid
        said = sorted(worker.stdout.readline() for _ in range(2))
        assert said[0] == "\n"
        pid = int(said[1])
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
        worker.wait()
    [said] = look(f"{run_id}-r0.a2-0", tmp_path)
    assert str(pid) in said
    assert "they are ended" in said
    assert read_process(pid) is None


def test_a_further_node_is_looked_at_by_its_keeper(run_id: str, tmp_path: Path) -> None:
    """Where there is no worker, the keeper of the new part ends what an older one left."""
    with running(STUBBORN, {MARKER: f"{run_id}-r0.a1-0:1:node1"}) as left:
        done = subprocess.run(
            [*keeper_command(keeper.STDIN, 0.1, tmp_path / "cache"), "true"],
            env={**os.environ, MARKER: f"{run_id}-r0.a2-0:1:node1"},
            input="",
            capture_output=True,
            text=True,
            check=False,
        )
        assert left.wait() == -signal.SIGKILL
    assert f"r0.a1, which is over, had left processes on {os.uname().nodename}" in done.stderr


def test_markers() -> None:
    """Run and attempt are read from a marker of any part; another name is none."""
    for marker in ("a-b-r0.a12-3", "a-b-r0.a12-3:20000", "a-b-r0.a12-3:20000:node1"):
        assert parse_marker(marker) == Name("a-b", "r0.a12")
    assert parse_marker("test-12-x") is None
    assert parse_marker(None) is None
    assert end_leftovers("test-12-x") == []
