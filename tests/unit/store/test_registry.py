"""The user's file of all runs: what is noted, by how many at once, and what is read of a torn one."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from filelock import SoftFileLock

from evalkit.errors import StoreError
from evalkit.store import registry
from evalkit.store.layout import RunFolder
from evalkit.store.registry import note_runs, read_registry, registry_path
from tests.builders import make_plan


def note(path: Path, *folders: str, now: float = 1.0) -> None:
    """Note a run in each of these folders."""
    note_runs(path, [(RunFolder(Path(folder)), make_plan()) for folder in folders], now)


def note_many(path: Path, writer: int) -> None:
    """What one of several processes does."""
    for number in range(10):
        note(path, f"/runs/{writer}-{number}")


@pytest.mark.parametrize(
    ("env", "found"),
    [
        ({"HOME": "/h"}, "/h/.local/share/evalkit/runs.jsonl"),
        ({"HOME": "/h", "XDG_DATA_HOME": "/x"}, "/x/evalkit/runs.jsonl"),
        ({"HOME": "/h", "EVALKIT_REGISTRY": "/mine"}, "/mine"),
        ({"HOME": "/h", "EVALKIT_REGISTRY": "OFF"}, None),
        ({"HOME": "/h", "EVALKIT_REGISTRY": ""}, "/h/.local/share/evalkit/runs.jsonl"),
        ({}, None),
    ],
)
def test_where_it_lies(env: dict[str, str], found: str | None) -> None:
    """The setting wins over the data folder, and that over the home folder."""
    path = registry_path(env)
    assert (None if path is None else str(path)) == found


def test_a_run_is_noted_once(tmp_path: Path) -> None:
    """Preparing it again adds nothing; a new run in the same folder takes the place of the old one."""
    path = tmp_path / "new" / "runs.jsonl"
    note(path, "/runs/a", "/runs/b")
    note(path, "/runs/a", now=2.0)
    assert len(path.read_bytes().splitlines()) == 2
    other = make_plan(run="other")
    note_runs(path, [(RunFolder(Path("/runs/a")), other)], 3.0)
    assert [(e.folder, e.run, e.noted) for e in read_registry(path)] == [
        ("/runs/b", "test-run", 1.0),
        ("/runs/a", "other", 3.0),
    ]


def test_lines_that_are_none_are_skipped(tmp_path: Path) -> None:
    """A line that was cut off spoils neither those before it nor the one that follows."""
    path = tmp_path / "runs.jsonl"
    note(path, "/runs/a")
    with path.open("ab") as file:
        file.write(b'{"version":2}\n\xff\n{"run_id":"cut o')
    note(path, "/runs/b")
    assert [entry.folder for entry in read_registry(path)] == ["/runs/a", "/runs/b"]


def test_writers_do_not_lose_each_others_lines(tmp_path: Path) -> None:
    """Three processes at once: every line is whole, and none is missing."""
    path = tmp_path / "runs.jsonl"
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as pool:
        for done in [pool.submit(note_many, path, writer) for writer in range(3)]:
            done.result()
    assert len(read_registry(path)) == len(path.read_bytes().splitlines()) == 30


def test_a_lock_that_stays_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever for a writer that was killed on another machine."""
    monkeypatch.setattr(registry, "LOCK_WAIT_S", 0.0)
    path = tmp_path / "runs.jsonl"
    with (
        SoftFileLock(tmp_path / ".runs.jsonl.lock"),
        pytest.raises(StoreError, match=r"another evalkit writes there\n.*\.runs\.jsonl\.lock"),
    ):
        note(path, "/runs/a")
    note(path, "/runs/a")
    assert len(read_registry(path)) == 1


def test_one_that_cannot_be_written(tmp_path: Path) -> None:
    """The error names the file and the setting."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot note runs in .*\n.*EVALKIT_REGISTRY"):
        note(tmp_path / "file" / "runs.jsonl", "/runs/a")
    with pytest.raises(StoreError, match=r"cannot read the list of runs"):
        read_registry(tmp_path)
