"""Notice a server that lives and fails: `/health` with an error, or 5xx for every call.

Without this each call is tried again until its budget is spent, and fifty units fail before the attempt
gives up. Whether calls are in flight at the moment of a look says nothing here: one that fails is
answered at once, and waits for its next try. So what counts is that nothing has moved since the last look,
neither a call nor a token; then the server's own word is asked, and then one token. Only an
answer with an error is a fault. Silence is none: a long prefill is silent, and hangs are the stall
timeout's (`evalkit.serving.watchdog`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from evalkit.errors import FailureKind
from evalkit.serving.trouble import Trouble
from evalkit.serving.wire import QUICK_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalkit.serving.endpoint import Endpoint
    from evalkit.serving.wire import Answer, Wire

EVERY_S = 15.0
# An engine that comes back does so within seconds; at eight retries a call takes at least 60 s to fail.
FAULTS = 3


class Moved(NamedTuple):
    """What grows while a server works."""

    completed: int
    tokens: float | None


class Checkup:
    """Looks at one server of ours from time to time."""

    def __init__(
        self, endpoint: Endpoint, clock: Callable[[], float], every_s: float = EVERY_S
    ) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._every_s = every_s
        self._next = clock() + every_s
        self.last: Moved | None = None
        """What had moved at the last look."""
        self._faults = 0

    @property
    def is_due(self) -> bool:
        """Whether it is time for a look. Never for a server that is not ours: it has no `health_url`."""
        return self._endpoint.health_url is not None and self._clock() >= self._next

    async def examine(self, wire: Wire, moved: Moved) -> Trouble | None:
        """What is wrong, once it was wrong FAULTS times in a row with nothing moving in between."""
        self._next = self._clock() + self._every_s
        is_quiet, self.last = moved == self.last, moved
        answer = await self._ask(wire) if is_quiet else None
        if answer is None or answer.ok:
            self._faults = 0
            return None
        if answer.status is None:
            return None
        self._faults += 1
        if self._faults < FAULTS:
            return None
        return Trouble(
            FailureKind.SERVER_HANG,
            f"the server lives and fails: no call and no token got on, and {self._faults} looks in a "
            f"row, {self._every_s:g} s apart, found errors; the last one: {answer.brief()}",
        )

    async def _ask(self, wire: Wire) -> Answer:
        """The first answer that is an error, or silence; else a good one."""
        health = await wire.get(self._endpoint.health_url or "", key=False)
        if not health.ok:
            return health
        return await wire.one_token(QUICK_S)
