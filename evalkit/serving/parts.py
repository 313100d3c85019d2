"""A server as a whole: the part that answers, and those on further nodes.

The part that ends first is the one to blame, whatever its exit code: the others follow, sooner or later
and with messages of their own. Which was first is told by what the keepers wrote into the logs, for
srun may report a death after the first node has died of it.
"""

from __future__ import annotations

import asyncio
import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from evalkit.serving import keeper, logs
from evalkit.serving.server import describe_code
from evalkit.serving.trouble import explain_death

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalkit.serving.server import Server
    from evalkit.serving.trouble import Trouble

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

    @property
    def exit_code(self) -> int | None:
        """Exit code, 128 + n after signal n; None while it runs."""
        code, word = self.server.exit_code(), self.last_word
        return code if word is None else word[1]

    def explain_exit(self, secrets: Sequence[str], where: str) -> Trouble:
        """Why a part that has ended did so. `where` begins the sentence; it may be empty."""
        lines, log_path = self.server.log(), self.server.log_path
        end = logs.tail(lines, secrets) or "(it wrote nothing)"
        how = describe_code(self.exit_code or 0)
        return explain_death(
            f"{where}{how}; last lines of {log_path}:\n{end}",
            lines,
            log_path,
            oom_killed=self.server.was_oom_killed,
            secrets=secrets,
        )


class WholeServer:
    """A server in one or several parts; the first part is the one that answers."""

    def __init__(self, first: Part) -> None:
        self.parts = [first]

    def add(self, part: Part) -> None:
        """One more part."""
        self.parts.append(part)

    @property
    def first(self) -> Part:
        """The part on this node."""
        return self.parts[0]

    @property
    def nodes(self) -> tuple[str, ...]:
        """Nodes of the parts."""
        return tuple(part.node for part in self.parts)

    @property
    def is_alive(self) -> bool:
        """Whether all parts run."""
        return all(part.server.is_alive for part in self.parts)

    def culprit(self) -> Part | None:
        """The part that ended first; None while all run."""
        if self.is_alive:
            return None
        if len(self.parts) == 1:
            return self.first
        said = [(part.last_word, index) for index, part in enumerate(self.parts)]
        ends = [(word[0], index) for word, index in said if word is not None]
        if ends:
            return self.parts[min(ends)[1]]
        return next(part for part in self.parts if not part.server.is_alive)

    def explain_exit(self, secrets: Sequence[str]) -> Trouble | None:
        """Why it is dead, with the end of the log of the part that ended first; None while it lives."""
        part = self.culprit()
        if part is None:
            return None
        if len(self.parts) == 1:
            return part.explain_exit(secrets, "")
        trouble = part.explain_exit(secrets, f"the part on node {part.node} ended first, with ")
        return replace(trouble, node=part.node)

    async def stop(self, grace_s: float, within_s: float = math.inf) -> None:
        """End all parts, at the same time. Raises ServingError when one cannot be ended."""
        stops = (part.server.stop(grace_s, within_s) for part in self.parts)
        for result in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
