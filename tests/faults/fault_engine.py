"""Generations of the fault server: token by token in time, abortable, every token accounted for.

The ledger is what a campaign's arithmetic rests on: a line is in the file before the token it speaks
of reaches a client, so it is complete for a server that is killed too.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.faults.fault_tokens import (
    EOS,
    answer_tokens,
    characters,
    empty_tokens,
    prompt_key,
    split_prompt,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from tests.faults.fault_options import Switches

STEP_S = 0.05
"""A generation looks at the switches so often."""


@dataclass
class State:
    """What happened so far."""

    received: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    generations: int = 0
    tokens: int = 0
    in_flight: int = 0


class Output(NamedTuple):
    """Tokens since the last output, and why it was the last."""

    tokens: tuple[int, ...]
    finish: str | None


@dataclass(frozen=True)
class Asked:
    """A request, as far as it matters here."""

    id: str
    """As requests to abort name it."""
    name: str
    """Hash of its body."""
    body: dict[str, Any]
    number: int
    """Of all that came, counted from 1."""
    odd: bool = False
    """Its answer will be of no use: the client has to ask again."""

    @property
    def limit(self) -> int:
        """Most tokens that may be generated."""
        found = self.body.get("max_completion_tokens") or self.body.get("max_tokens")
        return int(found or 10**5)


@dataclass(eq=False)
class Generation:
    """One answer, or the rest of it."""

    id: str
    """As requests to abort name it."""
    key: str
    """As the ledger names it."""
    tokens: tuple[int, ...]
    finish: str
    number: int
    """Of all generations of the server, counted from 1."""
    done: int = 0
    aborted: asyncio.Event = field(default_factory=asyncio.Event)


class Ledger:
    """Appends to a file that several servers share, one after the other or at once."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if path else None

    def note(self, event: str, **facts: Any) -> None:
        """One line; lost never, once this returns."""
        if self._fd is not None:
            line = {"event": event, "t": time.time(), "pid": os.getpid(), **facts}
            os.write(self._fd, json.dumps(line).encode() + b"\n")


class Engine:
    """All generations of one server."""

    def __init__(self, switches: Switches) -> None:
        self.switches = switches
        self.state = State()
        self.ledger = Ledger(switches.ledger)
        self._live: dict[str, Generation] = {}
        self._numbers = 0

    def make(self, asked: Asked, tokens: Sequence[int], *, empty: bool) -> Generation:
        """The generation that answers a prompt, which may hold a part of its answer."""
        prompt, start = split_prompt(tokens)
        thinks = self.switches.reasoning != "none"
        whole = empty_tokens(thinks=thinks) if empty else answer_tokens(prompt, thinks=thinks)
        limit = min(asked.limit, self.switches.max_new_tokens or asked.limit)
        if asked.body.get("ignore_eos"):
            whole = (*whole[:-1], *characters("." * (start + limit)))
        rest = whole[start : start + limit]
        finish = "stop" if rest[-1:] == (EOS,) else "length"
        facts = {"start": start, "needs": len(rest), "odd": asked.odd}
        key, self._numbers = f"{os.getpid()}-{self._numbers}", self._numbers + 1
        name = prompt_key(prompt)
        self.ledger.note("call", id=key, body=asked.name, prompt=name, limit=limit, **facts)
        return Generation(asked.id, key, rest, finish, asked.number)

    def abort(self, ids: Sequence[str]) -> int:
        """End generations with what they have; unknown ids are none of ours. Returns how many."""
        found = [self._live[name] for name in ids if name in self._live]
        for generation in found:
            generation.aborted.set()
        return len(found)

    async def run(self, generation: Generation, interval: int) -> AsyncGenerator[Output, None]:
        """Its tokens as they come: the first, then `interval` at a time, then the rest."""
        self._live[generation.id] = generation
        sent, why, total = 0, "gone", len(generation.tokens)
        try:
            await self._wait(generation, self.switches.latency_s)
            while why == "gone":
                goal = min(total, sent + interval if sent else 1)
                await self._reach(generation, goal)
                tokens = generation.tokens[sent : generation.done]
                sent = generation.done
                finish = generation.finish if sent >= total else None
                finish = "abort" if generation.aborted.is_set() and finish is None else finish
                if finish is None:
                    self.ledger.note("tokens", id=generation.key, done=sent)
                else:
                    why = finish
                    self.ledger.note("end", id=generation.key, done=sent, why=why)
                yield Output(tokens, finish)
        finally:
            del self._live[generation.id]
            if why == "gone":
                self.ledger.note("end", id=generation.key, done=generation.done, why=why)

    async def _reach(self, generation: Generation, goal: int) -> None:
        """Generate up to `goal` tokens; returns before when it is aborted."""
        rate = self.switches.tokens_per_s
        before = time.monotonic()
        credit = 0.0
        while generation.done < goal and not generation.aborted.is_set():
            if self._hangs(generation):
                await self._wait(generation, STEP_S)
                before = time.monotonic()
                continue
            if rate:
                await self._wait(generation, min(STEP_S, (goal - generation.done) / rate))
            now = time.monotonic()
            credit, before = credit + (now - before) * rate, now
            new = min(goal - generation.done, int(credit)) if rate else goal - generation.done
            credit -= new
            self._count(generation, min(new, self._room()))

    def _count(self, generation: Generation, new: int) -> None:
        generation.done += new
        self.state.tokens += new
        if 0 < self.switches.die_at_token <= self.state.tokens:
            os._exit(3)

    def _hangs(self, generation: Generation) -> bool:
        return 0 < self.switches.hang_after < generation.number or self._room() <= 0

    def _room(self) -> int:
        """Tokens that may come before a hang at a token."""
        limit = self.switches.hang_at_token
        return limit - self.state.tokens if limit > 0 else sys.maxsize

    async def _wait(self, generation: Generation, seconds: float) -> None:
        if seconds > 0:
            try:
                await asyncio.wait_for(generation.aborted.wait(), seconds)
            except TimeoutError:
                return
