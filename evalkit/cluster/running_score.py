"""Running scores: what is shown while a run works. A result never comes from here: a gather scores anew.

Most scorers take microseconds and are called where the unit ends, as long as they keep to a small share
of that loop's time. Those that are slow or need a main thread (`parallel_scoring`) are asked in one
process beside the work, an answer at a time. Whatever there is no time for has no running score.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from evalkit.clock import SYSTEM_CLOCK
from evalkit.errors import ScorerError
from evalkit.report.scorer import Scorer

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalkit.benchmarks.contract import Benchmark, Sample, Solution

    Give: TypeAlias = "Callable[[UnitScore], None]"

log = logging.getLogger("evalkit.worker")

SHARE = 0.02
"""Of an event loop's time that scorers may take."""
CREDIT_S = 0.5
"""What they may take before that counts: imports, and the first answers."""
MOST_WAITING = 4096
"""Answers that wait for the process beside the work; later ones are left out."""
BATCH = 16
DEADLINE_S = 60.0
"""Of one answer in that process. The first one brings imports along, sympy's among them, which take long on a
busy node: with less the process would be ended in the middle of them, again and again."""


class UnitScore(NamedTuple):
    """A unit's score, and what it is a share of: 1, or the parts that the scores count."""

    value: float
    weight: float = 1.0


class ScoreBudget:
    """Scores on the event loop, within a share of its time."""

    def __init__(self, monotonic: Callable[[], float] = SYSTEM_CLOCK.monotonic) -> None:
        self._monotonic = monotonic
        self._began = monotonic()
        self._spent_s = 0.0

    def score(
        self, benchmark: Benchmark[Any], sample: Sample, solution: Solution
    ) -> UnitScore | None:
        """The unit's score; null where it fails, and where there is no time for it."""
        began = self._monotonic()
        if self._spent_s > CREDIT_S + SHARE * (began - self._began):
            return None
        try:
            return try_score(benchmark, sample, solution)
        finally:
            self._spent_s += self._monotonic() - began


def try_score(benchmark: Benchmark[Any], sample: Sample, solution: Solution) -> UnitScore | None:
    """A unit's score; null where that fails, which the log has."""
    try:
        return of_values(benchmark, benchmark.score(sample, solution).values)
    except Exception:
        # A benchmark is a plug-in: the gather scores again and reports the failure for what it is.
        log.exception("score of %s failed on sample %s", benchmark.name, sample.id)
        return None


def of_values(benchmark: Benchmark[Any], values: Any) -> UnitScore | None:
    """The headline's part of a unit's scores; null where it has none."""
    value = values.get(benchmark.metric)
    weight = benchmark.score_weights.get(benchmark.metric)
    if value is None:
        return None
    return UnitScore(value, 1.0 if weight is None else values[weight])


@dataclass(slots=True)
class _Waiting:
    """Answers to one benchmark that wait for their scores."""

    benchmark: Benchmark[Any]
    scorer: Scorer
    items: deque[tuple[Sample, Solution, Give]] = field(default_factory=deque)
    is_started: bool = False
    is_given_up: bool = False

    @classmethod
    def on(cls, benchmark: Benchmark[Any]) -> _Waiting:
        """Nothing yet, and no process."""
        return cls(benchmark, Scorer(benchmark, parallel=True, workers=1, deadline_s=DEADLINE_S))

    def unit_scores(self, items: list[tuple[Sample, Solution]]) -> list[UnitScore | None]:
        """From the process; null for a unit without one. Raises ScorerError where there can be none."""
        if not self.is_started:
            self.scorer.__enter__()
            self.is_started = True
        return [
            None if isinstance(found, ScorerError) else of_values(self.benchmark, found.values)
            for found in self.scorer.score(items)
        ]

    def give_up(self) -> None:
        """Ask no more."""
        self.is_given_up = True
        self.items.clear()


class ScoresBeside:
    """Scores in a process beside the work. Used from one event loop; `run` is its task there."""

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}
        self._there = asyncio.Event()

    def put(
        self, benchmark: Benchmark[Any], sample: Sample, solution: Solution, give: Give
    ) -> None:
        """Have an answer scored; `give` gets the score on this loop, if there is one."""
        waiting = self._waiting.get(benchmark.name)
        if waiting is None:
            waiting = self._waiting[benchmark.name] = _Waiting.on(benchmark)
        if len(waiting.items) < MOST_WAITING and not waiting.is_given_up:
            waiting.items.append((sample, solution, give))
            self._there.set()

    async def run(self) -> None:
        """Score until cancelled."""
        while True:
            await self._there.wait()
            self._there.clear()
            for waiting in list(self._waiting.values()):
                while waiting.items:
                    await self._score_some(waiting)

    async def _score_some(self, waiting: _Waiting) -> None:
        taken = [waiting.items.popleft() for _ in range(min(BATCH, len(waiting.items)))]
        items = [(sample, solution) for sample, solution, _ in taken]
        try:
            scores = await asyncio.to_thread(waiting.unit_scores, items)
        except ScorerError as error:
            log.warning("no running score of %s: %s", waiting.benchmark.name, error)
            waiting.give_up()
            return
        except Exception:
            # No room for a process, or a plug-in's fault: the work goes on without, and the gather tells.
            log.exception("no running score of %s", waiting.benchmark.name)
            waiting.give_up()
            return
        for (_, _, give), score in zip(taken, scores, strict=True):
            if score is not None:
                give(score)

    def close(self) -> None:
        """End the processes at once, whatever they are at."""
        for waiting in self._waiting.values():
            waiting.is_given_up = True
            waiting.scorer.abort()
