"""Servers that are lent: which ones, to whom, and what is written of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster import lending as module
from evalkit.cluster.lending import Lending
from evalkit.cluster.replica_report import ReplicaReport
from evalkit.recipe.serving import ExternalServing, VllmServing
from evalkit.serving.endpoint import Endpoint
from evalkit.store.layout import RunFolder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from evalkit.client.target import Target
    from evalkit.recipe.serving import AnyServing

HERE = Endpoint("http://127.0.0.1:1/v1", "m", api_key="key-of-the-server")
HOSTED = ExternalServing(kind="external", base_url="http://x/v1", api_key_env="KEY")


class Spread:
    """What is borrowed, and what is given up of it."""

    def __init__(self) -> None:
        self.lent: dict[str, Target] = {}
        self.given_up: dict[str, str] = {}
        self.waiting = 1

    async def borrow(self, lent: Mapping[str, Target]) -> None:
        """Take note."""
        self.lent = dict(lent)

    def give_up(self, name: str, why: str) -> None:
        """Take note of the first reason."""
        self.given_up.setdefault(name, why)

    def in_flight(self, name: str) -> int:
        """Calls that never end."""
        return self.waiting

    def progress(self, name: str) -> int:
        """Nothing is ever answered."""
        return 0


@contextlib.asynccontextmanager
async def borrowing(lending: Lending, stall_timeout_s: float) -> AsyncIterator[Spread]:
    """What a replica borrows, as long as the block."""
    spread = Spread()
    task = asyncio.create_task(lending.borrow(spread, SYSTEM_CLOCK, stall_timeout_s))  # type: ignore[arg-type]
    try:
        yield spread
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def make(
    tmp_path: Path,
    replica: str,
    serving: AnyServing,
    host: str = "here",
    programs: int = 1,
    silent_s: float = 0,
) -> Lending:
    """What a replica lends, whose report is written."""
    folder = RunFolder(tmp_path)
    folder.replicas.mkdir(exist_ok=True)
    now = SYSTEM_CLOCK.wall()
    report = ReplicaReport(replica, 1, host, 1, None, now, state="ready", heartbeat=now - silent_s)
    report.programs = programs
    (folder.replicas / f"{replica}.json").write_bytes(report.render())
    return Lending(folder, report, 0, serving, 2)


class Queue:
    """Has nothing to hand out."""

    is_idle = True

    def __init__(self) -> None:
        self.looks = 0
        self._stay_for: frozenset[str] = frozenset()

    @property
    def stay_for(self) -> frozenset[str]:
        """Counted: it is looked at once or twice in each round."""
        self.looks += 1
        return self._stay_for

    def stay(self, tasks: frozenset[str]) -> bool:
        """As a queue with nothing left to others."""
        self._stay_for = tasks
        return False


async def lend(lending: Lending, folder: RunFolder) -> tuple[frozenset[str], list[Any]]:
    """Lend for some rounds: what the queue stays for, and the loans that were there."""
    queue = Queue()
    task = asyncio.create_task(lending.lend(HERE, queue, frozenset({"t"}), SYSTEM_CLOCK))  # type: ignore[arg-type]
    while queue.looks < 10:
        await asyncio.sleep(0.001)
    loans = [(path.name, path.stat().st_mode, path.read_text()) for path in folder.loans()]
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert folder.loans() == [], "a loan ends with its replica"
    return queue.stay_for, loans


@pytest.mark.parametrize("serving", [VllmServing(), HOSTED])
async def test_what_is_lent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serving: AnyServing
) -> None:
    """A server of ours, to a replica beside it, in a file that its owner alone reads. Never a hosted
    endpoint: its key is the user's. A loan that a killed attempt left is gone either way."""
    monkeypatch.setattr(module, "POLL_S", 0.001)
    lender, folder = make(tmp_path, "r0", serving), RunFolder(tmp_path)
    make(tmp_path, "r1", serving)
    folder.loan("r0").write_text("old")
    stays, loans = await lend(lender, folder)
    if serving is HOSTED:
        assert (stays, loans) == (frozenset(), [])
        return
    [(name, mode, text)] = loans
    assert (stays, name, stat.S_IMODE(mode)) == ({"t"}, "r0.loan", 0o600)
    loan = json.loads(text)
    assert loan["api_key"] == "key-of-the-server"
    assert (loan["replica"], loan["attempt"], loan["server"]) == ("r0", 1, 2)


@pytest.mark.parametrize(
    "other", [{"host": "there"}, {"programs": 0}, {"silent_s": 100}], ids=["host", "idle", "killed"]
)
async def test_nothing_is_lent_where_nobody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    """A server that is reached on its host alone is of use only to a program that runs there."""
    monkeypatch.setattr(module, "POLL_S", 0.001)
    lender, folder = make(tmp_path, "r0", VllmServing()), RunFolder(tmp_path)
    make(tmp_path, "r1", VllmServing(), **other)
    stays, loans = await lend(lender, folder)
    assert (stays, loans) == (frozenset(), [])


async def test_a_loan_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again, and a file that a process of the same number left is in nobody's way."""
    monkeypatch.setattr(module, "POLL_S", 0.001)
    lender, folder = make(tmp_path, "r0", VllmServing()), RunFolder(tmp_path)
    make(tmp_path, "r1", VllmServing())
    left = folder.replicas / f".r0.loan.{os.getpid()}"
    left.write_text("x" * 4096)
    tries = []
    replace = Path.replace

    def fails_once(self: Path, target: Path) -> Path:
        tries.append(target)
        if len(tries) == 1:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fails_once)
    _, [(_, mode, text)] = await lend(lender, folder)
    assert len(tries) == 2
    assert stat.S_IMODE(mode) == 0o600
    assert json.loads(text)["replica"] == "r0"
    assert not left.exists()


async def test_loans_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that does not answer costs nothing that is borrowed."""
    monkeypatch.setattr(module, "POLL_S", 0.001)
    lender, borrower = (make(tmp_path, name, VllmServing()) for name in ("r0", "r1"))
    lender._write(RunFolder(tmp_path).loan("r0"), HERE)
    looks = []

    def stale(self: RunFolder) -> list[Path]:
        looks.append(self)
        raise OSError(116, "Stale file handle")

    async with borrowing(borrower, 60) as spread:
        while not spread.lent:
            await asyncio.sleep(0.001)
        monkeypatch.setattr(RunFolder, "loans", stale)
        while len(looks) < 3:
            await asyncio.sleep(0.001)
        assert list(spread.lent) == [HERE.api_key]
    assert spread.given_up == {}


async def test_a_borrowed_server_has_its_own_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls to it say whose it is, also while it is lent to nobody else."""
    monkeypatch.setattr(module, "POLL_S", 0.001)
    lender, borrower = (make(tmp_path, name, VllmServing()) for name in ("r0", "r1"))
    lender._write(RunFolder(tmp_path).loan("r0"), HERE)
    async with borrowing(borrower, 60) as spread:
        while not spread.lent:
            await asyncio.sleep(0.001)
        [target] = spread.lent.values()
        assert (target.lender, target.server, target.base_url) == ("r0.a1", 2, HERE.base_url)
        RunFolder(tmp_path).loan("r0").unlink()
        while spread.lent:
            await asyncio.sleep(0.001)
    assert spread.given_up == {}


@pytest.mark.parametrize("fault", ["hangs", "ended", "another attempt", "silent"])
async def test_a_lender_that_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """A server that hangs, and one whose replica is gone, although the loan is still there."""
    monkeypatch.setattr(module, "POLL_S", 0.001)
    lender, borrower = (make(tmp_path, name, VllmServing()) for name in ("r0", "r1"))
    folder = RunFolder(tmp_path)
    lender._write(folder.loan("r0"), HERE)
    async with borrowing(borrower, 0.05 if fault == "hangs" else 600) as spread:
        while not spread.lent:
            await asyncio.sleep(0.001)
        assert spread.given_up == {}
        report = lender._report
        match fault:
            case "ended":
                report.state = "done"
            case "another attempt":
                report.attempt = 2
            case "silent":
                report.heartbeat -= 61
        folder.replica("r0").write_bytes(report.render())
        while not spread.given_up:
            await asyncio.sleep(0.001)
    [(key, why)] = spread.given_up.items()
    assert key == HERE.api_key
    assert ("the server hangs" if fault == "hangs" else "r0 has ended, or is not seen alive") in why
