"""Logs of all replicas and attempts as one stream."""

from __future__ import annotations

import io
import os
import re
import time
import unicodedata
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.cluster import log_tail
from evalkit.cluster.attempts import write_attempt
from evalkit.cluster.log_tail import Tail, printable, tail_offset
from evalkit.cluster.logs import Follower, RunWatch, Wanted, follow
from evalkit.errors import StoreError, UsageError
from tests.unit.cluster.builders import make_plan, write_run
from tests.unit.cluster.test_attempts import make_record

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.store.layout import RunFolder


SINCE = 1_800_000_000.0


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)


def shown(folder: RunFolder, **options: object) -> list[str]:
    return [str(line) for line in follow(folder, Wanted(**options), follow=False)]  # type: ignore[arg-type]


def test_lines_carry_attempt_and_source(run_folder: RunFolder) -> None:
    """Every line says which attempt of which replica said it; attempts come in their order."""
    write(run_folder.worker_log("r0", 2), "second\n")
    write(run_folder.worker_log("r0", 10), "tenth\n")
    write(run_folder.worker_log("r0", 1), "first\n")
    write(run_folder.worker_log("r1", 1), "other\nunfinished")
    assert shown(run_folder) == [
        "r0.a1 worker| first",
        "r0.a2 worker| second",
        "r0.a10 worker| tenth",
        "r1.a1 worker| other",
        "r1.a1 worker| unfinished",
    ]


def test_servers_and_replicas_are_chosen(run_folder: RunFolder) -> None:
    """Server logs come when asked for; one replica can be picked; the link `latest` is no attempt."""
    for replica in ("r0", "r1"):
        write(run_folder.worker_log(replica, 1), "w\n")
        write(run_folder.server_log(replica, 1), "s\n")
    (run_folder.replica_logs("r0") / "latest").symlink_to("attempt-1")
    assert shown(run_folder, server=True, replica="r1") == ["r1.a1 server| s", "r1.a1 worker| w"]
    assert len(shown(run_folder, server=True)) == 4
    assert shown(run_folder, replica="r1.a1") == ["r1.a1 worker| w"]
    with pytest.raises(UsageError, match=r"no attempt 'r1\.a2'") as caught:
        shown(run_folder, replica="r1.a2")
    assert caught.value.hint == "Attempts: r1.a1."
    with pytest.raises(UsageError, match="no replica 'r7'") as caught:
        shown(run_folder, replica="r7")
    assert caught.value.hint == "Replicas: r0, r1."


def test_only_the_last_lines_are_shown(run_folder: RunFolder) -> None:
    """`lines` limits what is there already, per log."""
    write(run_folder.worker_log("r0", 1), "".join(f"{n}\n" for n in range(100)))
    assert shown(run_folder, lines=2) == ["r0.a1 worker| 98", "r0.a1 worker| 99"]
    assert shown(run_folder, lines=0) == []


def test_following_finds_new_lines_and_new_attempts(run_folder: RunFolder) -> None:
    """What is written while following is shown whole, and the last line when the run is over."""
    path = run_folder.worker_log("r0", 1)
    write(path, "start\n")
    steps = iter(
        [
            lambda: write(path, "half "),
            lambda: write(path, "line\n"),
            lambda: write(run_folder.worker_log("r0", 2), "".join(f"{n}\n" for n in range(30))),
            lambda: write(run_folder.worker_log("r0", 2), "end"),
        ]
    )

    def is_over() -> bool:
        step = next(steps, None)
        if step is not None:
            step()
        return step is None

    wanted = Wanted(lines=1)
    lines = [line.text for line in follow(run_folder, wanted, follow=True, is_over=is_over)]
    assert lines == ["start", "half line", *map(str, range(30)), "end"]


def test_a_truncated_log_is_read_again(tmp_path: Path) -> None:
    """A file that shrank starts over; one that was replaced does, too; one that vanished waits."""
    path = tmp_path / "worker.log"
    tail = Tail(path, "r0.a1", "worker")
    assert tail.read() == []
    path.write_text("one\ntwo\n")
    assert [line.text for line in tail.read()] == ["one", "two"]
    path.write_text("three\n")
    assert [line.text for line in tail.read()] == ["three"]
    other = tmp_path / "other"
    other.write_text("four, longer than before\n")
    other.replace(path)
    assert [line.text for line in tail.read()] == ["four, longer than before"]


def test_bytes_that_are_no_text_do_no_harm(tmp_path: Path) -> None:
    """Broken UTF-8 and carriage returns are shown as well as they can be."""
    path = tmp_path / "server.log"
    path.write_bytes(b"a\xffb\r\n")
    assert [line.text for line in Tail(path, "r0.a1", "server").read()] == ["a\ufffdb"]


@given(st.binary(max_size=300), st.integers(0, 8))
def test_tail_offset_agrees_with_splitting(content: bytes, lines: int) -> None:
    """The last n lines are those that splitting at line breaks gives, unfinished one included."""
    file = io.BytesIO(content)
    parts = content.split(b"\n")
    whole = [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
    expected = b"".join(whole[-lines:] if lines else [])
    assert content[tail_offset(file.read, file.seek, len(content), lines) :] == expected


def test_tail_offset_of_a_large_file(tmp_path: Path) -> None:
    """Lines longer than a block are found."""
    path = tmp_path / "large"
    path.write_bytes(b"x" * 200_000 + b"\n" + b"y" * 100_000 + b"\nz\n")
    tail = Tail(path, "r0.a1", "worker")
    tail.skip_to_last(2)
    assert [len(line.text) for line in tail.read()] == [100_000, 1]


def test_following_outlives_a_fault_of_storage(run_folder: RunFolder) -> None:
    """It is told once, and what comes after it is shown."""
    path = run_folder.worker_log("r0", 1)
    write(path, "start\n")
    told: list[StoreError] = []
    rounds = iter([False, True, True, False, True, None])

    def is_over() -> bool:
        fails = next(rounds)
        if fails:
            raise StoreError("cannot read jobs.jsonl: Stale file handle")
        write(path, "more\n")
        return fails is None

    wanted = Wanted()
    lines = follow(run_folder, wanted, follow=True, is_over=is_over, on_problem=told.append)
    assert [line.text for line in lines] == ["start", "more", "more", "more"]
    assert len(told) == 2


def test_jobs_that_cannot_be_read_are_no_end(tmp_path: Path) -> None:
    """Who cannot tell whether a run is over says so at every call, and not that it is."""
    folder = write_run(tmp_path / "demo", make_plan())
    folder.jobs.mkdir(parents=True)
    watch = RunWatch(folder, monotonic=lambda: 0.0)
    for _ in range(2):
        with pytest.raises(StoreError, match="cannot read"):
            watch.is_over()
    folder.jobs.rmdir()
    assert watch.is_over()


def test_a_run_without_jobs_is_over(tmp_path: Path) -> None:
    """Nothing that could still write ends the following at once, and is asked for once."""
    folder = write_run(tmp_path / "demo", make_plan())
    now = [0.0]
    watch = RunWatch(folder, monotonic=lambda: now[0])
    assert watch.is_over()
    assert watch.asked == 0.0
    now[0] = 29.0
    assert watch.is_over()
    assert watch.asked == 0.0
    now[0] = 31.0
    assert watch.is_over()
    assert watch.asked == 31.0


def test_a_follower_skips_nothing_of_new_files(run_folder: RunFolder) -> None:
    """Files that appear later are read from their first line."""
    follower = Follower(run_folder, Wanted(lines=1))
    assert list(follower.begin()) == []
    write(run_folder.worker_log("r0", 1), "a\nb\n")
    follower.discover()
    assert [line.text for line in follower.read()] == ["a", "b"]


def test_files_without_news_are_looked_at_less(run_folder: RunFolder) -> None:
    """A quiet file is left alone until a thorough look, which misses nothing."""
    path = run_folder.worker_log("r0", 1)
    write(path, "a\n")
    follower = Follower(run_folder, Wanted())
    assert [line.text for line in follower.begin()] == ["a"]
    write(path, "b\n")
    assert list(follower.read(thorough=False)) == []
    assert [line.text for line in follower.read()] == ["b"]


def test_a_rotated_log_is_read_to_its_end(tmp_path: Path) -> None:
    """What was not read yet of a file that was renamed comes before its successor."""
    path = tmp_path / "server.log"
    tail = Tail(path, "r0.a1", "server")
    path.write_text("one\ntw")
    assert [line.text for line in tail.read()] == ["one"]
    write(path, "o\nthree")
    path.rename(tmp_path / "server.log.1")
    path.write_text("four\n")
    assert [line.text for line in tail.read()] == ["two", "three", "four"]
    assert tail.read() == []


def test_every_part_of_a_server(run_folder: RunFolder) -> None:
    """The logs of a server's parts on further nodes come with their number; other files do not."""
    logs = run_folder.attempt_logs("r0", 1)
    names = ("server-node10.log", "server-node2.log", "server.log", "worker.log", "other.log")
    for name in names:
        write(logs / name, "x\n")
    write(run_folder.replica_logs("r0") / "attempt-x" / "worker.log", "x\n")
    assert shown(run_folder, server=True) == [
        "r0.a1 server| x",
        "r0.a1 server@2| x",
        "r0.a1 server@10| x",
        "r0.a1 worker| x",
    ]


def stamp(offset_s: float) -> str:
    """A worker's time, so long after SINCE."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(SINCE + offset_s))


def test_lines_since_a_time(run_folder: RunFolder) -> None:
    """Lines without a time go with the line before them; all of them are shown, not the last 20."""
    old = f"{stamp(-60)},123 INFO old\n  goes on\n"
    new = f"{stamp(60)},123 INFO new\n  goes on\n"
    write(run_folder.worker_log("r0", 1), old + new * 15)
    found = shown(run_folder, since=SINCE)
    assert len(found) == 30
    assert not any("old" in line for line in found)
    assert len(shown(run_folder, since=SINCE, lines=3)) == 3
    assert shown(run_folder, since=SINCE + 120) == []


@pytest.mark.parametrize(("started", "n"), [(-60.0, 0), (60.0, 2)])
def test_a_log_without_times(run_folder: RunFolder, started: float, n: int) -> None:
    """A log that never says the time is as old as its attempt; of unknown age it is shown."""
    write(run_folder.worker_log("r0", 1), "a\nb\n")
    assert len(shown(run_folder, since=SINCE)) == 2
    write_attempt(run_folder, make_record(started=SINCE + started))
    assert len(shown(run_folder, since=SINCE)) == n


def test_lines_that_match(run_folder: RunFolder) -> None:
    """`grep` searches the whole backlog; `lines` then counts those that match."""
    write(run_folder.worker_log("r0", 1), "".join(f"line {n}\n" for n in range(100)) + "line 4x")
    pattern = re.compile(r"line 4")
    assert len(shown(run_folder, grep=pattern)) == 12
    assert shown(run_folder, grep=pattern, lines=1) == [
        "r0.a1 worker| line 49",
        "r0.a1 worker| line 4x",
    ]
    assert shown(run_folder, grep=re.compile("nothing")) == []


def test_new_lines_of_a_log_without_times(run_folder: RunFolder) -> None:
    """What comes while it is followed is of now, also where no line says a time."""
    write(run_folder.server_log("r0", 1), "old\n")
    write_attempt(run_folder, make_record(started=SINCE - 7200))
    follower = Follower(run_folder, Wanted(server=True, since=SINCE), now=lambda: SINCE + 60)
    assert list(follower.begin()) == []
    with run_folder.server_log("r0", 1).open("a") as file:
        file.write(f"new\n{stamp(-60)},123 by a clock that is behind\n")
    assert [line.text for line in follower.read()] == [
        "new",
        f"{stamp(-60)},123 by a clock that is behind",
    ]


def test_two_rotations_between_two_looks(tmp_path: Path) -> None:
    """A file that came and went between is read in its place; one that was packed is not."""
    path = tmp_path / "server.log"
    path.write_text("one\n")
    tail = Tail(path, "r0.a1", "server")
    assert [line.text for line in tail.read()] == ["one"]
    write(path, "two\n")
    for n, name in enumerate(("server.log.3", "server.log.2", "server.log.1")):
        path.rename(tmp_path / name)
        os.utime(tmp_path / name, (1000.0 + n, 1000.0 + n))
        path.write_text(f"after {name}")
    (tmp_path / "server.log.9.gz").write_bytes(b"\x1f\x8b\n")
    found = [line.text for _ in range(4) for line in tail.read()]
    assert found == ["two", "after server.log.3", "after server.log.2"]
    assert tail.quiet
    assert [line.text for line in tail.finish()] == ["after server.log.1"]


def test_a_line_longer_than_a_look(run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after it is shown as well, whether the log is followed or not."""
    monkeypatch.setattr(log_tail, "MAX_READ", 8)
    write(run_folder.worker_log("r0", 1), f"{'x' * 30}\nshort\nend")
    assert [line.partition("| ")[2] for line in shown(run_folder)] == ["x" * 30, "short", "end"]


def test_a_log_that_vanishes_while_it_is_read(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading ends, and does not wait for it for ever."""
    monkeypatch.setattr(log_tail, "MAX_READ", 4)
    path = run_folder.worker_log("r0", 1)
    write(path, "a\nb\nc\n")
    lines = Follower(run_folder, Wanted(grep=re.compile(""))).begin()
    assert next(lines).text == "a"
    path.unlink()
    assert [line.text for line in lines] == ["b"]


def test_a_rotation_while_a_log_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is renamed between two calls of one read loses no line."""
    path = tmp_path / "server.log"
    write(path, "a\nb\n")
    tail = Tail(path, "r0.a1", "server")
    assert [line.text for line in tail.read()] == ["a", "b"]
    with path.open("a") as file:
        file.write("c\n")
    look, renamed = os.fstat, tmp_path / "server.log.1"

    def fstat(number: int) -> os.stat_result:
        if not renamed.exists():
            path.rename(renamed)
            path.write_text("d\n")
        return look(number)

    monkeypatch.setattr(os, "fstat", fstat)
    found = [line.text for _ in range(3) for line in tail.read()]
    assert found == ["c", "d"]


def test_much_was_left_in_a_rotated_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that was rotated away all is read, in as many steps as it takes."""
    monkeypatch.setattr(log_tail, "MAX_READ", 8)
    path = tmp_path / "server.log"
    write(path, "0\n")
    tail = Tail(path, "r0.a1", "server")
    assert [line.text for line in tail.read()] == ["0"]
    with path.open("a") as file:
        file.write("".join(f"line {n}\n" for n in range(9)) + "unended")
    path.rename(tmp_path / "server.log.1")
    write(path, "new\n")
    found = [line.text for _ in range(20) for line in tail.read()]
    assert found == [*(f"line {n}" for n in range(9)), "unended", "new"]


@pytest.mark.parametrize(
    ("written", "shown_as"),
    [
        ("\x1b[1;31mERROR\x1b[0m x\ty", "ERROR x\ty"),
        ("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b", "ab"),
        ("\x1b[2J\x1b(B\x1bcwiped\x08\x00\x9b", "wiped"),
        ("10%\r20%\r", "10% 20%"),
        ("grün \u2713", "grün \u2713"),
        ("cut \x1b", "cut "),
    ],
)
def test_a_terminal_obeys_no_log(tmp_path: Path, written: str, shown_as: str) -> None:
    """Colours, titles and other control characters are left out; tabs stay."""
    path = tmp_path / "server.log"
    path.write_bytes(written.encode() + b"\n")
    assert [line.text for line in Tail(path, "r0.a1", "server").read()] == [shown_as]


@given(st.text())
def test_printable_text_has_no_control_characters(text: str) -> None:
    """Whatever a log holds."""
    assert not [c for c in printable(text) if c not in "\t\n" and unicodedata.category(c) == "Cc"]
