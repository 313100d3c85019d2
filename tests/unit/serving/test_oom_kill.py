"""A server whose process the kernel took: told by the count of its control group."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import pytest

from evalkit.serving import server as server_module
from evalkit.serving.server import start_server
from evalkit.serving.tree import MARKER

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("before", "after", "is_oom"),
    [(3, 4, True), (3, 3, False), (None, 1, True), (None, None, False), (0, None, False)],
)
async def test_kills_during_a_servers_life(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: int | None,
    after: int | None,
    is_oom: bool,
) -> None:
    """A count that rose since the start is the cause of an end, whatever its exit code."""
    counts = iter([before])
    monkeypatch.setattr(server_module, "oom_kills", lambda: next(counts, after))
    env = {MARKER: "test-oom", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", "import sys; sys.stdin.read(); sys.exit(1)"]
    server = start_server(command, env, tmp_path / "server.log", 1.0, tmp_path / "cache")
    await server.stop(1.0)
    assert server.was_oom_killed is is_oom


async def test_a_server_that_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills of other processes of the job say nothing about a server that lives."""
    counts = iter([0])
    monkeypatch.setattr(server_module, "oom_kills", lambda: next(counts, 5))
    env = {MARKER: "test-oom-alive", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    server = start_server(command, env, tmp_path / "server.log", 1.0, tmp_path / "cache")
    assert not server.was_oom_killed
    await server.stop(1.0)


async def test_a_server_that_ignores_the_order(tmp_path: Path) -> None:
    """Within a limit a deaf server is killed without the keeper's margin, and all of it is gone."""
    env = {MARKER: "test-deaf", "PATH": "/usr/bin:/bin"}
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(3600)"
    server = start_server(
        [sys.executable, "-c", deaf], env, tmp_path / "server.log", 3600.0, tmp_path / "cache"
    )
    while not server.log():
        await asyncio.sleep(0.01)
    await server.stop(3600.0, 0.0)
    assert not server.find_processes()
