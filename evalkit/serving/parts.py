"""A server as a whole: the part that answers, and those on further nodes.

The part that ends first is the one to blame, whatever its exit code: the others follow, sooner or later
and with messages of their own. Which was first is told by what the keepers wrote into the logs, for
srun may report a death after the first node has died of it.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit.serving import keeper

if TYPE_CHECKING:
    from evalkit.serving.server import Server

ENDED = re.compile(re.escape(keeper.ENDED) + r" (\d+) at (\d+\.\d+)")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a server and where it runs."""

    node: str
    server: Server

    @property
    def last_word(self) -> tuple[float, int] | None:
        """When it ended by itself (Unix time, s) and its exit code, from its keeper."""
        for line in reversed(self.server.log()):
            if found := ENDED.fullmatch(line.strip()):
                return float(found[2]), int(found[1])
        return None


class WholeServer:
    """A server in one or several parts; the first part is the one that answers."""

    def __init__(self, first: Part) -> None:
        self._parts = [first]

    def add(self, part: Part) -> None:
        """One more part."""
        self._parts.append(part)

    @property
    def first(self) -> Server:
        """The part on this node."""
        return self._parts[0].server

    @property
    def nodes(self) -> tuple[str, ...]:
        """Nodes of the parts."""
        return tuple(part.node for part in self._parts)

    @property
    def is_alive(self) -> bool:
        """Whether all parts run."""
        return all(part.server.is_alive for part in self._parts)

    def culprit(self) -> Part | None:
        """The part that ended first; None while all run."""
        if self.is_alive:
            return None
        if len(self._parts) == 1:
            return self._parts[0]
        said = [(part.last_word, index) for index, part in enumerate(self._parts)]
        ends = [(word[0], index) for word, index in said if word is not None]
        if ends:
            return self._parts[min(ends)[1]]
        return next(part for part in self._parts if not part.server.is_alive)

    def exit_code(self) -> int | None:
        """Exit code of the part that ended first; None while all run."""
        part = self.culprit()
        if part is None:
            return None
        code = part.server.exit_code()
        word = None if code is not None else part.last_word
        return code if word is None else word[1]

    async def stop(self, grace_s: float) -> None:
        """End all parts, at the same time. Raises ServingError when one cannot be ended."""
        stops = (part.server.stop(grace_s) for part in self._parts)
        for result in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
