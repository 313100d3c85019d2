"""vLLM's engine core, which no marker and no `/health` tells of: hung, and left behind by a kill."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.cluster.attempts import read_attempts
from evalkit.serving import tree
from tests.integration.conftest import REPOSITORY, SERVED_NAME, vllm_serving
from tests.integration.test_kill_and_resume import KEY, finish, journal_lines, start
from tests.unit.serving.support import writing_to
from tests.unit.worker.test_prepare import load, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from evalkit.store.layout import RunFolder
    from tests.integration.conftest import VllmServer

N = 600
MORE = 40
"""Records between two faults."""
STALL_S = 4.0
POLL_S = 0.05
RECIPE: dict[str, Any] = {
    "generation": {"temperature": 0, "max_tokens": 128},
    "tasks": {"addition": {"params": {"n": N}}},
}


def prepare_run(folder: Path, name: str, **changes: Any) -> RunFolder:
    """A run that has its plan; the recipe is beside it."""
    folder.mkdir()
    output = {"dir": str(folder / "runs"), "name": name}
    return prepare(load(folder, **RECIPE, **changes, output=output))[0].folder


def quiet_run(folder: Path, server: VllmServer) -> RunFolder:
    """The same questions for the server that nothing happens to."""
    serving = {"kind": "external", "base_url": server.endpoint.base_url, "api_key_env": KEY}
    run = prepare_run(folder, "run", models={"demo": {"id": SERVED_NAME}}, serving=serving)
    finish(start(folder / "recipe.yaml", "run", server))
    return run


@contextlib.contextmanager
def working(run: RunFolder) -> Iterator[subprocess.Popen[bytes]]:
    """An attempt of the run in a process of its own."""
    command = [sys.executable, str(REPOSITORY / "tests" / "faults" / "worker_process.py")]
    with subprocess.Popen(
        [*command, str(run.root), "r0", "--probe-s", "3"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    """Look again and again; the worker must not end before."""
    while not condition():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_S)
            raise AssertionError("the worker ended before its time")


def engine_cores(run: RunFolder) -> list[tree.Process]:
    """Engine cores of the run, as they name themselves."""
    return [p for p in writing_to(run.root) if command(p).startswith("VLLM::EngineCore")]


def command(process: tree.Process) -> str:
    """What the kernel shows of it."""
    try:
        text = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
    return text.replace("\0", " ").strip()


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_engine_core_hangs_and_is_left_behind(
    vllm_server: VllmServer, demo_checkpoint: Path, tmp_path: Path
) -> None:
    """A stopped engine behind a healthy server is found and replaced; one that a kill of worker, keeper
    and server left behind is ended by the next attempt; and the artifacts are those of a quiet run."""
    quiet = quiet_run(tmp_path / "quiet", vllm_server)
    serving = vllm_serving(stream_interval=16, shutdown_timeout_s=5)
    run = prepare_run(
        tmp_path / "hit",
        "run",
        models={"demo": {"path": str(demo_checkpoint)}},
        serving=serving.model_dump(mode="json", exclude_defaults=True),
        client={"parallelism": 4, "stall_timeout_s": STALL_S},
    )
    log = run.worker_log("r0", 1)
    with working(run) as worker:
        until(lambda: journal_lines(run) >= MORE, worker)
        [engine] = engine_cores(run)
        [keeper] = [p for p in writing_to(run.root) if "keeper.py" in command(p)]
        assert engine.session == keeper.session == keeper.pid
        tree.send([engine], signal.SIGSTOP)
        before = journal_lines(run)
        until(lambda: "the server hangs" in log.read_text(), worker)
        assert "a request for one token failed" in log.read_text()
        until(lambda: journal_lines(run) >= before + MORE, worker)
        assert tree.read_process(engine.pid) is None
        assert read_attempts(run)[0].server_starts == 2
        [engine] = engine_cores(run)
        everything = {worker.pid, *(p.pid for p in writing_to(run.root))}
        engines = tree.find_below(tree.find_processes(), {engine.pid})
        for pid in everything - engines:
            os.kill(pid, signal.SIGKILL)
    is_left = tree.read_process(engine.pid) is not None
    with working(run) as worker:
        assert worker.wait() == 0
    assert tree.read_process(engine.pid) is None
    assert writing_to(run.root) == []
    said = f"r0.a1, which is over, had left processes on {os.uname().nodename} ({engine.pid}"
    for text in (run.worker_log("r0", 2).read_text(), run.stdout.read_text()):
        assert (said in text) == is_left
    finish(start(tmp_path / "hit" / "recipe.yaml", "run", vllm_server))
    assert run.samples("addition").read_bytes() == quiet.samples("addition").read_bytes()
    assert run.metrics("addition").read_bytes() == quiet.metrics("addition").read_bytes()
