"""Writing and reading journals: torn tails, foreign journals, full disks, cancelled syncs."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import StoreError
from evalkit.plan.model import Shard, UnitKey
from evalkit.store import journal as journal_module
from evalkit.store.codec import Record, decode, header, seal
from evalkit.store.journal import JournalSet
from evalkit.store.reading import JournalProblem, read_journal
from tests.builders import journal_bytes, make_call, make_plan
from tests.unit.store.strategies import records

PLAN = make_plan()
SHARD = Shard("addition", 0)


def read(path: Path, shard: Shard = SHARD) -> tuple[list[Record], list[JournalProblem]]:
    """Records and problems of a journal."""
    problems: list[JournalProblem] = []
    return [decode(p) for p in read_journal(path, PLAN, shard, problems)], problems


@given(st.lists(records, max_size=3), st.data())
def test_torn_tail(
    tmp_path_factory: pytest.TempPathFactory, written: list[Record], data: st.DataObject
) -> None:
    """Cut anywhere, a journal gives the records before the cut, and only a torn line is a problem."""
    content = journal_bytes(PLAN, SHARD, "r0.a1", written)
    cut = data.draw(st.integers(0, len(content)))
    path = tmp_path_factory.getbasetemp() / "torn.jsonl"
    path.write_bytes(content[:cut])
    found, problems = read(path)
    whole = content[:cut].count(b"\n")
    assert found == written[: max(0, whole - 1)]
    assert [p.torn for p in problems] == (
        [] if content[:cut].endswith(b"\n") or not cut else [True]
    )


def test_corrupt_line_in_the_middle(tmp_path: Path) -> None:
    """An altered line is skipped and named; those around it count."""
    first, second = make_call(UnitKey(0, 0)), make_call(UnitKey(1, 0))
    lines = journal_bytes(PLAN, SHARD, "r0.a1", [first, first, second]).splitlines(keepends=True)
    lines[2] = lines[2].replace(b"42", b"43")
    path = tmp_path / "r0.a1.jsonl"
    path.write_bytes(b"".join(lines))
    found, problems = read(path)
    assert found == [first, second]
    assert [str(p) for p in problems] == [f"{path}:3: checksum does not match"]


@pytest.mark.parametrize(
    ("first_line", "reason"),
    [
        (seal(header("other", "addition", 0, "r0.a1")), "of another plan or shard"),
        (seal(header(PLAN.fingerprint, "other", 0, "r0.a1")), "of another plan or shard"),
        (seal(header(PLAN.fingerprint, "addition", 1, "r0.a1")), "of another plan or shard"),
        (
            seal(header(PLAN.fingerprint, "addition", 0, "r0.a1") | {"version": 2}),
            "written by another version of evalkit (2)",
        ),
        (b"", ""),
        (b"x\n", "no header that says which plan this is of (no checksum)"),
    ],
    ids=["plan", "task", "shard", "version", "none", "corrupt"],
)
def test_foreign_journal_is_refused(tmp_path: Path, first_line: bytes, reason: str) -> None:
    """A journal that is not this shard's, or does not say whose it is, gives nothing and is named."""
    path = tmp_path / "r0.a1.jsonl"
    whole = journal_bytes(PLAN, SHARD, "r0.a1", [make_call(UnitKey(0, 0))])
    path.write_bytes(first_line + whole.split(b"\n", 1)[1])
    found, problems = read(path)
    assert found == []
    wanted = reason or "no header that says which plan this is of"
    assert len(problems) == 1
    assert str(problems[0]).startswith(f"{path}:1: {wanted}" if reason else f"{path}:1: ")


def test_vanished_journal_is_empty(tmp_path: Path) -> None:
    """A file that went away between listing and reading holds nothing."""
    assert read(tmp_path / "gone.jsonl") == ([], [])


def test_unreadable_journal(tmp_path: Path) -> None:
    """What cannot be read is an error with the file's name, not an empty journal."""
    with pytest.raises(StoreError, match=rf"cannot read {tmp_path}: Is a directory"):
        read(tmp_path)


async def test_records_are_in_the_file_after_the_turn(tmp_path: Path) -> None:
    """A record is with the kernel at the end of the event loop's turn, before any fsync."""
    journals = JournalSet()
    path = tmp_path / "a" / "r0.a1.jsonl"
    writer = journals.open(path, PLAN, SHARD, "r0.a1")
    record = make_call(UnitKey(0, 0))
    writer.append(record)
    await asyncio.sleep(0)
    assert read(path) == ([record], [])
    await journals.close()


async def test_second_writer_of_a_journal(tmp_path: Path) -> None:
    """A journal has one writer ever: the second is refused, and the first one's lines stay."""
    journals = JournalSet()
    path = tmp_path / "r0.a1.jsonl"
    journals.open(path, PLAN, SHARD, "r0.a1")
    with pytest.raises(StoreError, match="two workers run as the same attempt"):
        journals.open(path, PLAN, SHARD, "r0.a1")
    await journals.close()
    assert read(path) == ([], [])


async def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """The journal that cannot be created is named."""
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "r0.a1.jsonl"
    with pytest.raises(StoreError, match=f"cannot create {path}: File exists"):
        JournalSet().open(path, PLAN, SHARD, "r0.a1")


class FullDisk:
    """os.write on a disk with so many bytes left."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.write = os.write

    def __call__(self, fd: int, data: bytes) -> int:
        """Write what fits; refuse when nothing does."""
        fits = data[: self.free]
        if not fits:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.free -= len(fits)
        return self.write(fd, fits)


@given(extra=st.integers(0, 199))
async def test_full_disk_loses_nothing_written(
    tmp_path_factory: pytest.TempPathFactory, extra: int
) -> None:
    """Wherever the disk ends, the error says what to do, and all lines before it are read back."""
    path = tmp_path_factory.mktemp("full") / "r0.a1.jsonl"
    first, second = make_call(UnitKey(0, 0)), make_call(UnitKey(1, 0))
    with pytest.MonkeyPatch.context() as patch:
        journals = JournalSet()
        writer = journals.open(path, PLAN, SHARD, "r0.a1")
        writer.append(first)
        await journals.sync()
        disk = FullDisk(extra)
        patch.setattr(os, "write", disk)
        writer.append(second)
        with pytest.raises(StoreError) as caught:
            await journals.sync()
        disk.free = 10**6
        writer.append(second)  # there is room again, but the file may end in half a line
        with pytest.raises(StoreError):
            await journals.close()
    assert str(caught.value) == (
        f"cannot write {path}: No space left on device\n"
        "Nothing already written is lost: free space or quota, then `evalkit resume`."
    )
    found, problems = read(path)
    assert found == [first]
    assert all(problem.torn for problem in problems)


async def test_failed_fsync_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An fsync that fails stops the work, also when it happened in the background."""

    def refuse(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(journal_module, "SYNC_INTERVAL_S", 0.0)
    journals = JournalSet()
    path = tmp_path / "r0.a1.jsonl"
    journals.open(path, PLAN, SHARD, "r0.a1")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StoreError, match=f"cannot sync {path}: Input/output error"):
        await journals.sync_forever()
    assert journals.failure is not None
    with pytest.raises(StoreError):
        await journals.close()


async def test_cancelled_sync_keeps_its_files_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync that is cancelled ends before its file may be closed: the fsync is never of another file."""
    entered, go_on = threading.Event(), threading.Event()
    synced: list[bool] = []

    def slow(fd: int) -> None:
        entered.set()
        go_on.wait(60)
        synced.append(Path(f"/proc/self/fd/{fd}").readlink().name == "r0.a1.jsonl")

    monkeypatch.setattr(os, "fsync", slow)
    journals = JournalSet()
    journals.open(tmp_path / "r0.a1.jsonl", PLAN, SHARD, "r0.a1")
    syncing = asyncio.create_task(journals.sync())
    await asyncio.to_thread(entered.wait)
    syncing.cancel()
    closing = asyncio.create_task(journals.close())
    for _ in range(5):
        await asyncio.to_thread(int)  # whatever closing would do in a thread is done before
    assert not closing.done()
    go_on.set()
    await closing
    assert synced == [True]
    with pytest.raises(asyncio.CancelledError):
        await syncing


def test_sync_groups_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All lines of one turn of the loop are one write, in the order they were appended."""
    written: list[bytes] = []
    original = os.write

    def count(fd: int, data: Any) -> int:
        written.append(bytes(data))
        return original(fd, data)

    async def main() -> None:
        journals = JournalSet()
        writer = journals.open(tmp_path / "r0.a1.jsonl", PLAN, SHARD, "r0.a1")
        for sample in range(5):
            writer.append(make_call(UnitKey(sample, 0)))
        await asyncio.sleep(0)
        monkeypatch.setattr(os, "write", original)
        await journals.close()

    monkeypatch.setattr(os, "write", count)
    asyncio.run(main())
    ours = [data for data in written if data.startswith(b'{"crc"')]
    assert [data.count(b"\n") for data in ours] == [6]
    assert [r.sample for r in read(tmp_path / "r0.a1.jsonl")[0]] == [0, 1, 2, 3, 4]


async def test_nothing_is_written_behind_the_end(tmp_path: Path) -> None:
    """A late record is refused: its file may be another's by then."""
    journals = JournalSet()
    writer = journals.open(tmp_path / "r0.a1.jsonl", PLAN, SHARD, "r0.a1")
    await journals.sync()
    journals.release(writer)
    with pytest.raises(StoreError, match="is closed"):
        writer.append(make_call(UnitKey(0, 0)))
