"""Programs of many units at once, from one event loop that never blocks.

A solve that needs an isolated computation between two answers of its model (a simulator, a checker),
and a grader, run a program, which begins from nothing and leaves nothing: no process lives while the model thinks.
The sandbox starts with the first program. One that is lost in the middle is tried again once; then it
is an InfraError, so that the unit is done again, and never a result.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from evalkit.errors import FailureKind, InfraError, ScorerError
from evalkit.scoring.sandbox.pool import SandboxPool
from evalkit.scoring.sandbox.program import Ending, Program

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from evalkit.scoring.sandbox.find import Sandbox
    from evalkit.scoring.sandbox.program import ProgramResult

_HELLO = Program(source="print(6 * 7)", wall_s=30.0, cpu_s=30)


class ProgramPool:
    """Programs of one kind. It starts nothing before the first; `close` ends everything."""

    def __init__(
        self, find: Callable[[], Sandbox], *, preload: Sequence[str] = (), workers: int
    ) -> None:
        """`find` is called in a thread, and raises ScorerError where no sandbox works here; `preload`
        names modules that its interpreter must have; so many `workers` run at once."""
        self._find = find
        self._preload = tuple(preload)
        self._workers = workers
        self._threads = ThreadPoolExecutor(self._workers, "evalkit-program")
        self._starting = asyncio.Lock()
        self._pool: SandboxPool | None = None

    async def run(self, program: Program) -> ProgramResult:
        """Run a program when there is a place for it. Raises InfraError where the sandbox fails twice."""
        try:
            try:
                return await self._run(program)
            except ScorerError:
                return await self._run(program)
        except ScorerError as error:
            raise InfraError(error.message, hint=error.hint, kind=FailureKind.SCORER) from error

    async def check(self) -> None:
        """Run a first program. Raises ScorerError that says why none can be, and what to do."""
        result = await self._run(_HELLO)
        if result.ended is not Ending.OK or result.stdout != b"42\n":
            raise ScorerError(f"a first program in the sandbox ended as {result.ended.value}")

    async def close(self) -> None:
        """End the sandbox, when the programs that run have ended."""
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)
        pool, self._pool = self._pool, None
        if pool is not None:
            await asyncio.to_thread(pool.__exit__, None, None, None)

    async def _run(self, program: Program) -> ProgramResult:
        async with self._starting:
            if self._pool is None:
                self._pool = await asyncio.to_thread(self._start)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._pool.run_one, program)

    def _start(self) -> SandboxPool:
        return SandboxPool(self._find(), workers=self._workers, preload=self._preload).__enter__()
