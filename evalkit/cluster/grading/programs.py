"""Programs of a grader, run in the sandbox beside the event loop."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from evalkit.scoring.sandbox import SandboxPool, find_sandbox

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from evalkit.benchmarks.contract import SandboxNeeds
    from evalkit.scoring.sandbox import Program, ProgramResult


def program_slots() -> int:
    """How many programs run at once: a time limit means something while each has a core of its own."""
    return len(os.sched_getaffinity(0))


class ProgramRunner:
    """A warm sandbox and the threads that wait for it; use it as a context manager."""

    def __init__(self, needs: SandboxNeeds, env: Mapping[str, str]) -> None:
        """Raises ScorerError where no sandbox works on this machine."""
        sandbox = find_sandbox(env, interpreter=needs.interpreter, readonly=needs.readonly)
        self._pool = SandboxPool(sandbox, workers=program_slots(), preload=needs.preload)
        self._threads = ThreadPoolExecutor(program_slots(), "evalkit-program")

    def __enter__(self) -> Self:
        self._pool.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._pool.__exit__(kind, error, trace)

    async def run(self, program: Program) -> ProgramResult:
        """Run one program. Raises ScorerError where the sandbox fails."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._pool.run_one, program)
