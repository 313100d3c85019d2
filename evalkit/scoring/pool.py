"""Worker processes for graders that need a main thread of their own, or that may never return.

A grader may use SIGALRM (main thread only), loop inside a C function, or eat all memory; the gather
that calls it may run in a thread. So each item is scored in a spawned worker's main thread, within a
memory limit, and the parent alone keeps the time: a worker whose item passes its deadline is killed
and replaced, that one item becomes a ScorerError, and the rest of its batch is scored by others. It
does not retry: whether a failed grader is asked again is the caller's affair.

The function must be importable (spawned workers import it by name) and report its own failures as
ScorerError; any other exception ends the worker, with a traceback on stderr.
"""

import contextlib
import multiprocessing
import resource
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Generic, Self, TypeVar

from evalkit.errors import ScorerError

Item = TypeVar("Item")
Result = TypeVar("Result")

START_DEADLINE_S = 120.0
"""A spawned interpreter imports the function's module first; on a cold network disk that is slow."""
MOST_PER_BATCH = 32
"""Spares round trips on fast items and still leaves work to share at the end."""
DEFAULT_DEADLINE_S = 60.0
"""Above the sum of math-verify's own limits for one pair (5 + 5 + 2 x 10 s)."""
DEFAULT_MEMORY_BYTES = 4 * 2**30

_SPAWN = multiprocessing.get_context("spawn")


def _work(function: Callable[[Item], Result], connection: Connection, memory_bytes: int) -> None:
    """The worker's main: answer batches until the parent closes the pipe."""
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):  # the parent decides
        signal.signal(number, signal.SIG_IGN)
    _limit_memory(memory_bytes)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    connection.send(None)
    while True:
        try:
            batch = connection.recv()
        except EOFError:
            return
        for item in batch:
            connection.send(_outcome(function, item))


def _limit_memory(memory_bytes: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _outcome(function: Callable[[Item], Result], item: Item) -> Result | ScorerError:
    try:
        return function(item)
    except ScorerError as error:
        return error
    except MemoryError:
        return ScorerError("the grader needs more memory than its worker may use")


def _die_with_parent() -> None:
    """A killed parent closes no loop inside a grader, so the worker watches for its death."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        signal.raise_signal(signal.SIGKILL)


class _Worker(Generic[Item, Result]):
    """One process, the indices it still owes in order, and when its present item is overdue."""

    def __init__(self, function: Callable[[Item], Result], memory_bytes: int) -> None:
        self.connection, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(
            target=_work, args=(function, theirs, memory_bytes), daemon=True
        )
        self.process.start()
        theirs.close()
        self.ready = False
        self.owed: deque[int] = deque()
        self.overdue_at = time.monotonic() + START_DEADLINE_S

    def give(self, indices: Sequence[int], items: Sequence[Item], deadline_s: float) -> None:
        self.owed.extend(indices)
        self.overdue_at = time.monotonic() + deadline_s
        try:
            self.connection.send([items[index] for index in indices])
        except BrokenPipeError:
            return  # it died while idle; its closed pipe is noticed at the next wait

    def end(self) -> int | None:
        """Kill, reap and return the exit code."""
        self.connection.close()
        self.process.kill()
        self.process.join()
        code = self.process.exitcode
        self.process.close()
        return code


class ScoringPool(Generic[Item, Result]):
    """A few workers that apply ``function`` to items; use it as a context manager.

    ``deadline_s`` limits each item's wall time in seconds, ``memory_bytes`` each worker's address
    space. May be called from any thread, by one caller at a time (others wait).
    """

    def __init__(
        self,
        function: Callable[[Item], Result],
        *,
        workers: int = 2,
        deadline_s: float = DEFAULT_DEADLINE_S,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
    ) -> None:
        if workers < 1 or deadline_s <= 0:
            raise ValueError(f"workers={workers} and deadline_s={deadline_s} must be positive")
        self._function = function
        self._size = workers
        self._deadline_s = deadline_s
        self._memory_bytes = memory_bytes
        self._workers: list[_Worker[Item, Result]] = []
        self._lock = threading.Lock()
        self._is_aborted = False

    def abort(self) -> None:
        """End all workers at once, from another thread than that of `score`, which raises ScorerError
        then; nothing is scored any more."""
        self._is_aborted = True
        for worker in list(self._workers):
            with contextlib.suppress(ValueError):  # it has just been reaped
                worker.process.kill()
        if self._lock.acquire(blocking=False):  # nobody is at it who would reap them
            try:
                self._end_all()
            finally:
                self._lock.release()

    def __enter__(self) -> Self:
        with self._lock:
            self._start_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._end_all()

    def score(self, items: Sequence[Item]) -> list[Result | ScorerError]:
        """The result of each item, in order; a ScorerError stands where the grader failed.

        Raises ScorerError where no worker can start at all, RuntimeError outside ``with``.
        """
        with self._lock:
            self._refuse_aborted()
            if not self._workers:
                raise RuntimeError("ScoringPool.score() outside its `with` block")
            return self._score(items)

    def _score(self, items: Sequence[Item]) -> list[Result | ScorerError]:
        todo = deque(range(len(items)))
        results: dict[int, Result | ScorerError] = {}
        per_batch = max(1, min(MOST_PER_BATCH, len(items) // (4 * self._size)))
        try:
            while len(results) < len(items):
                self._refuse_aborted()
                for worker in self._workers:
                    if worker.ready and not worker.owed and todo:
                        batch = [todo.popleft() for _ in range(min(per_batch, len(todo)))]
                        worker.give(batch, items, self._deadline_s)
                self._receive(results, todo)
        except BaseException:
            # Half-read answers would be taken for those of the next call.
            self._end_all()
            if not self._is_aborted:
                self._start_all()
            raise
        return [results[index] for index in range(len(items))]

    def _receive(self, results: dict[int, Result | ScorerError], todo: deque[int]) -> None:
        """Wait for the next message, death or missed deadline and note what it means."""
        busy = [worker for worker in self._workers if worker.owed or not worker.ready]
        patience = min(worker.overdue_at for worker in busy) - time.monotonic()
        spoke = wait([worker.connection for worker in busy], timeout=max(0.0, patience))
        now = time.monotonic()
        for worker in busy:
            if worker.connection in spoke:
                self._note(worker, results, todo)
            elif now >= worker.overdue_at:
                self._bury(worker, f"no result after {self._deadline_s:g} s", results, todo)

    def _note(
        self,
        worker: _Worker[Item, Result],
        results: dict[int, Result | ScorerError],
        todo: deque[int],
    ) -> None:
        try:
            message = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            self._bury(worker, "the worker died", results, todo)
            return
        if not worker.ready:
            worker.ready = True
            return
        results[worker.owed.popleft()] = message
        worker.overdue_at = time.monotonic() + self._deadline_s

    def _bury(
        self,
        worker: _Worker[Item, Result],
        reason: str,
        results: dict[int, Result | ScorerError],
        todo: deque[int],
    ) -> None:
        """Replace a worker; only the item it was at fails, what it had not begun goes back."""
        was_ready, owed = worker.ready, worker.owed
        code = worker.end()
        self._workers.remove(worker)
        self._refuse_aborted()
        if not was_ready:
            raise ScorerError(
                f"a scoring worker could not start (exit code {code})",
                hint=f"Its traceback is on stderr; {self._function!r} must be importable.",
            )
        results[owed.popleft()] = ScorerError(f"grader: {reason} (exit code {code})")
        todo.extendleft(reversed(owed))
        self._workers.append(self._new_worker())

    def _refuse_aborted(self) -> None:
        if self._is_aborted:
            raise ScorerError("the scoring was broken off")

    def _start_all(self) -> None:
        self._workers = [self._new_worker() for _ in range(self._size)]

    def _end_all(self) -> None:
        while self._workers:
            self._workers.pop().end()

    def _new_worker(self) -> _Worker[Item, Result]:
        return _Worker(self._function, self._memory_bytes)
