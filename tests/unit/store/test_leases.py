"""Leases: kept from others while their holder lives, free as soon as it is dead."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from evalkit.errors import StoreError
from evalkit.plan.model import Shard
from evalkit.store import leases as leases_module
from evalkit.store.layout import RunFolder
from evalkit.store.leases import Leases, forget_leases

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from filelock import SoftFileLease

SHARD = Shard("addition", 3)
HOLDER = """
import sys
from pathlib import Path
from evalkit.plan.model import Shard
from evalkit.store.layout import RunFolder
from evalkit.store.leases import Leases
leases = Leases(RunFolder(Path(sys.argv[1])))
print(leases.take(Shard("addition", 3)), flush=True)
sys.stdin.read()
leases.release_all()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the shard until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    with process:
        yield process
        process.kill()


def test_lease_of_the_living(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    """What a living process holds is refused until it gives it back."""
    folder = RunFolder(tmp_path)
    leases = Leases(folder)
    assert not leases.take(SHARD)
    assert not leases.take(SHARD)
    assert f"pid={other.pid}\n" in folder.lease(SHARD).read_text()
    other.communicate("")
    assert leases.take(SHARD)
    leases.release_all()


def test_lease_of_a_killed_process(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    """What a killed process held on this host is free at once."""
    leases = Leases(RunFolder(tmp_path))
    assert not leases.take(SHARD)
    other.kill()
    other.wait()
    assert leases.take(SHARD)
    leases.release_all()


def test_lease_is_given_back(tmp_path: Path) -> None:
    """A released shard can be taken again, by the same worker or by another; releases repeat."""
    folder = RunFolder(tmp_path)
    first, second = Leases(folder), Leases(folder)
    assert first.take(SHARD)
    assert not second.take(SHARD)
    assert second.take(Shard("addition", 4))
    first.release(SHARD)
    first.release(SHARD)
    assert second.take(SHARD)
    second.release_all()
    assert not folder.lease(SHARD).exists()
    assert first.take(SHARD)
    first.release_all()


def test_lost_lease_is_released_quietly(tmp_path: Path) -> None:
    """A lease whose file went away, or became another's, is given back without harm."""
    folder = RunFolder(tmp_path)
    first, second = Leases(folder), Leases(folder)
    assert first.take(SHARD)
    folder.lease(SHARD).unlink()
    assert second.take(SHARD)
    first.release_all()
    assert not Leases(folder).take(SHARD)
    second.release_all()


@pytest.mark.parametrize("content", ["", "filelock/2\n", "host=elsewhere\npid=1\n"])
def test_lease_of_one_killed_while_taking_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    """A lease that does not name its holder is free when nobody has touched it for long enough."""
    monkeypatch.setattr(leases_module, "LEASE_S", 60.0)
    folder = RunFolder(tmp_path)
    path = folder.lease(SHARD)
    path.parent.mkdir(parents=True)
    path.write_text(content)
    now = [0.0]
    leases = Leases(folder, lambda: now[0])
    assert not leases.take(SHARD)
    now[0] = 65.0
    path.write_text(content + "\n")
    assert not leases.take(SHARD), "somebody has touched it"
    now[0] = 130.0
    assert not leases.take(SHARD)
    now[0] = 136.0
    assert leases.take(SHARD)
    assert path.read_text() != content + "\n"
    leases.release_all()


@pytest.mark.parametrize("skew_s", [-7 * 3600.0, 7 * 3600.0])
def test_no_clock_of_others_is_trusted(
    tmp_path: Path, other: subprocess.Popen[str], skew_s: float
) -> None:
    """A file server whose clock is hours off neither frees the lease of the living nor keeps that of the
    dead: only whether it changes counts, by the taker's own clock."""
    folder = RunFolder(tmp_path)
    path = folder.lease(SHARD)
    now = [0.0]
    leases = Leases(folder, lambda: now[0])

    def shift() -> None:
        then = time.time() + skew_s + now[0]
        os.utime(path, (then, then))

    shift()
    assert not leases.take(SHARD)
    now[0] = 65.0
    shift()
    assert not leases.take(SHARD), "it was refreshed, at whatever time"
    now[0] = 130.0
    assert not leases.take(SHARD), "not refreshed for so long only since a moment ago"
    now[0] = 136.0
    assert leases.take(SHARD), "nobody has refreshed it for longer than any living holder leaves it"
    leases.release_all()
    other.communicate("")


def test_forgotten_leases(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    """Where nobody works, all leases are removed, markers stay, and the next who comes need not wait."""
    folder = RunFolder(tmp_path)
    other.kill()
    marker = folder.marker(SHARD)
    marker.write_bytes(b"{}")
    folder.lease(SHARD).write_text("host=elsewhere\npid=1\n")
    forget_leases(folder)
    assert list(tmp_path.rglob("*.lock")) == []
    assert marker.exists()
    forget_leases(RunFolder(tmp_path / "nowhere"))


def test_alive_is_seen_refreshing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease counts as alive only after it was refreshed since the first look."""
    monkeypatch.setattr(leases_module, "REFRESH_S", 0.02)
    folder = RunFolder(tmp_path)
    first, second = Leases(folder), Leases(folder)
    assert not second.is_alive(SHARD)
    assert first.take(SHARD)
    assert not second.is_alive(SHARD), "one look cannot tell"
    while not second.is_alive(SHARD):
        pass
    first.release_all()
    assert not second.is_alive(SHARD)


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A lease that cannot be created is an error that names it."""
    folder = RunFolder(tmp_path)
    folder.leases.touch()
    with pytest.raises(StoreError, match=f"cannot create {folder.leases}"):
        Leases(folder).take(SHARD)


def test_threads_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight threads ask for eight shards and one more for all: never two in the lease files at once."""
    inside: list[int] = []
    most: list[int] = []
    acquire = leases_module.SoftFileLease.acquire

    def watched(self: SoftFileLease, **options: float) -> object:
        inside.append(1)
        most.append(len(inside))
        threading.Event().wait(0.002)
        try:
            return acquire(self, **options)
        finally:
            inside.pop()

    monkeypatch.setattr(leases_module.SoftFileLease, "acquire", watched)
    leases = Leases(RunFolder(tmp_path))
    shards = [Shard("addition", index % 8) for index in range(16)]
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(leases.take, shards))
    leases.release_all()
    assert max(most) == 1
    assert list(tmp_path.rglob("*.lock")) == []
