"""`evalkit status --watch`: what it follows, and what does not end it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import orjson
import pytest

from evalkit.cli import watch as module
from evalkit.cli.grading_view import GradingView
from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.grading import GradingProgress
from evalkit.cluster.status import RunStatus, StatusReader, run_status
from evalkit.errors import StoreError
from evalkit.store.layout import RunFolder

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Shell


@pytest.fixture
def folder(shell: Shell) -> RunFolder:
    """A run that was never submitted."""
    shell("prepare", "recipe.yaml")
    return RunFolder(shell.folder / "runs" / "test")


class Flaky:
    """A status that cannot be read twice, then shows a run that works, then one that is over."""

    def __init__(self, folder: RunFolder) -> None:
        over = run_status(folder, clock=SYSTEM_CLOCK)
        self.left: list[RunStatus | StoreError] = [
            StoreError("cannot read the journal: Stale file handle"),
            replace(over, is_over=False, message="works"),
            StoreError("cannot read the journal: Stale file handle"),
            over,
        ]

    def read(self) -> RunStatus:
        """The next."""
        found = self.left.pop(0)
        if isinstance(found, StoreError):
            raise found
        return found


@pytest.mark.parametrize("terminal", [False, True])
def test_a_watch_outlives_a_fault_of_storage(
    folder: RunFolder,
    terminal: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is shown, and the watch goes on to the end of the run."""
    flaky = Flaky(folder)
    monkeypatch.setattr(StatusReader, "read", lambda _: flaky.read())
    monkeypatch.setattr(module, "LINE_EVERY_S", 0.0)
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
    found = module.watch(folder, poll_s=0.0)
    assert found.is_over
    assert flaky.left == []
    said = capsys.readouterr().err
    assert "Stale file handle; looking again" in said
    assert found.message in said


def test_a_watch_of_no_run(shell: Shell, folder: RunFolder) -> None:
    """Without a run there is nothing to follow, and the message says what to type."""
    said = shell("status", "--watch")
    assert said.code == 2
    assert "--watch is for one run or one sweep" in said.err
    assert "evalkit status RUN --watch" in said.err


def test_a_watch_of_a_sweep(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only runs that are not over are followed; all are shown in the end."""
    shell.write(models={"a": {"id": "x"}, "b": {"id": "y"}})
    shell("prepare", "recipe.yaml")
    watched: list[str] = []
    monkeypatch.setattr("evalkit.cli.status.watch", lambda run: watched.append(run.root.name))
    said = shell("status", "test", "--watch")
    assert (watched, said.code) == ([], 0)
    works = RunFolder(shell.folder / "runs" / "test" / "b")
    works.replicas.mkdir()
    now = SYSTEM_CLOCK.wall()
    report = {"replica": "r0", "attempt": 1, "host": "h", "pid": 1, "job_id": "1", "state": "ready"}
    works.replica("r0").write_bytes(orjson.dumps({**report, "started": now, "heartbeat": now}))
    said = shell("status", "test", "--watch")
    assert watched == ["b"]
    assert said.out.count("addition") == 2


def test_grading_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A line now and then, and one at the end: counts, rate, what failed and the score so far."""
    now = [0.0]
    with GradingView(lambda: now[0]) as view:
        for graded in range(1, 41):
            now[0] += 1.0
            view.show(GradingProgress("hle", graded, graded // 20, 42, "x", graded, 0.5))
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "grading hle: 40/42, 1.0/s, 2 failed, score so far 50.0"
    assert 3 <= len(lines) <= 4
