"""Python sessions for many units at once, from one event loop that never blocks.

A unit holds its session while its model thinks, which takes a thousand times longer than a cell. So
two things are limited apart: sessions that live (two processes each) and cells that run (a time limit
in seconds means something only while a cell has a core, and a server on the same node needs some,
too). Who waits for either holds nothing else: no call of the model, no other place.

A sandbox that is lost in the middle is made anew once, with the earlier cells run again; then it is
an InfraError, so that the unit is done again, and never a text for the model.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Self

from evalkit.errors import FailureKind, InfraError, ScorerError
from evalkit.scoring.sandbox.program import Limits
from evalkit.scoring.sandbox.session import PythonSession, session_zygote

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from evalkit.scoring.sandbox.find import Sandbox
    from evalkit.scoring.sandbox.session import CellResult
    from evalkit.scoring.sandbox.zygote import Zygote

SESSIONS_PER_CORE = 16
"""Living sessions: 256 on the 16 cores of a replica, as many as a server gets requests."""
CORES_PER_CELL = 2
LIMITS = Limits(memory_bytes=16 * 2**30)
"""The harness behind the published tool scores allows 50 GiB of addresses; so much resident memory of
one cell would end the server beside it."""
CHECK_S = 30.0


class _Warm(NamedTuple):
    zygote: Zygote
    limits: Limits


class SessionPool:
    """Sessions of one kind. It starts nothing before the first cell; `close` ends everything."""

    def __init__(
        self, find: Callable[[], Sandbox], *, preload: Sequence[str] = (), cores: int
    ) -> None:
        """`find` is called in a thread, and raises ScorerError where no sandbox works here; `preload`
        names modules that its interpreter must have."""
        self._find = find
        self._preload = tuple(preload)
        self._most = SESSIONS_PER_CORE * cores
        self.places = asyncio.Semaphore(self._most)
        """One for each session that may live."""
        self._cells = ThreadPoolExecutor(max(1, cores // CORES_PER_CELL), "evalkit-cell")
        self._starting: asyncio.Task[_Warm] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def session(self) -> PooledSession:
        """A new session; close it."""
        return PooledSession(self)

    async def check(self) -> None:
        """Run a first cell. Raises ScorerError that says why no session can be had, and what to do."""
        async with self.session() as session:
            found = await session.try_once("6 * 7", CHECK_S)
        if found.text != "42":
            raise ScorerError(f"a Python session in the sandbox answers {found.text!r} to 6 * 7")

    async def close(self) -> None:
        """End all sessions and the sandbox."""
        while self._ending:
            await asyncio.wait(self._ending)
        if self._starting is not None:
            await asyncio.wait([self._starting])
            if _worked(self._starting):
                await asyncio.to_thread(self._starting.result().zygote.__exit__, None, None, None)
        self._cells.shutdown(wait=False)

    async def open(self) -> PythonSession:
        """A session's blocking form. Raises ScorerError."""
        if self._starting is None or (self._starting.done() and not _worked(self._starting)):
            self._starting = asyncio.create_task(asyncio.to_thread(self._start))
        warm = await asyncio.shield(self._starting)
        return PythonSession(warm.zygote, warm.limits)

    def _start(self) -> _Warm:
        sandbox = self._find()
        limits = LIMITS
        if (
            sandbox.mode != "nested"
        ):  # there the kernel counts the processes of all sessions together
            beside = sandbox.processes_beside() + self._most * 2
            limits = replace(LIMITS, processes=LIMITS.processes + beside)
        return _Warm(session_zygote(sandbox, self._preload).__enter__(), limits)

    async def run(self, session: PythonSession, code: str, timeout_s: float) -> CellResult:
        """Run a cell when a thread is free. Raises ScorerError; cancelled, it ends the session."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._cells, session.execute, code, timeout_s)
        except asyncio.CancelledError:
            session.abort()
            raise

    def end(self, session: PythonSession) -> asyncio.Task[None]:
        """Close a session and free its place, whoever waits for that."""
        session.abort()
        ending = asyncio.create_task(asyncio.to_thread(session.close))
        self._ending.add(ending)
        ending.add_done_callback(self._ended)
        return ending

    def _ended(self, ending: asyncio.Task[None]) -> None:
        self._ending.discard(ending)
        self.places.release()


class PooledSession:
    """One session: it lives from its first cell on. Its cells run one after the other, as asked for."""

    def __init__(self, pool: SessionPool) -> None:
        self._pool = pool
        self._session: PythonSession | None = None
        self._turn = asyncio.Lock()
        self._recalled: list[str] = []
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def recall(self, code: str) -> None:
        """Take a cell that succeeded in an earlier process: it runs again before the next new one."""
        self._recalled.append(code)

    async def execute(self, code: str, timeout_s: float) -> CellResult:
        """Run a cell. Raises InfraError where the sandbox is lost and cannot be had again.

        Cancelled, it ends the session.
        """
        async with self._turn:
            try:
                try:
                    return await self._try(code, timeout_s)
                except ScorerError:
                    return await self._try(code, timeout_s)
            except ScorerError as error:
                raise InfraError(error.message, hint=error.hint, kind=FailureKind.SCORER) from error

    async def try_once(self, code: str, timeout_s: float) -> CellResult:
        """As `execute`, with a ScorerError at the first loss."""
        async with self._turn:
            return await self._try(code, timeout_s)

    async def _try(self, code: str, timeout_s: float) -> CellResult:
        self._refuse_closed()
        session = await self._living()
        while self._recalled:
            session.recall(self._recalled.pop(0))  # nothing runs on it: it does not block
        try:
            return await self._pool.run(session, code, timeout_s)
        finally:
            self._refuse_closed()

    async def _living(self) -> PythonSession:
        if self._session is None:
            await self._pool.places.acquire()
            try:
                session = await self._pool.open()
                self._refuse_closed()
            except BaseException:
                self._pool.places.release()
                raise
            self._session = session
        return self._session

    async def close(self) -> None:
        """End it; a cell that still runs is cancelled."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await asyncio.shield(self._pool.end(session))

    def _refuse_closed(self) -> None:
        """A cell that nobody waits for any more, of a unit that has ended."""
        if self._closed:
            raise asyncio.CancelledError("the Python session was closed")


def _worked(starting: asyncio.Task[_Warm]) -> bool:
    return not starting.cancelled() and starting.exception() is None
