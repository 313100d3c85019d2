"""Where the tokens of one call are kept while it is generated, and what the call comes to with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from evalkit.store.records import Continuation, Reply
    from evalkit.store.tokens import TokenChain


class Tokens(Protocol):
    """Where the tokens of one call are kept."""

    def load(self) -> TokenChain | None:
        """The tokens that are there; null for none."""
        ...

    def begin(self) -> TokenChain:
        """Start from nothing."""
        ...

    def save(self) -> None:
        """Make what came since the last time durable."""
        ...


class Salvaged(NamedTuple):
    """An answer, and what became of its generation."""

    reply: Reply
    continued: tuple[Continuation, ...] = ()
    elapsed_s: float = 0.0
    """Time spent on it over all servers (s), where it was continued."""
