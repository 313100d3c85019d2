"""Servers that are lent: which ones, to whom, and what is written of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import stat
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.cluster import lending as module
from evalkit.cluster.lending import Lending
from evalkit.cluster.replica_report import ReplicaReport
from evalkit.recipe.serving import ExternalServing, VllmServing
from evalkit.serving.endpoint import Endpoint
from evalkit.store.layout import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.recipe.serving import AnyServing

HERE = Endpoint("http://127.0.0.1:1/v1", "m", api_key="key-of-the-server")
HOSTED = ExternalServing(kind="external", base_url="http://x/v1", api_key_env="KEY")


def make(tmp_path: Path, replica: str, serving: AnyServing, host: str = "here") -> Lending:
    """What a replica lends, whose report is written."""
    folder = RunFolder(tmp_path)
    folder.replicas.mkdir(exist_ok=True)
    report = ReplicaReport(replica, 1, host, 1, None, 0.0, state="ready")
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

    @stay_for.setter
    def stay_for(self, tasks: frozenset[str]) -> None:
        self._stay_for = tasks


async def lend(lending: Lending, folder: RunFolder) -> tuple[frozenset[str], list[Any]]:
    """Lend for some rounds: what the queue stays for, and the loans that were there."""
    queue = Queue()
    task = asyncio.create_task(lending.lend(HERE, queue, frozenset({"t"})))  # type: ignore[arg-type]
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


async def test_nothing_is_lent_to_another_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody could reach it nothing is written, also while the queue waits for another reason."""
    monkeypatch.setattr(module, "POLL_S", 0.001)
    lender, folder = make(tmp_path, "r0", VllmServing()), RunFolder(tmp_path)
    make(tmp_path, "r1", VllmServing(), host="there")
    stays, loans = await lend(lender, folder)
    assert (stays, loans) == (frozenset(), [])
