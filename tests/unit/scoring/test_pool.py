"""Worker processes that score, one item's failure at a time."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from evalkit.errors import ScorerError
from evalkit.scoring.pool import ScoringPool
from tests.unit.scoring.pool_functions import Unloadable, are_equal, grade, main_thread

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def pool() -> Iterator[ScoringPool[str, str]]:
    """Two workers, shared because starting an interpreter takes a while."""
    with ScoringPool(grade, workers=2) as workers:
        yield workers


@pytest.fixture(scope="module")
def hasty() -> Iterator[ScoringPool[str, str]]:
    """Two workers with a short deadline, for what takes longer than any."""
    with ScoringPool(grade, workers=2, deadline_s=3.0) as workers:
        yield workers


def test_results_keep_the_order_of_items(pool: ScoringPool[str, str]) -> None:
    """A few hundred items come back in order, whichever worker had them."""
    items = [f"item {i}" for i in range(300)]
    assert pool.score(items) == [item.upper() for item in items]


def test_no_items_no_results(pool: ScoringPool[str, str]) -> None:
    """An empty list is answered at once."""
    assert pool.score([]) == []


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("fail", "cannot grade this"),
        ("die", r"the worker died \(exit code 7\)"),
        ("bug", r"the worker died \(exit code 1\)"),
        ("grow", "more memory"),
    ],
)
def test_only_the_item_that_failed_fails(
    pool: ScoringPool[str, str], bad: str, reason: str
) -> None:
    """One grader that fails, dies or grows costs one score; all others are there, in order."""
    expect_one_failure(pool, bad, reason)


@pytest.mark.parametrize("bad", ["hang", "loop"])
def test_only_the_item_that_takes_too_long_fails(hasty: ScoringPool[str, str], bad: str) -> None:
    """So does one that hangs."""
    expect_one_failure(hasty, bad, "no result after 3 s")


def expect_one_failure(pool: ScoringPool[str, str], bad: str, reason: str) -> None:
    """Among forty items."""
    items = [f"item {i}" for i in range(40)]
    items[17] = bad
    results = pool.score(items)
    failed = results.pop(17)
    assert isinstance(failed, ScorerError)
    with pytest.raises(ScorerError, match=reason):
        raise failed
    assert results == [item.upper() for item in items if item != bad]


def test_every_item_may_fail(pool: ScoringPool[str, str]) -> None:
    """Workers are replaced as often as it takes."""
    results = pool.score(["die"] * 3)
    assert [type(result) for result in results] == [ScorerError] * 3


def test_an_error_keeps_its_hint(pool: ScoringPool[str, str]) -> None:
    """A ScorerError crosses the process border whole."""
    (error,) = pool.score(["fail"])
    assert isinstance(error, ScorerError)
    assert (error.message, error.hint) == ("cannot grade this", "read it")


def test_items_run_in_a_main_thread() -> None:
    """The function may use SIGALRM, even where the caller is an event loop's helper thread."""
    with ScoringPool(main_thread, workers=1) as workers:
        results = asyncio.run(asyncio.to_thread(workers.score, [None, None]))
    assert results == [True, True]


def test_mathematics_can_be_scored_from_any_thread() -> None:
    """The mathematics grader works through the pool where it cannot work in a thread."""
    pairs = [("70", "\\frac{140}{2}"), ("70", None), ("70", "71")]
    with ScoringPool(are_equal, workers=1) as workers:
        results = asyncio.run(asyncio.to_thread(workers.score, pairs))
    assert results == [True, False, False]


def test_leaving_the_block_ends_the_workers() -> None:
    """No worker outlives its pool, not even one in the middle of an item."""
    before = set(psutil.Process().children())
    with ScoringPool(grade, workers=2, deadline_s=30.0) as workers:
        workers.score(["a"])
        started = set(psutil.Process().children()) - before
        assert len([p for p in started if "spawn_main" in " ".join(p.cmdline())]) == 2
    assert not [p for p in started if p.is_running() and "spawn_main" in " ".join(p.cmdline())]


def test_a_killed_idle_worker_costs_at_most_its_item() -> None:
    """A worker killed from outside is replaced, and later items are scored."""
    with ScoringPool(grade, workers=1) as workers:
        assert workers.score(["a"]) == ["A"]
        victim = psutil.Process(workers._workers[0].process.pid)
        victim.kill()
        first, *rest = workers.score(["a", "b", "c"])
        assert isinstance(first, ScorerError)
        assert rest == ["B", "C"]


def test_workers_die_with_a_killed_parent() -> None:
    """SIGKILL of the scoring process leaves no worker behind, even one inside a C loop."""
    script = (
        "from evalkit.scoring.pool import ScoringPool\n"
        "from tests.unit.scoring.pool_functions import grade\n"
        "if __name__ == '__main__':\n"
        "    with ScoringPool(grade, workers=1) as workers:\n"
        "        workers.score(['a'])\n"
        "        print(workers._workers[0].process.pid, flush=True)\n"
        "        workers.score(['loop'])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT
    ) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        worker.wait(timeout=60)
    assert not worker.is_running()


def test_a_worker_that_cannot_start_is_reported_at_once() -> None:
    """Where the function cannot be loaded in a worker, there is one error for all, and a hint."""
    with (
        pytest.raises(ScorerError, match="could not start"),
        ScoringPool(Unloadable(), workers=1) as workers,
    ):
        workers.score(["a"])


def test_scoring_needs_the_with_block() -> None:
    """A pool that was not entered says so."""
    with pytest.raises(RuntimeError, match="with"):
        ScoringPool(grade).score(["a"])


@pytest.mark.parametrize(("workers", "deadline_s"), [(0, 1.0), (1, 0.0)])
def test_impossible_settings_are_refused(workers: int, deadline_s: float) -> None:
    """A pool without workers or without time is refused when it is made."""
    with pytest.raises(ValueError, match="must be positive"):
        ScoringPool(grade, workers=workers, deadline_s=deadline_s)
