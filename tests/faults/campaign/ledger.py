"""The fault servers' own account of every generation, and the arithmetic over it. Pure but for `read`.

A server writes a line before a token leaves it, so the account holds for servers that were killed.
Tokens are generated for a prompt; a request that goes on from n tokens has `start` n. What an
undisturbed run would have generated is known from the finished run, all else was lost.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Set
    from pathlib import Path

ENDED = ("stop", "length")


@dataclass(slots=True)
class Generated:
    """One request that a server began to answer."""

    t: float
    """When it came (Unix time, s)."""
    body: str
    prompt: str
    start: int
    """Tokens of the answer that it came with."""
    needs: int
    """Tokens that were left to generate."""
    odd: bool
    """Answered so that it had to be asked for again."""
    position: int
    """Number of its line in the ledger."""
    done: int = 0
    """Tokens generated."""
    why: str | None = None
    """How it ended; null when its server was killed."""
    first_token: float | None = None

    @property
    def end(self) -> int:
        """Tokens of the answer that were there in the end."""
        return self.start + self.done


@dataclass
class Account:
    """What all servers of a run did."""

    calls: list[Generated] = field(default_factory=list)
    refused: int = 0
    cut: int = 0
    servers: list[dict[str, Any]] = field(default_factory=list)
    """Lines that servers wrote when they started: `pid`, `port`, `t`."""
    lines: int = 0
    tokens: int = 0
    answers: int = 0
    """Generations that ended by themselves."""
    _open: dict[str, Generated] = field(default_factory=dict)

    def take(self, events: Iterable[dict[str, Any]]) -> None:
        """Add the next lines."""
        for event in events:
            getattr(self, f"_take_{event['event']}")(event)
            self.lines += 1

    def _take_server(self, event: dict[str, Any]) -> None:
        self.servers.append(event)

    def _take_refused(self, _: dict[str, Any]) -> None:
        self.refused += 1

    def _take_cut(self, event: dict[str, Any]) -> None:
        self.cut += 1
        for call in reversed(self.calls):
            if call.body == event["body"]:
                call.odd = True
                return

    def _take_call(self, event: dict[str, Any]) -> None:
        facts = {name: event[name] for name in ("t", "body", "prompt", "start", "needs", "odd")}
        call = Generated(position=self.lines, **facts)
        self.calls.append(call)
        self._open[event["id"]] = call

    def _take_tokens(self, event: dict[str, Any]) -> None:
        call = self._open[event["id"]]
        self.tokens += event["done"] - call.done
        call.done = event["done"]
        if call.done and call.first_token is None:
            call.first_token = event["t"]

    def _take_end(self, event: dict[str, Any]) -> None:
        self._take_tokens(event)
        self._open[event["id"]].why = event["why"]
        self.answers += event["why"] in ENDED

    def first_token_after(self, t: float) -> float | None:
        """When the first token came of a request that was sent after `t`; null when none did."""
        times = [c.first_token for c in self.calls if c.t > t and c.first_token is not None]
        return min(times, default=None)


class LedgerFile:
    """Follows a ledger that servers are writing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.account = Account()
        self._offset = 0

    def read(self) -> Account:
        """The account up to now."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._offset)
                whole = file.read().rpartition(b"\n")[0]
            self._offset += len(whole) + bool(whole)
            self.account.take(json.loads(line) for line in whole.splitlines())
        return self.account


@dataclass(frozen=True)
class Bill:
    """What a run has cost. Tokens are those of its own calls, without preflights and probes."""

    needed: int
    """Tokens of an undisturbed run."""
    paid: int
    """Tokens that were generated."""
    saved: int
    """Tokens that requests came with, and that were not generated again."""
    lost_calls: int
    """Calls that were interrupted and asked for again from their start."""
    continued_calls: int
    """Calls that were interrupted and went on."""
    interrupted_tokens: int
    """Tokens of interrupted calls that were generated once more."""
    repeated_answers: int
    """Answers that were given in full and asked for again: they did not reach the journal."""
    is_counted: bool = True
    """False where no ledger was kept: only `needed` and `saved`, the run's own numbers, are known."""

    @property
    def lost(self) -> int:
        """Tokens paid for and of no use."""
        return self.paid - self.needed


def make_bill(account: Account, bodies: Set[str], needed: int) -> Bill:
    """The bill of a finished run; `bodies` are the hashes of its calls at the server."""
    prompts = {call.prompt for call in account.calls if call.body in bodies}
    by_prompt: dict[str, list[Generated]] = {prompt: [] for prompt in prompts}
    for call in account.calls:
        if call.body in bodies or (call.start and call.prompt in prompts):
            by_prompt[call.prompt].append(call)
    mine = [call for calls in by_prompt.values() for call in calls]
    lost_calls = continued = again = repeated = 0
    for calls in by_prompt.values():
        for call, after in itertools.pairwise(calls):
            if call.why in ENDED:
                repeated += 1
                continue
            again += max(0, call.end - after.start)
            lost_calls += bool(call.done) and after.start == 0
            continued += after.start > 0
    return Bill(
        needed=needed,
        paid=sum(call.done for call in mine),
        saved=sum(call.start for call in mine),
        lost_calls=lost_calls,
        continued_calls=continued,
        interrupted_tokens=again,
        repeated_answers=repeated,
    )


def paid_again(
    account: Account, prompts: Set[str], bodies: Set[str], first: int, last: int
) -> list[str]:
    """Prompts asked for in lines [first, last) of the ledger although they were finished."""
    return [
        call.prompt
        for call in account.calls
        if first <= call.position < last
        and call.prompt in prompts
        and (call.body in bodies or call.start > 0)
    ]
