"""Running scores: within their budget, of the right units, and never a hindrance."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.benchmarks.contract import BenchmarkParams, Sample, Score, Solution
from evalkit.benchmarks.registry import make_benchmark
from evalkit.cluster import running_score
from evalkit.cluster.running_score import ScoreBudget, ScoresBeside, UnitScore
from evalkit.report.aggregate import RepeatScores
from tests.unit.report.run_builder import Echo

if TYPE_CHECKING:
    from collections.abc import Mapping


SAMPLE = Sample("s", target="42")
ANSWER = Solution("\\boxed{42}")


class Parts(Echo):
    """Two of three parts are right."""

    score_weights: Mapping[str, str] = {Echo.metric: "n_parts"}  # type: ignore[misc]

    def score(self, sample: Sample, solution: Solution) -> Score:
        """A count, and what it is a share of."""
        return Score({self.metric: 2.0, "n_parts": 3.0})


class Broken(Echo):
    """Its scorer fails."""

    def score(self, sample: Sample, solution: Solution) -> Score:
        """Raises."""
        raise ZeroDivisionError


def made(cls: type[Echo]) -> Echo:
    return cls(BenchmarkParams(), "card")


def test_score_of_a_unit() -> None:
    """A share of parts brings their number; a scorer that fails, or says nothing, gives no score."""
    budget = ScoreBudget()
    assert budget.score(made(Parts), SAMPLE, ANSWER) == UnitScore(2.0, 3.0)
    assert budget.score(made(Broken), SAMPLE, ANSWER) is None


def test_scorers_keep_to_their_share_of_the_loop() -> None:
    """One that took longer than its credit is asked again when its share has grown."""
    now = [0.0]

    class Slow(Parts):
        def score(self, sample: Sample, solution: Solution) -> Score:
            now[0] += 1.0
            return super().score(sample, solution)

    budget, slow = ScoreBudget(lambda: now[0]), made(Slow)
    assert budget.score(slow, SAMPLE, ANSWER) is not None
    assert budget.score(slow, SAMPLE, ANSWER) is None
    now[0] = (1.0 - running_score.CREDIT_S) / running_score.SHARE + 0.1
    assert budget.score(slow, SAMPLE, ANSWER) is not None
    assert budget.score(slow, SAMPLE, ANSWER) is None


async def test_slow_scorers_run_beside_the_work() -> None:
    """Mathematics needs a main thread: it is scored in a process, and the loop goes on meanwhile."""
    benchmark = make_benchmark("aime2025", {}, "card")
    beside, scores = ScoresBeside(), []
    running = asyncio.create_task(beside.run())
    done = asyncio.Event()

    def give(score: UnitScore) -> None:
        scores.append(score)
        if len(scores) == 2:
            done.set()

    beside.put(benchmark, SAMPLE, ANSWER, give)
    beside.put(benchmark, SAMPLE, Solution("\\boxed{43}"), give)
    assert scores == []
    await done.wait()
    assert scores == [UnitScore(1.0), UnitScore(0.0)]
    running.cancel()
    beside.close()
    beside.put(benchmark, SAMPLE, ANSWER, give)  # after the end, it is not kept


@pytest.mark.parametrize("place", ["__enter__", "score"])
@pytest.mark.parametrize(
    "error", [running_score.ScorerError("no process"), OSError(11, "no fork"), MemoryError()]
)
async def test_no_process_is_no_failure(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    place: str,
    error: Exception,
) -> None:
    """Where the scorer's process cannot be had, there is no running score, and nothing else."""

    def refuse(*_: object, **__: object) -> Any:
        raise error

    monkeypatch.setattr(running_score.Scorer, "__enter__", lambda scorer: scorer)
    monkeypatch.setattr(running_score.Scorer, place, refuse)
    benchmark, beside, scores = make_benchmark("aime2025", {}, "card"), ScoresBeside(), []
    running = asyncio.create_task(beside.run())
    beside.put(benchmark, SAMPLE, ANSWER, scores.append)
    waiting = beside._waiting[benchmark.name]
    while not waiting.is_given_up:
        await asyncio.sleep(0)
    assert scores == []
    assert not running.done()
    beside.put(benchmark, SAMPLE, ANSWER, scores.append)
    assert not waiting.items
    assert caplog.text.count("no running score of aime2025") == 1
    running.cancel()
    beside.close()


async def test_score_without_its_weight_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A plug-in that forgets what its score is a share of loses its running score, and the log says why."""
    benchmark, beside, scores = make_benchmark("aime2025", {}, "card"), ScoresBeside(), []
    monkeypatch.setattr(type(benchmark), "score_weights", {benchmark.metric: "parts"})
    monkeypatch.setattr(running_score.Scorer, "__enter__", lambda scorer: scorer)
    found = RepeatScores("42", {benchmark.metric: 1.0})
    monkeypatch.setattr(running_score.Scorer, "score", lambda *_: [found])
    running = asyncio.create_task(beside.run())
    beside.put(benchmark, SAMPLE, ANSWER, scores.append)
    while not beside._waiting[benchmark.name].is_given_up:
        await asyncio.sleep(0)
    assert scores == []
    assert not running.done()
    assert "KeyError: 'parts'" in caplog.text
    running.cancel()
    beside.close()


def test_what_needs_no_finding() -> None:
    """A task that is graded shows scores before that only of samples that need none; one whose scores are
    of the whole task shows none."""
    hle = make_benchmark("hle", {}, "card")
    assert not hle.scores_ungraded(SAMPLE)
    bfcl = make_benchmark("bfcl_v4", {}, "card")
    simple = Sample("s", data={"category": "simple_python"})
    dialogue = Sample("s", data={"category": "multi_turn_base"})
    assert (bfcl.scores_ungraded(simple), bfcl.scores_ungraded(dialogue)) == (True, False)
    assert made(Echo).scores_ungraded(SAMPLE)
    command = {"command": ["x"], "results": {"file": "x.json", "metrics": {"m": "m"}}, "shards": 1}
    assert not make_benchmark("command", command, "card").scores_ungraded(SAMPLE)
