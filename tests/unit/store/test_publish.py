"""A published file is complete or absent, and nothing else lies beside it."""

from __future__ import annotations

import errno
import multiprocessing
import os
import socket
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import StoreError
from evalkit.plan.model import Shard
from evalkit.store.layout import RunFolder
from evalkit.store.markers import read_marker, remove_marker, write_marker
from evalkit.store.publish import (
    publish,
    publish_once,
    publishing,
    publishing_folder,
    remove_abandoned,
)

SHARD = Shard("addition", 0)


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_publish_replaces(tmp_path: Path) -> None:
    """The new content is there, whole, in a folder that need not exist."""
    target = tmp_path / "a" / "file.json"
    publish(target, b"one")
    publish(target, b"two")
    assert target.read_bytes() == b"two"
    assert names(target.parent) == ["file.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_crash_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whatever fails between the write and the rename, the old file stays and no other one is left."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / "file.json"
    publish(target, b"old")
    monkeypatch.setattr(*((os, "fsync", fail) if step == "fsync" else (Path, "replace", fail)))
    with pytest.raises(StoreError) as caught:
        publish(target, b"new")
    assert str(caught.value) == (
        f"cannot write {target}: No space left on device\n"
        "Check free space and permissions of the output folder; nothing was overwritten."
    )
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file.json"]


def test_writer_that_gives_up(tmp_path: Path) -> None:
    """An exception inside the block passes, and publishes nothing."""
    with pytest.raises(KeyError), publishing(tmp_path / "file") as file:  # noqa: PT012
        file.write(b"half")
        raise KeyError("stop")
    assert names(tmp_path) == []


def _die_while_writing(target: Path) -> None:
    with publishing(target) as file:
        file.write(b"half")
        file.flush()
        os._exit(9)


def test_killed_writer(tmp_path: Path) -> None:
    """A process that dies in the middle leaves the old file, and another writer is not hindered."""
    target = tmp_path / "file.json"
    publish(target, b"old")
    process = multiprocessing.get_context("spawn").Process(
        target=_die_while_writing, args=(target,)
    )
    process.start()
    process.join()
    assert process.exitcode == 9
    assert target.read_bytes() == b"old"
    publish(target, b"new")
    assert target.read_bytes() == b"new"


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A path below a file is an error that names the target."""
    (tmp_path / "file").touch()
    target = tmp_path / "file" / "below" / "x.json"
    with pytest.raises(StoreError, match=f"cannot write {target}: Not a directory"):
        publish(target, b"x")


def test_publish_once(tmp_path: Path) -> None:
    """The first content stays; who comes second is told so."""
    target = tmp_path / "plan.json"
    assert publish_once(target, b"first")
    assert not publish_once(target, b"second")
    assert target.read_bytes() == b"first"
    assert names(tmp_path) == ["plan.json"]


def _race(target: Path, number: int, start: object, won: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    if publish_once(target, b"%d" % number * 100_000):
        won.put(number)  # type: ignore[attr-defined]


def test_publish_once_has_one_winner(tmp_path: Path) -> None:
    """Of processes that create one file at the same time exactly one wins, and its bytes are there."""
    context = multiprocessing.get_context("spawn")
    start, won = context.Barrier(3), context.Queue()
    racers = [
        context.Process(target=_race, args=(tmp_path / "plan.json", n, start, won))
        for n in range(3)
    ]
    for racer in racers:
        racer.start()
    winner = won.get()
    for racer in racers:
        racer.join()
    assert won.empty()
    assert (tmp_path / "plan.json").read_bytes() == b"%d" % winner * 100_000
    assert names(tmp_path) == ["plan.json"]
    won.close()
    won.join_thread()


def test_marker_round_trip(tmp_path: Path) -> None:
    """A marker's counters come back while its journals are as large; growing does no harm."""
    folder = RunFolder(tmp_path)
    journal = folder.journal(SHARD, "r0.a1")
    journal.parent.mkdir(parents=True)
    journal.write_bytes(b"x" * 10)
    write_marker(folder, SHARD, {"units": 3, "outcomes": {"ok": 3}})
    expected = {"units": 3, "outcomes": {"ok": 3}, "journals": {"r0.a1.jsonl": 10}}
    assert read_marker(folder, SHARD) == expected
    journal.write_bytes(b"x" * 11)
    folder.journal(SHARD, "r1.a1").touch()
    assert read_marker(folder, SHARD) == expected
    remove_marker(folder, SHARD)
    remove_marker(folder, SHARD)
    assert read_marker(folder, SHARD) is None


@given(st.integers(0, 9))
def test_marker_of_a_smaller_journal(tmp_path_factory: pytest.TempPathFactory, size: int) -> None:
    """A journal that lost a byte, or all of them, makes the marker worthless."""
    folder = RunFolder(tmp_path_factory.mktemp("marker"))
    journal = folder.journal(SHARD, "r0.a1")
    journal.parent.mkdir(parents=True)
    journal.write_bytes(b"x" * 10)
    write_marker(folder, SHARD, {"units": 3})
    journal.write_bytes(b"x" * size)
    assert read_marker(folder, SHARD) is None
    journal.unlink()
    assert read_marker(folder, SHARD) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"journals":[]}', b'{"journals":{}}', b'{"journals":{"r":"9"}}'],
)
def test_marker_that_is_none(tmp_path: Path, content: bytes) -> None:
    """A file that is no marker is no hint: the journals are read instead."""
    folder = RunFolder(tmp_path)
    folder.journals(SHARD).mkdir(parents=True)
    folder.journals(SHARD).joinpath("r").touch()
    publish(folder.marker(SHARD), content)
    assert read_marker(folder, SHARD) is None


def test_marker_without_journals(tmp_path: Path) -> None:
    """A shard whose journals cannot be listed is not marked, and the error names them."""
    folder = RunFolder(tmp_path)
    with pytest.raises(StoreError, match=f"cannot list {folder.journals(SHARD)}"):
        write_marker(folder, SHARD, {})


def test_what_a_killed_writer_left(tmp_path: Path) -> None:
    """Its files go; those of a writer that lives, or of another machine, stay."""
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    host, dead, me = socket.gethostname(), gone.pid, os.getpid()
    left = [f".x.json.tmp.{host}.{dead}", f"..x.new.{host}.{dead}.tmp.{host}.{dead}"]
    kept = [f".x.json.tmp.{host}.{me}", f".x.json.tmp.elsewhere.{dead}", ".hidden", "x.json"]
    (tmp_path / "sub").mkdir()
    for name in (*left, *kept):
        (tmp_path / "sub" / name).touch()
    remove_abandoned([tmp_path, tmp_path / "missing"])
    assert {path.name for path in (tmp_path / "sub").iterdir()} == set(kept)


def fill(folder: Path, text: str) -> None:
    """Publish a folder with one file."""
    with publishing_folder(folder) as made:
        (made / "sub").mkdir()
        (made / "sub" / text).write_text(text)


def test_folder_replaces(tmp_path: Path) -> None:
    """All of the new one and nothing of the old one, as readable as the folder that it is in."""
    target = tmp_path / "task" / "native"
    fill(target, "one")
    fill(target, "two")
    assert names(target / "sub") == ["two"]
    assert names(target.parent) == ["native"]
    assert target.stat().st_mode == target.parent.stat().st_mode


def test_folder_that_cannot_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the block or a rename fails, the old folder is there as it was, and no other one."""
    target = tmp_path / "native"
    fill(target, "one")
    with pytest.raises(KeyError), publishing_folder(target) as made:  # noqa: PT012
        (made / "two").touch()
        raise KeyError("stop")
    replace = Path.replace

    def fail(path: Path, new: Path) -> Path:
        if path.name.startswith(".native.tmp."):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return replace(path, new)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(StoreError, match=f"cannot write {target}: Input/output error"):
        fill(target, "two")
    assert names(target / "sub") == ["one"]
    assert names(tmp_path) == ["native"]


def test_what_a_block_cannot_read(tmp_path: Path) -> None:
    """Another file is named, and nobody is told to look for free space."""
    other = tmp_path / "other"
    for writer, target in (
        (publishing, tmp_path / "file"),
        (publishing_folder, tmp_path / "folder"),
    ):
        with pytest.raises(StoreError) as caught, writer(target):
            other.read_bytes()
        assert (
            caught.value.message == f"{target} is not written: {other}: No such file or directory"
        )
        assert caught.value.hint is None
    assert list(tmp_path.iterdir()) == []


def test_folders_of_a_killed_writer(tmp_path: Path) -> None:
    """What it had begun goes; what it had moved away and not replaced comes back, else goes, too."""
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    writer = f"tmp.{socket.gethostname()}.{gone.pid}"
    for task in ("between", "before", "after"):
        for name in (f".native.{writer}", *([f".native.before.{writer}"] * (task != "before"))):
            (tmp_path / task / name / "deep").mkdir(parents=True)
            (tmp_path / task / name / "deep" / "old").touch()
    (tmp_path / "after" / "native" / "new").mkdir(parents=True)
    remove_abandoned([tmp_path])
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert found == {
        *("before", "after", "after/native", "after/native/new"),
        *("between", "between/native", "between/native/deep", "between/native/deep/old"),
    }
