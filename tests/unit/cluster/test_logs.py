"""Logs of all replicas and attempts as one stream."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.cluster.logs import Follower, RunWatch, Tail, follow, tail_offset
from evalkit.errors import UsageError
from tests.unit.cluster.builders import make_plan, write_run

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.store.layout import RunFolder


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)


def shown(folder: RunFolder, **options: object) -> list[str]:
    given = {"follow": False, **options}
    return [str(line) for line in follow(folder, **given)]  # type: ignore[arg-type]


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

    lines = [line.text for line in follow(run_folder, follow=True, lines=1, is_over=is_over)]
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
    follower = Follower(run_folder, None, ("worker",))
    follower.discover(1)
    write(run_folder.worker_log("r0", 1), "a\nb\n")
    follower.discover(None)
    assert [line.text for line in follower.read()] == ["a", "b"]
