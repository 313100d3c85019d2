"""Scheduling on a slow endpoint: evalkit's wall time against the list-scheduling bound.

    python -m bench.latency [--requests N] [--parallelism P] [--sigma S] [--rounds R]

Answers of the mock take a lognormal time that their request determines. The bound is what the same
latencies take when each request starts, in evalkit's order, the moment one of P slots is free, on
machines that cost nothing. Nothing is subtracted from what was measured; how late the mock itself was
is shown beside it, and so is a bare aiohttp client with the same requests in the same order.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.machine import ROOT, describe, measure
from bench.nginx import MODEL
from bench.runs import addition_recipe, prepare, work
from bench.sides import GENERATION, bare
from bench.slow_mock import MEDIAN_S, SIGMA, latency_s
from evalkit.client.request import RequestBuilder
from evalkit.cluster.units import TaskWork

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evalkit.cluster.prepare import PreparedRun

CLIENT_CORE, SERVER_CORE = 0, 1
TARGET = 1.03


def list_schedule(latencies: Sequence[float], slots: int) -> float:
    """Makespan (s) of greedy list scheduling: each job in order goes to the slot that is free first."""
    free = [0.0] * slots
    for latency in latencies:
        heapq.heapreplace(free, free[0] + latency)
    return max(free)


def bodies_in_order(run: PreparedRun) -> list[bytes]:
    """The request bodies of a run, in the order in which one worker sends them."""
    task = run.plan.tasks[0]
    samples = TaskWork.load(run.folder, task, MODEL).samples
    builder = RequestBuilder(task.generation, MODEL)
    keys = [key for shard in task.shards() for key in task.units(shard)]
    return [builder.chat(samples[key.sample].messages, key.repeat).payload for key in keys]


def make_run(url: str, n: int, parallelism: int, folder: Path) -> PreparedRun:
    """A run of `n` additions with open answers against the mock; no two are alike in many."""
    recipe = addition_recipe(f"{url}/v1", MODEL, n, parallelism, GENERATION)
    recipe["tasks"]["addition"]["params"]["digits"] = 9
    return prepare(recipe, folder)


def side(args: argparse.Namespace) -> dict[str, float]:
    """Wall time and bound of one side, measured in this process."""
    url = f"http://127.0.0.1:{args.port}"
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(url, args.requests, args.parallelism, Path(folder))
        bodies = bodies_in_order(run)
        latencies = [latency_s(body, args.sigma) for body in bodies]
        if args.side == "evalkit":
            times = work(run.folder)
        else:
            times = asyncio.run(bare(url, bodies, args.parallelism))
    bounds = {
        "bound_s": list_schedule(latencies, args.parallelism),
        "work_s": sum(latencies) / args.parallelism,
        "longest_s": max(latencies),
    }
    return {**times, **bounds}


@contextmanager
def slow_mock(port: int, sigma: float) -> Iterator[str]:
    """The mock as a process on its own core; the context is its root URL."""
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, "-m", "bench.slow_mock"]
    server = subprocess.Popen(
        [*command, "--port", str(port), "--sigma", str(sigma)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        if server.stdout is None or not server.stdout.readline():
            raise RuntimeError("the mock did not start")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def compare(args: argparse.Namespace) -> None:
    """All rounds of both sides, in turn; prints a line each."""
    print(describe("aiohttp", "orjson"))
    print(
        f"{args.requests} requests, {args.parallelism} at once, latency lognormal with median "
        f"{MEDIAN_S} s and sigma {args.sigma}\n"
    )
    print(
        f"{'side':9}{'wall s':>8}{'bound s':>9}{'ratio':>7}{'cpu s':>7}{'mock late: mean, p99 ms':>26}"
    )
    options = ["--port", str(args.port), "--requests", str(args.requests)]
    options += ["--parallelism", str(args.parallelism), "--sigma", str(args.sigma)]
    ratios: dict[str, list[float]] = {"bare": [], "evalkit": []}
    with slow_mock(args.port, args.sigma) as url:
        for name in [*ratios] * args.rounds:
            found = measure("bench.latency", ["--side", name, *options], CLIENT_CORE)
            late = _get(f"{url}/lateness")
            ratios[name].append(found["wall_s"] / found["bound_s"])
            print(
                f"{name:9}{found['wall_s']:8.2f}{found['bound_s']:9.2f}{ratios[name][-1]:7.3f}"
                f"{found['work_s']:8.2f}{found['longest_s']:11.2f}{found['cpu_s']:7.1f}"
                f"{late['mean'] * 1e3:17.2f}, {late['p99'] * 1e3:.2f}"
            )
    best = {name: min(values) for name, values in ratios.items()}
    print(f"\nbest: bare {best['bare']:.3f}, evalkit {best['evalkit']:.3f}; target {TARGET}")


def _get(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def main() -> None:
    """Measure and print; with `--side`, one side only, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=12_288)
    parser.add_argument("--parallelism", type=int, default=512)
    parser.add_argument("--sigma", type=float, default=SIGMA)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--port", type=int, default=39473)
    parser.add_argument("--side", choices=["bare", "evalkit"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side is None:
        compare(args)
    else:
        print(json.dumps(side(args)))


if __name__ == "__main__":
    main()
