"""`evalkit logs`: what its options choose, and what they refuse."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from evalkit.store.layout import RunFolder

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Shell


@pytest.fixture
def folder(shell: Shell) -> RunFolder:
    """A run with a worker's and a server's log."""
    shell("prepare", "recipe.yaml")
    folder = RunFolder(shell.folder / "runs" / "test")
    for path, text in (
        (folder.worker_log("r0", 1), "2020-01-01 00:00:00,000 INFO old\nshort\n"),
        (folder.server_log("r0", 1), "served [bold]1[/bold]\n"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_choosing_lines(shell: Shell, folder: RunFolder) -> None:
    """Sources, times and patterns add up; what a log says is never taken for markup."""
    assert shell("logs", "test", "-n", "1").out == "r0.a1 worker| short\n"
    assert shell("logs", "test", "--server", "--grep", "s[eh]").out == (
        "r0.a1 server| served [bold]1[/bold]\nr0.a1 worker| short\n"
    )
    assert shell("logs", "test", "--since", "1h", "--replica", "r0.a1").out == ""
    assert len(shell("logs", "test", "--since", "2019-12-31").out.splitlines()) == 2


def test_colours_are_of_the_prefix(
    shell: Shell, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt's colour is before its lines, not in them; what was searched for stands out."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("COLORTERM", raising=False)
    said = shell("logs", "test", "--grep", "or").out
    assert said == "\x1b[36mr0.a1 worker| \x1b[0msh\x1b[1mor\x1b[0mt\n"


def test_no_line_at_all(shell: Shell) -> None:
    """It is said where to look, unless lines were searched for."""
    shell("prepare", "recipe.yaml")
    said = shell("logs", "test")
    assert (said.code, said.out) == (0, "")
    assert "no log of this run has a line yet" in said.err
    assert "evalkit status" in said.err
    assert shell("logs", "test", "--grep", "x").err == ""


@pytest.mark.parametrize(
    "command",
    [("logs", "test", "-n", "100000"), ("logs", "test", "-n", "1"), ("status", "test", "--json")],
)
def test_a_reader_that_goes_away(shell: Shell, folder: RunFolder, command: tuple[str, ...]) -> None:
    """`| head` is said by the code of a shell alone, whether the pipe breaks while lines are written or at
    the end: what the work came to was not said."""
    folder.worker_log("r0", 1).write_text("a line that is not read\n" * 10_000)
    reading, writing = os.pipe()
    os.close(reading)
    env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    program = [sys.executable, "-m", "evalkit", *command]
    ended = subprocess.run(program, env=env, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--grep", "a("), "--grep: 'a(' is no regular expression"),
        (("--since", "soon"), "--since: 'soon' is no time"),
        (("--replica", "r3"), "no replica 'r3' in this run"),
        (("-n", "-1"), "-1 is not a number from 0 on"),
    ],
)
def test_what_cannot_be_meant(
    shell: Shell, folder: RunFolder, options: tuple[str, ...], text: str
) -> None:
    """An option that means nothing is refused, and the message says why."""
    said = shell("logs", "test", *options)
    assert said.code == 2
    assert text in said.err
