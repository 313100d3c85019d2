"""A short volume campaign: every kind of fault once, and the arithmetic its verdicts rest on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.faults.campaign.catalogue import CATALOGUE
from tests.faults.campaign.ledger import LedgerFile, make_bill, paid_again
from tests.faults.campaign.report import render_report
from tests.faults.campaign.volume import Choice, draw, play_volume

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.campaign.ledger import Account

SEED = 20


@pytest.mark.timeout(900)
def test_every_kind_of_fault(tmp_path: Path) -> None:
    """All kinds, once each, in several runs: artifacts as undisturbed, nothing finished paid twice."""
    drawn = draw(SEED, len(CATALOGUE), Choice())
    assert {kind for _, kind in drawn} == set(CATALOGUE)
    outcomes = play_volume(tmp_path, drawn, SEED, print, jobs=4)
    played = [fault.kind for outcome in outcomes for fault in outcome.injected]
    assert sorted(played) == sorted(CATALOGUE)
    vllm = [outcome.bill for outcome in outcomes if outcome.mode == "vllm"]
    assert sum(bill.continued_calls for bill in vllm) > 0
    assert sum(bill.saved for bill in vllm) > 0
    print(render_report(outcomes, 0.0))


def call(prompt: str, id: str, start: int = 0, body: str | None = None) -> dict[str, object]:
    """A server takes a request; its body is named after its prompt."""
    name = body or (f"body-{prompt}" if not start else "rest")
    facts = {"body": name, "prompt": prompt, "start": start, "needs": 100 - start, "odd": False}
    return {"event": "call", "t": 1.0, "id": id, **facts}


def end(id: str, done: int, why: str) -> dict[str, object]:
    """A generation is over."""
    return {"event": "end", "t": 2.0, "id": id, "done": done, "why": why}


def account(path: Path, *events: dict[str, object]) -> Account:
    """What a ledger with these lines says."""
    path.write_text("".join(json.dumps(event) + "\n" for event in events) + '{"event": "ca')
    return LedgerFile(path).read()


def test_bill(tmp_path: Path) -> None:
    """Interrupted and continued, lost in flight, answered but not journaled: each is told apart."""
    found = account(
        tmp_path / "ledger",
        call("continued", "1"),
        end("1", 60, "abort"),
        call("continued", "2", start=50),
        end("2", 50, "stop"),
        call("lost", "3"),
        {"event": "tokens", "t": 1.5, "id": "3", "done": 40},
        call("lost", "4"),
        end("4", 100, "stop"),
        call("repeated", "5"),
        end("5", 100, "stop"),
        call("repeated", "6"),
        end("6", 100, "stop"),
        call("lost", "7", body="preflight"),
        end("7", 1, "gone"),
    )
    bodies = {"body-continued", "body-lost", "body-repeated"}
    bill = make_bill(found, bodies, needed=300)
    assert (bill.paid, bill.lost, bill.saved) == (450, 150, 50)
    assert (bill.continued_calls, bill.lost_calls, bill.repeated_answers) == (1, 1, 1)
    assert bill.interrupted_tokens == 10 + 40


def test_a_call_that_is_paid_for_again_is_seen(tmp_path: Path) -> None:
    """A finished call that comes again is found, also as a continuation; a preflight of it is none."""
    found = account(
        tmp_path / "ledger",
        call("a", "1"),
        end("1", 100, "stop"),
        call("a", "2"),
        call("a", "3", start=20),
        call("a", "4", body="preflight"),
        call("b", "5"),
    )
    assert paid_again(found, {"a"}, {"body-a", "body-b"}, 2, 6) == ["a", "a"]
    assert paid_again(found, {"a"}, {"body-a", "body-b"}, 4, 6) == []
