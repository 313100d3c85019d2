"""A server's end when things go wrong: its keeper killed, its processes hidden or not to be ended."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from evalkit.cluster.failures import classify, is_retryable
from evalkit.errors import FailureKind, ServingError
from evalkit.serving import tree
from evalkit.serving.server import Server, start_server

if TYPE_CHECKING:
    from pathlib import Path

# As vLLM's engine core: what the kernel shows of its environment is gone. Then it loses its parent.
ENGINE = [sys.executable, "-I", "-S", "-c", "import time; print(1, flush=True); time.sleep(300)"]
SERVER = f"""
import subprocess, time
subprocess.Popen({ENGINE!r}, env={{}}, start_new_session=SESSION)
time.sleep(300)
"""


async def start(folder: Path, code: str, name: str) -> Server:
    """A server whose engine has said that it is there."""
    env = {tree.MARKER: name, "PATH": os.defpath}
    command = [sys.executable, "-I", "-S", "-c", code]
    server = start_server(command, env, folder / "server.log", 5.0, folder / "cache")
    while not server.log():
        await asyncio.sleep(0.01)
    return server


@pytest.mark.parametrize("session", [True, False])
async def test_hidden_orphans_are_ended(tmp_path: Path, session: bool) -> None:
    """With keeper and server killed, an engine without a marker is found: by its log, by its session."""
    server = await start(
        tmp_path, SERVER.replace("SESSION", str(session)), f"unit-{os.getpid()}-hidden"
    )
    processes = server.find_processes()
    [engine] = [p for p in processes if tree.read_marker(p.pid) is None]
    # the keeper first: it would end the engine of a server that is gone
    for process in sorted(processes - {engine}, key=lambda process: process.pid != server.pid):
        os.kill(process.pid, signal.SIGKILL)
    while server.is_alive or any(tree.read_process(p.pid) for p in processes - {engine}):
        await asyncio.sleep(0.01)
    if not session:
        (tmp_path / "server.log").unlink()
    assert {p.pid for p in server.find_processes()} == {engine.pid}
    await server.stop(1.0)
    assert tree.read_process(engine.pid) is None


async def test_a_killed_keeper_takes_the_server_along(tmp_path: Path) -> None:
    """SIGTERM reaches the server when its keeper is killed, without anybody of evalkit."""
    code = "import time; print(1, flush=True); time.sleep(300)"
    server = await start(tmp_path, code, f"unit-{os.getpid()}-alone")
    [process] = [p for p in server.find_processes() if p.pid != server.pid]
    os.kill(server.pid, signal.SIGKILL)
    while tree.read_process(process.pid) is not None:
        await asyncio.sleep(0.01)
    await server.stop(0.0)


async def test_what_survives_a_kill_is_the_nodes_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that hangs in the kernel ends the attempt as a hang, which another node may cure."""
    server = await start(tmp_path, ENGINE[-1], f"unit-{os.getpid()}-stuck")
    await server.stop(0.0)
    stuck = tree.Process(1, 0, 1, 1)
    monkeypatch.setattr(tree, "end_tree", lambda *_: {stuck})
    with pytest.raises(ServingError, match="survive SIGKILL: 1") as caught:
        await server.stop(0.0)
    failure = classify(caught.value, node="n1")
    assert (failure.kind, failure.node) == (FailureKind.SERVER_HANG, "n1")
    assert is_retryable(failure.kind)
