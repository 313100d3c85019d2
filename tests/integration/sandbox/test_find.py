"""What is found on this machine, which has bubblewrap and user namespaces, and what unsafe means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evalkit.errors import ScorerError
from evalkit.scoring.sandbox import Ending, Program, SandboxPool, find_sandbox, probe, view_of
from evalkit.scoring.sandbox.backends import Bubblewrap, Namespaces, Unsafe
from evalkit.scoring.sandbox.find import Sandbox
from tests.integration.sandbox.sandboxes import SYSTEM_PYTHON

ENV = {"PATH": os.defpath}


def test_best_one_is_found() -> None:
    """bubblewrap comes first, with one sandbox for many programs."""
    found = find_sandbox(ENV)
    assert (found.name, found.mode) == ("bwrap", "nested")


def test_next_one_is_found(tmp_path: Path) -> None:
    """A backend that does not work is passed over, and its reason is known."""
    broken, working = probe([Bubblewrap("/no/such/bwrap"), Namespaces()], view_of(SYSTEM_PYTHON))
    assert broken.sandbox is None
    assert broken.reason == "/no/such/bwrap: No such file or directory"
    assert working.sandbox == Sandbox(Namespaces(), view_of(SYSTEM_PYTHON), "nested")


def test_paths_of_the_caller(tmp_path: Path) -> None:
    """A further path can be read under its own name, and not written."""
    folder = tmp_path / "a ; 'weird' \"name\""
    folder.mkdir()
    (folder / "data").write_text("numbers")
    source = f"import os; print(open(os.path.join({str(folder)!r}, 'data')).read())\nopen({str(folder / 'data')!r}, 'w')"
    for path in (folder, *folder.parents):
        if path.is_relative_to(tmp_path.parent):
            path.chmod(0o755)
    with SandboxPool(find_sandbox(ENV, readonly=[folder])) as pool:
        result = pool.run_one(Program(source=source))
    assert result.stdout == b"numbers\n"
    assert b"Read-only file system" in result.stderr


@pytest.mark.parametrize(
    "path", [Path("/"), Path("~").expanduser(), Path("/no/such/folder"), Path("/proc/1")]
)
def test_paths_that_cannot_be_shown(path: Path) -> None:
    """What holds the home folder, is not there, or is the sandbox's own, is refused by name."""
    with pytest.raises(ScorerError, match=f"sandbox: {path} "):
        find_sandbox(ENV, readonly=[path])


def test_interpreter_that_does_not_run() -> None:
    """A wrong interpreter is an error that names it."""
    with pytest.raises(ScorerError, match="/no/such/python does not run"):
        find_sandbox(ENV, interpreter=Path("/no/such/python"))


def test_unsafe_isolates_nothing_and_limits_still() -> None:
    """Without a sandbox there are limits, a folder of one's own and a fixed environment, no more."""
    with SandboxPool(Sandbox(Unsafe(), view_of(SYSTEM_PYTHON), "unsafe")) as pool:
        source = "import os; print(os.getcwd() == os.environ['HOME'], os.listdir(), os.path.isdir('/proc/1'))"
        result = pool.run_one(Program(source=source))
        assert result.stdout == b"True ['main.py'] True\n"
        sleeper = Program(source="import os, time; os.fork(); time.sleep(600)", wall_s=0.3)
        assert pool.run_one(sleeper).ended is Ending.WALL_TIMEOUT
        assert pool.run_one(Program(source="x = bytearray(10**11)")).exit_code == 1
