"""What a solve does besides calls of the model, made durable: single steps, and cells of a session.

A step is journaled with its result before its solve sees that, under a number of its own and the
digest of what was asked: `evalkit.client.durable` answers it from there after an interruption.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import orjson

from evalkit.clock import SYSTEM_CLOCK, Clock
from evalkit.errors import ScorerError
from evalkit.scoring.sandbox.session import CellEnding, CellOutput
from evalkit.store.records import StepRecord

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from evalkit.client.drive import Driver
    from evalkit.plan.model import UnitKey
    from evalkit.scoring.sandbox.program_pool import ProgramPool
    from evalkit.scoring.sandbox.session_pool import PooledSession, SessionPool

MOST_ARGUMENTS = 2**16
"""Bytes of arguments that are journaled beside their digest, for people who read samples."""
PYTHON = "python"
"""Name of the steps that are cells of a session."""


@dataclass(frozen=True, slots=True)
class Facilities:
    """What units of a benchmark may use besides the model."""

    clock: Clock = SYSTEM_CLOCK
    sessions: SessionPool | None = None
    programs: ProgramPool | None = None
    driver: Driver | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One step that is asked for."""

    number: int
    name: str
    arguments: bytes
    """Canonical JSON."""

    @classmethod
    def of(cls, number: int, name: str, arguments: Any) -> Self:
        """Raises ScorerError for arguments that are not JSON."""
        return cls(number, name, encode_json(arguments, f"the arguments of step {name!r}"))

    @property
    def digest(self) -> str:
        """Hash of name and arguments: 32 hexadecimal digits."""
        return hashlib.sha256(orjson.dumps(self.name) + self.arguments).hexdigest()[:32]

    def record(self, key: UnitKey, result: bytes, started: float, seconds: float) -> StepRecord:
        """What is journaled of it."""
        is_small = len(self.arguments) <= MOST_ARGUMENTS
        return StepRecord(
            sample=key.sample,
            repeat=key.repeat,
            step=self.number,
            digest=self.digest,
            name=self.name,
            result=orjson.loads(result),
            started=round(started, 3),
            seconds=round(seconds, 6),
            arguments=orjson.loads(self.arguments) if is_small else None,
        )


def encode_json(value: Any, what: str) -> bytes:
    """Canonical JSON of a value. Raises ScorerError: it is a benchmark's bug, or a text that no journal
    can hold, such as half of a surrogate pair."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        raise ScorerError(f"{what} cannot be journaled as JSON: {error}") from error


class Stepping(Protocol):
    """What takes steps."""

    def step(self, name: str, arguments: Any, run: Callable[[], Awaitable[Any]]) -> Awaitable[Any]:
        """One durable step."""
        ...


class DurableSession:
    """A Python session whose cells are durable steps; open it as a context manager."""

    def __init__(self, steps: Stepping, session: PooledSession, on_end: Callable[[], None]) -> None:
        self._steps = steps
        self._session = session
        self._on_end = on_end

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._on_end()
        await self._session.close()

    def execute(self, code: str, timeout_s: float) -> Awaitable[CellOutput]:
        """Run a cell, or have its answer from the journal; its number is taken now."""
        ran = False

        async def run() -> dict[str, Any]:
            nonlocal ran
            ran = True
            found = await self._session.execute(code, timeout_s)
            return asdict(CellOutput(found.ended, found.stdout, found.stderr, found.cut))

        step = self._steps.step(PYTHON, {"code": code, "timeout_s": timeout_s}, run)

        async def answer() -> CellOutput:
            found = await step
            output = CellOutput(**found | {"ended": CellEnding(found["ended"])})
            if not ran and output.ended is CellEnding.OK:
                self._session.recall(code)
            return output

        return answer()
