"""Runs for benchmarks: a recipe to a prepared run folder, and a replica that works on it here.

The engine is measured as it is used: a real run folder, the real worker with its heartbeat, queue,
journals and running score. Only the time between the first unit and the last is taken out of it.
"""

from __future__ import annotations

import os
import socket
from functools import wraps
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import yaml

from bench.machine import Stopwatch
from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.job import JobInfo
from evalkit.cluster.prepare import PreparedRun, prepare_runs
from evalkit.cluster.session import Session
from evalkit.cluster.worker import run_replica
from evalkit.recipe.load import load_recipe

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from evalkit.store.layout import RunFolder


def addition_recipe(
    base_url: str, model: str, n: int, parallelism: int, generation: Mapping[str, Any]
) -> dict[str, Any]:
    """A recipe of `n` additions against an endpoint that runs already."""
    return {
        "name": "bench",
        "models": {"m": {"id": model}},
        "serving": {"kind": "external", "base_url": base_url, "served_model_name": model},
        "generation": dict(generation),
        "client": {"parallelism": parallelism},
        "tasks": {"addition": {"params": {"n": n}}},
        "cluster": {"executor": "local"},
    }


def prepare(recipe: Mapping[str, Any], folder: Path) -> PreparedRun:
    """A run in `folder`, ready to be worked on. Raises EvalkitError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    settings = {**recipe, "output": {"dir": str(folder / "runs")}}
    path.write_text(yaml.safe_dump(settings), "utf-8")
    env = dict(os.environ)
    [run] = prepare_runs(
        load_recipe(path, env=env),
        env=env,
        command=["bench"],
        clock=SYSTEM_CLOCK,
        on_progress=lambda _: None,
    )
    return run


def work(folder: RunFolder) -> dict[str, float]:
    """Work on a run until nothing is owed; times (s) from its first unit to its last flush.

    Raises EvalkitError when the run failed.
    """
    times: dict[str, float] = {}
    feed = Session._feed

    @wraps(feed)
    async def timed(*args: Any) -> None:
        watch = Stopwatch.start()
        await feed(*args)
        times.update(watch.read())

    with patch.object(Session, "_feed", timed):
        run_replica(folder.root, "r0", this_job())
    return times


def this_job() -> JobInfo:
    """This process as a replica's job."""
    return JobInfo(
        executor="local",
        job_id=str(os.getpid()),
        array_id=None,
        restart_count=0,
        nodes=("localhost",),
        host=socket.gethostname(),
        gpus=None,
        ends=None,
    )
