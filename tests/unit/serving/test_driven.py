"""Programs beside a worker: started in their folder with their environment alone, and ended for certain."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from evalkit.errors import InfraError
from evalkit.serving import driven, tree
from evalkit.serving.driven import run_program
from evalkit.serving.leftovers import PROGRAM_FORM, parse_marker

SHOW = "import json, os, sys; print(json.dumps([dict(os.environ), os.getcwd()])); sys.exit(7)"
# Notes the signals that it gets, heeds none, and has a child that has left its session.
STUBBORN = """
import signal, subprocess, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: print(signal.Signals(number).name, flush=True))
stay = "import signal, time; signal.signal(2, signal.SIG_IGN); signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(99)"
child = subprocess.Popen([sys.executable, "-c", stay], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()  # it heeds nothing from now on
print("up", flush=True)
while True:
    time.sleep(0.05)
"""


def mark_of(tmp_path: Path) -> str:
    """A mark of this test alone, in the form that the next attempt knows."""
    mark = f"run{os.getpid()}{tmp_path.name[-6:]}-r0.a1-0:lines-3-0-0"
    found = parse_marker(mark)
    assert found is not None
    assert found.attempt == "r0.a1"
    return mark


async def test_environment_folder_output_and_code(tmp_path: Path) -> None:
    """It sees what it was given and its mark, and nothing of ours; its output is in its log."""
    mark = mark_of(tmp_path)
    command = [sys.executable, "-c", SHOW]
    code = await run_program(command, {"ONE": "1"}, tmp_path, "program.log", mark)
    assert code == 7
    first, *_ = (tmp_path / "program.log").read_text().splitlines()
    env, folder = json.loads(first)
    assert folder == str(tmp_path)
    assert {k: v for k, v in env.items() if k != "LC_CTYPE"} == {"ONE": "1", tree.MARKER: mark}


async def test_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGINT, then SIGTERM, then what nobody can ignore: nothing is left, in whatever session it is."""
    monkeypatch.setattr(driven, "TERMINATE_S", 2.0)  # a busy machine writes late what it heard
    mark = mark_of(tmp_path)
    log = tmp_path / "program.log"
    command = [sys.executable, "-c", STUBBORN]
    task = asyncio.create_task(run_program(command, {}, tmp_path, "program.log", mark))
    while not log.exists() or "up" not in log.read_text():
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log.read_text().splitlines()[:3] == ["up", "SIGINT", "SIGTERM"]
    assert [pid for pid in tree.find_processes() if tree.read_marker(pid) == mark] == []


async def test_killed_keeper(tmp_path: Path) -> None:
    """Who should end the program is gone: it is ended all the same, before its unit is done again."""
    mark = mark_of(tmp_path)
    log = tmp_path / "program.log"
    command = [sys.executable, "-c", STUBBORN]
    task = asyncio.create_task(run_program(command, {}, tmp_path, "program.log", mark))
    while not log.exists() or "up" not in log.read_text():
        await asyncio.sleep(0.02)
    for pid in tree.find_processes():
        if (
            tree.read_marker(pid) == mark
            and b"keeper.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ):
            os.kill(pid, signal.SIGKILL)
    assert await task == -signal.SIGKILL
    assert [pid for pid in tree.find_processes() if tree.read_marker(pid) == mark] == []


@pytest.mark.parametrize("name", ["no-such-program", "./no-such-program", "/nowhere/program"])
async def test_program_that_is_not_there(tmp_path: Path, name: str) -> None:
    """It is said which, and where it was looked for; nothing is started."""
    with pytest.raises(InfraError, match=f"cannot start {name}: there is no such program"):
        await run_program([name], {"PATH": "/usr/bin"}, tmp_path, "program.log", "mark")
    assert list(tmp_path.iterdir()) == []


def test_logs_name_their_attempt() -> None:
    """A leftover is known by the file that takes its output, too."""
    for path, attempt in (
        ("harness/lines/3-0/r0.a1/program.log", "r0.a1"),
        ("harness/lines/3-0/r12.a3-2/logs/more.log", "r12.a3"),
    ):
        found = PROGRAM_FORM.fullmatch(path)
        assert found is not None
        assert found["attempt"] == attempt
    assert PROGRAM_FORM.fullmatch("artifacts/lines/native/r0.a1/x") is None
