"""Many Python sessions from one event loop, in a real sandbox."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from evalkit.errors import FailureKind, InfraError, ScorerError
from evalkit.scoring.sandbox import CellEnding, PooledSession, SessionPool
from evalkit.scoring.sandbox.backends import Unsafe
from evalkit.scoring.sandbox.find import Sandbox
from evalkit.scoring.sandbox.view import view_of
from tests.integration.sandbox.conftest import expect_gone, kill_all
from tests.integration.sandbox.sandboxes import make_sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

PATIENCE_S = 100
SLEEP = "import time; time.sleep(600)"


def unsafe(_: Path) -> Sandbox:
    """No sandbox at all."""
    return Sandbox(Unsafe(), view_of(Path(sys.executable)), "unsafe")


KINDS: dict[str, Callable[[Path], Sandbox]] = {
    "bwrap-nested": lambda folder: make_sandbox("bwrap-nested", folder),
    "namespaces-single": lambda folder: make_sandbox("namespaces-single", folder),
    "unsafe": unsafe,
}


@pytest.fixture(params=KINDS)
async def pool(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SessionPool]:
    """A pool of one core; afterwards no process of it is left."""
    before = set(psutil.Process().children(recursive=True))
    running = SessionPool(lambda: KINDS[request.param](tmp_path), cores=1)
    yield running
    await running.close()
    expect_gone(before)


async def test_sessions_at_once(pool: SessionPool) -> None:
    """Each of many sessions keeps its own state, and the loop goes on while cells run."""
    await pool.check()

    async def count(number: int) -> list[str]:
        async with pool.session() as session:
            await session.execute(f"x = {number}", PATIENCE_S)
            return [(await session.execute("x += 1; x", PATIENCE_S)).text for _ in range(3)]

    found = await asyncio.gather(*(count(number) for number in range(5)))
    assert found == [[str(n + 1), str(n + 2), str(n + 3)] for n in range(5)]


async def test_recalled_cells(pool: SessionPool) -> None:
    """Cells of an earlier process run before the first new one, and those recalled later, too."""
    async with pool.session() as session:
        session.recall("x = [1]")
        session.recall("x.append(2)")
        first = await session.execute("x.append(3); x", PATIENCE_S)
        assert (first.text, first.restored) == ("[1, 2, 3]", 2)
        session.recall("x.append(4)")
        second = await session.execute("x", PATIENCE_S)
        assert (second.text, second.restored) == ("[1, 2, 3, 4]", 4)


async def test_cancelled_cell(pool: SessionPool) -> None:
    """A cell that is cancelled ends its session at once, and leaves nothing in the way of others."""
    async with pool.session() as session:
        await session.execute("x = 1", PATIENCE_S)
        running = asyncio.create_task(session.execute(SLEEP, 600))
        waiting = asyncio.create_task(session.execute("x", PATIENCE_S))
        await until_started(session)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        with pytest.raises(InfraError, match="was closed"):
            await waiting
    async with pool.session() as session:
        assert (await session.execute("1 + 1", PATIENCE_S)).text == "2"


async def test_session_that_is_closed_under_a_cell(pool: SessionPool) -> None:
    """A cell that nobody waits for any more is cancelled: it failed nobody."""
    async with pool.session() as session:
        running = asyncio.create_task(session.execute(SLEEP, 600))
        await until_started(session)
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(asyncio.CancelledError):
        await session.execute("1", PATIENCE_S)


async def until_started(session: PooledSession) -> None:
    """Until its interpreter is there, and a cell on its way."""
    while (
        session._session is None
        or session._session._channel is None
        or not session._turn.locked()  # a cell before it made the interpreter
    ):
        await asyncio.sleep(0.01)


async def test_places_are_limited(pool: SessionPool) -> None:
    """So many sessions live, no more; who waits gets the place of one that ends, and loses nothing."""
    limited = SessionPool(pool._find, cores=1)
    limited.places = asyncio.Semaphore(2)
    async with limited.session() as first, limited.session() as second:
        await first.execute("x = 1", PATIENCE_S)
        await second.execute("x = 2", PATIENCE_S)
        third = limited.session()
        waiting = asyncio.create_task(third.execute("3", PATIENCE_S))
        assert (await first.execute("x", PATIENCE_S)).text == "1"
        assert not waiting.done()
        await second.close()
        assert (await waiting).text == "3"
        await third.close()
    await limited.close()


async def test_lost_sandbox_is_made_anew() -> None:
    """A sandbox that is killed costs the cells nothing but a second run."""
    sandbox = make_sandbox("bwrap-nested", Path())
    before = set(psutil.Process().children(recursive=True))
    pool = SessionPool(lambda: sandbox, cores=2)
    async with pool.session() as session:
        await session.execute("x = 5", PATIENCE_S)
        kill_all(set(psutil.Process().children(recursive=True)) - before)
        found = await session.execute("x", PATIENCE_S)
        assert (found.ended, found.text, found.restored) == (CellEnding.OK, "5", 1)
    await pool.close()
    expect_gone(before)


async def test_sandbox_that_cannot_be_had() -> None:
    """A check says why, and what to do; a cell ends as a failure of ours that may pass."""
    error = ScorerError("nothing works", hint="install it", kind=FailureKind.CONFIG)
    found: list[Sandbox] = []

    def find() -> Sandbox:
        if not found:
            raise error
        return found[0]

    pool = SessionPool(find, cores=2)
    with pytest.raises(ScorerError) as raised:
        await pool.check()
    assert raised.value is error
    async with pool.session() as session:
        with pytest.raises(InfraError, match="nothing works") as lost:
            await session.execute("1", PATIENCE_S)
    assert (lost.value.hint, lost.value.kind) == ("install it", FailureKind.SCORER)
    found.append(make_sandbox("bwrap-nested", Path()))
    await pool.check()
    await pool.close()


async def test_module_that_is_not_there() -> None:
    """A session whose interpreter lacks what a benchmark needs is refused, with the module's name."""
    pool = SessionPool(
        lambda: make_sandbox("bwrap-nested", Path()), preload=("json", "no_such"), cores=1
    )
    with pytest.raises(ScorerError, match="No module named 'no_such'"):
        await pool.check()
    await pool.close()
