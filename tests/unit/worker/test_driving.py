"""Programs of units: one that does nothing any more is ended, and no log of one keeps a secret."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from evalkit.client import drive as drives
from evalkit.client.relayed import Asked, Relays
from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.driving import SharedGateway, TaskDriver
from evalkit.errors import EvalkitError, FailureKind, InfraError, ProgramHungError, StoreError
from evalkit.harnesses.driven import run_program
from evalkit.plan.model import UnitKey
from evalkit.serving import tree
from evalkit.store.layout import RunFolder
from evalkit.store.records import Outcome, Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

KEY = UnitKey(3, 0)
SECRET = "sk-judge/of-mine"
IDLE_S = 0.1
# Waits for something that never comes, with a child in another session that no signal ends.
HANGS = """
import signal, subprocess, sys, threading
stay = "import signal, time; signal.signal(2, signal.SIG_IGN); signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(99)"
child = subprocess.Popen([sys.executable, "-c", stay], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
print("up", flush=True)
threading.Event().wait()
"""


class Unit:
    """A unit whose calls are answered when `answer` is set."""

    max_model_len = None

    def __init__(self) -> None:
        self.answer = asyncio.Event()
        self.relays = Relays(self.call, (), lambda error: error)

    async def call(self, asked: Asked) -> Reply:
        """Answer one call."""
        await self.answer.wait()
        return Reply(Outcome.OK, "said")

    async def failed(self) -> EvalkitError:
        """Never."""
        await asyncio.Event().wait()
        raise AssertionError


@asynccontextmanager
async def driving(
    folder: Path, unit: Unit, idle_s: float | None = IDLE_S
) -> AsyncIterator[drives.Drive]:
    """A place for a program of the unit."""
    run = RunFolder(folder)
    shared = SharedGateway(SYSTEM_CLOCK, idle_s, (SECRET,))
    mark = f"run{os.getpid()}{folder.name[-6:]}-r0.a1-0"
    driver = TaskDriver(shared, run, "lines", "tiny", "r0.a1", mark)
    try:
        async with driver.drive(KEY, unit) as found:
            yield found
    finally:
        await driver.close()
    left = [tree.read_marker(pid) or "" for pid in tree.find_processes()]
    assert not [each for each in left if each.startswith(mark)], "nothing outlives its unit"


async def test_program_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not while a call is in flight, however long that takes; then all of it is ended, and the error says
    what, how long, where the log is, what to do, and where the program was."""
    unit = Unit()
    looks = 0
    size = drives._size

    def look(path: Path) -> int:
        nonlocal looks
        looks += 1
        if looks > 3 * drives.LOOKS and path.exists() and b"up" in path.read_bytes():
            loop.call_soon_threadsafe(unit.answer.set)
        return size(path)

    monkeypatch.setattr(drives, "_size", look)
    loop = asyncio.get_running_loop()
    async with driving(tmp_path, unit) as found:
        asking = asyncio.create_task(ask(unit))
        await asyncio.sleep(0)
        assert unit.relays.in_flight == 1
        with pytest.raises(InfraError) as caught:
            await run_program(found, [sys.executable, "-c", HANGS], {})
        assert await asking == "said"
    assert looks > 3 * drives.LOOKS
    error = caught.value
    assert error.kind is FailureKind.CONFIG
    first, *rest = error.message.splitlines()
    assert " hung and was ended: for 0.1 s it had no request in flight, made none" in first
    assert "nothing into its log harness/lines/3-0/r0.a1/program.log" in first
    assert "needs a longer client.program_idle_s, or null" in first
    assert rest[0] == "up"
    assert rest[-1] == "KeyboardInterrupt"


async def ask(unit: Unit) -> str:
    """One request of the program."""
    async with unit.relays.asking("chat/completions", {"messages": []}) as reply:
        return reply.content


async def test_words_and_requests_are_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that writes, or asks and is answered between two looks, is not ended before it stops."""
    unit = Unit()
    unit.answer.set()
    looks = 0
    busy = 3 * drives.LOOKS

    def look(path: Path) -> int:
        nonlocal looks
        looks += 1
        if busy < looks <= 2 * busy:
            asyncio.run_coroutine_threadsafe(ask(unit), loop).result()
        return min(looks, busy)

    monkeypatch.setattr(drives, "_size", look)
    loop = asyncio.get_running_loop()
    async with driving(tmp_path, unit) as found:
        with pytest.raises(ProgramHungError, match="sleep hung"):
            await found.run(["sleep", "99"], {}, "program.log")
    assert looks >= 2 * busy + drives.LOOKS


async def test_no_limit(tmp_path: Path) -> None:
    """Null waits for the program's own end."""
    async with driving(tmp_path, Unit(), None) as found:
        assert await found.run(["sh", "-c", "exit 3"], {}, "program.log") == 3


async def test_secrets_in_the_log(tmp_path: Path) -> None:
    """What a program says of a key that it was given is in neither its log nor the unit's error."""
    async with driving(tmp_path, Unit()) as found:
        command = ["sh", "-c", 'echo "key: $K, gateway: $G"; exit 1']
        env = {"K": SECRET, "G": found.api_key}
        with pytest.raises(InfraError, match=r"key: \*\*\*, gateway: \*\*\*$") as caught:
            await run_program(found, command, env)
        log = found.folder / "program.log"
        killed = found.folder.with_name("r0.a0") / "program.log"
        killed.parent.mkdir()
        killed.write_text(f"before the kill: {SECRET}")
        assert SECRET not in caught.value.message
    async with driving(tmp_path, Unit()):
        assert killed.read_text() == "before the kill: ***"
    assert log.read_text().startswith("key: ***, gateway: ***\n")


async def test_a_log_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who ends a program by cancelling it finds it cancelled; another end says what is wrong."""

    def fail(path: Path, secrets: object) -> None:
        raise StoreError(f"cannot read {path}: Input/output error")

    monkeypatch.setattr("evalkit.cluster.driving.redact_file", fail)
    async with driving(tmp_path, Unit(), None) as found:
        running = asyncio.create_task(found.run(["sh", "-c", "echo; exec sleep 99"], {}, "a.log"))
        while not (found.folder / "a.log").exists():
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert "secrets may be left in a log: cannot read" in caplog.text
        with pytest.raises(StoreError, match="cannot read"):
            await found.run(["true"], {}, "b.log")
