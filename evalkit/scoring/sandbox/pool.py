"""Runs many programs, a few at a time, in one warm sandbox.

A program's namespaces are made in a few milliseconds; an interpreter's start takes ten times that, and
numpy's import a hundred times. So the pool keeps one zygote with the modules that a grader names, and
runs as many programs at once as it is told to, by default one per core: a time limit in seconds means
something only while each program has a core of its own.

It does not retry: a ScorerError says that the sandbox failed, and whether to ask again is the
caller's affair.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from evalkit.errors import ScorerError
from evalkit.scoring.sandbox.find import ANSWER_GRACE_S
from evalkit.scoring.sandbox.program import ProgramResult, to_job, to_result

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from evalkit.scoring.sandbox.find import Sandbox
    from evalkit.scoring.sandbox.program import Program


class SandboxPool:
    """Runs programs, at most `workers` at once; use it as a context manager. Thread-safe."""

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        workers: int = 2,
        preload: Sequence[str] = (),
        optional: Sequence[str] = (),
    ) -> None:
        """`preload` names modules of the sandbox's interpreter that `source` programs find imported,
        `optional` those that they find if it has them."""
        if workers < 1:
            raise ValueError(f"workers={workers} must be positive")
        self._sandbox = sandbox
        self._zygote = sandbox.zygote(preload, optional)
        self._workers = workers
        self._free = threading.BoundedSemaphore(workers)

    def __enter__(self) -> Self:
        self._zygote.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._zygote.__exit__(kind, error, trace)

    def run_one(self, program: Program) -> ProgramResult:
        """Wait for a free place and run it. Raises ScorerError where the sandbox fails.

        Blocks; from an event loop call it through `asyncio.to_thread`.
        """
        with self._free, self._zygote.open(program.limits.scratch_bytes) as channel:
            job = to_job(program, self._sandbox.processes_beside())
            return to_result(channel.ask(job, program.wall_s + ANSWER_GRACE_S))

    def run(self, programs: Iterable[Program]) -> list[ProgramResult | ScorerError]:
        """The result of each, in order; a ScorerError stands where the sandbox failed."""
        with ThreadPoolExecutor(self._workers) as threads:
            return list(threads.map(self._outcome, programs))

    def _outcome(self, program: Program) -> ProgramResult | ScorerError:
        try:
            return self.run_one(program)
        except ScorerError as error:
            return error
