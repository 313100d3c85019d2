"""The tokens of generations that were interrupted: what is in journals of them, and how they grow.

A generation of a hundred thousand tokens is hours of a GPU, so its tokens are journaled while it
runs, and whoever does the call next goes on from them. Token ids and not text: text cannot be cut at
any place and tokenized back to the same ids.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any

from evalkit.store.records import Continuation, PartialRecord

ID = "I"
"""Type code of the arrays: 4 bytes per token. A resume may hold the tokens of hundreds of calls."""


def _ids() -> array[int]:
    return array(ID)


@dataclass(slots=True)
class TokenChain:
    """Prompt and tokens so far of one call that is not finished."""

    prompt: array[int] = field(default_factory=_ids)
    tokens: array[int] = field(default_factory=_ids)
    continued: tuple[Continuation, ...] = ()
    """Interruptions so far."""
    elapsed_s: float = 0.0
    """Time spent on it so far (s)."""
    finish_reason: str | None = None
    """Set when the server has ended it."""
    journaled: int = 0
    """Tokens that the running attempt has in its own journal."""
    usage: dict[str, Any] | None = None
    """The server's own count, of a generation without interruption; not journaled."""
    stuck: int = 0
    """Servers in a row that failed on its continuation before a token came: they may die of it."""
    blamed: int | None = None
    """The last of them, in this attempt."""
    begun: int = 0
    """How often the call was begun anew before, its tokens given up."""
    _written: tuple[str | None, int] = (None, 0)
    """Finish reason and `stuck` as the attempt's journal has them."""

    def begin(self, prompt: list[int]) -> None:
        """Note the prompt's ids, which come with the first tokens."""
        self.prompt = array(ID, prompt)

    def add(self, tokens: list[int]) -> None:
        """Take tokens that came."""
        if tokens:
            self.tokens.extend(tokens)
            self.stuck, self.blamed = 0, None

    def blame(self, server: int) -> None:
        """Note that a server failed before a token came; each counts once, however often it is asked."""
        if self.blamed != server:
            self.stuck, self.blamed = self.stuck + 1, server

    def unsaved(self, sample: int, repeat: int, call: int, request: str) -> PartialRecord | None:
        """A record of what the attempt's journal does not have yet; null when it has everything."""
        start, facts = self.journaled, (self.finish_reason, self.stuck)
        if start == len(self.tokens) and (start == 0 or facts == self._written):
            return None
        self.journaled, self._written = len(self.tokens), facts
        return PartialRecord(
            sample,
            repeat,
            call,
            request,
            start=start,
            tokens=tuple(self.tokens[start:]),
            prompt=tuple(self.prompt) if start == 0 else (),
            continued=self.continued,
            elapsed_s=round(self.elapsed_s, 3),
            finish_reason=self.finish_reason,
            stuck=self.stuck,
            begun=self.begun,
        )

    def take(self, record: PartialRecord) -> None:
        """Take a record of a journal that is read. One that does not fit its predecessors, because a
        line between them is lost, is left out: what came before it stands."""
        if record.start == 0:
            self.prompt, self.tokens = array(ID, record.prompt), _ids()
        elif (record.start, record.begun) != (len(self.tokens), self.begun):
            return
        self.tokens.extend(record.tokens)
        self.continued = record.continued
        self.elapsed_s = record.elapsed_s
        self.finish_reason = record.finish_reason
        self.stuck, self.begun = record.stuck, record.begun

    def beats(self, other: TokenChain) -> bool:
        """Whether to go on from this one: what was begun anew later, else what has more tokens, else
        what more servers failed on since: those tokens are the same, and what they did is known."""
        mine = (self.begun, len(self.tokens), self.stuck)
        return mine > (other.begun, len(other.tokens), other.stuck)
