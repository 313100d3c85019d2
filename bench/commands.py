"""What a person waits for: help, planning, status, resume and gather, at the size of a large run.

    python -m bench.commands [--samples N] [--repeats K] [--mmlu-pro FILE]

The large run has N x K units in about a thousand shards, all but one of them journaled. Every step
runs in a process of its own and is timed with its imports.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.machine import ROOT, Stopwatch, describe, measure, peak_rss_mb
from bench.nginx import instant_mock

if TYPE_CHECKING:
    from collections.abc import Callable

MMLU_PRO = ROOT.parent / "shared" / "data" / "mmlu_pro" / "mmlu_pro_test_2024-10.jsonl.gz"
HELP_ROUNDS = 10


def help_cpu_s() -> float:
    """CPU time (s) of `evalkit --help`, the best of `HELP_ROUNDS`."""
    command = [str(Path(sys.executable).with_name("evalkit")), "--help"]
    found = []
    for _ in range(HELP_ROUNDS):
        before = os.times()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        after = os.times()
        found.append(
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )
    return min(found)


def plan_mmlu_pro(data: str) -> dict[str, Any]:
    """Load, render, freeze and plan all of MMLU-Pro."""
    import yaml

    from evalkit.cluster.planning import plan_runs
    from evalkit.recipe.load import load_recipe

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mmlu.yaml"
        recipe = {
            "models": {"m": {"id": "m"}},
            "serving": {"kind": "external", "base_url": "http://127.0.0.1:9/v1"},
            "tasks": {"mmlu_pro": {"data": {"path": data}}},
            "output": {"dir": folder},
        }
        path.write_text(yaml.safe_dump(recipe), "utf-8")
        [planned] = plan_runs(load_recipe(path, env={}), lambda _: None)
    return {"units": planned.plan.n_units}


def make_run(folder: str, url: str, samples: str, repeats: str) -> dict[str, Any]:
    """The large run."""
    from bench.synthetic import make_large_run

    _, plan = make_large_run(url, int(samples), int(repeats), Path(folder))
    return {"units": plan.n_units, "shards": plan.tasks[0].n_shards}


def mark(folder: str) -> dict[str, Any]:
    """Markers of finished shards, as a worker leaves them."""
    from bench.synthetic import mark_done
    from evalkit.store.layout import RunFolder
    from evalkit.store.run import load_plan

    run = RunFolder(Path(folder))
    mark_done(run, load_plan(run).tasks[0])
    return {}


def unmark(folder: str) -> dict[str, Any]:
    """No markers, and the last unit owed again."""
    from bench.synthetic import undo
    from evalkit.store.layout import RunFolder
    from evalkit.store.run import load_plan

    run = RunFolder(Path(folder))
    undo(run, load_plan(run).tasks[0])
    return {}


def status(folder: str) -> dict[str, Any]:
    """`evalkit status`."""
    from evalkit.clock import SYSTEM_CLOCK
    from evalkit.cluster.status import run_status
    from evalkit.store.layout import RunFolder

    found = run_status(RunFolder(Path(folder)), clock=SYSTEM_CLOCK)
    return {"units": found.done}


def resume(folder: str) -> dict[str, Any]:
    """A resume that finds the one owed unit; `first_request_s` from the start of the process."""
    from bench.runs import work
    from bench.synthetic import OLD, last_shard
    from evalkit.cluster.here import survey_here
    from evalkit.store.codec import unseal
    from evalkit.store.layout import RunFolder
    from evalkit.store.run import load_plan

    started = time.time()
    run = RunFolder(Path(folder))
    plan = load_plan(run)
    survey_here(run, plan)  # as every command does that starts work
    work(run)
    shard = last_shard(plan.tasks[0])
    [journal] = [p for p in run.journals(shard).iterdir() if p != run.journal(shard, OLD)]
    record = unseal(journal.read_bytes().splitlines()[1])
    return {"units": 1, "first_request_s": record["started"] - started}


def gather(folder: str) -> dict[str, Any]:
    """`evalkit gather`."""
    from evalkit.clock import SYSTEM_CLOCK
    from evalkit.report.gather import gather_run
    from evalkit.store.layout import RunFolder
    from evalkit.store.run import load_plan

    run = RunFolder(Path(folder))
    results = gather_run(
        run, load_plan(run), on_progress=lambda _: None, clock=SYSTEM_CLOCK.wall, allow_partial=True
    )
    return {"units": results.tasks[0].counts.expected, "complete": results.complete}


STEPS: dict[str, Callable[..., dict[str, Any]]] = {
    "plan": plan_mmlu_pro,
    "make": make_run,
    "mark": mark,
    "unmark": unmark,
    "status": status,
    "resume": resume,
    "gather": gather,
}


def run_step(name: str, *args: str) -> dict[str, Any]:
    """One step in a process of its own."""
    return measure("bench.commands", ["--step", name, *args])


def show(what: str, target: str, found: dict[str, Any]) -> None:
    """A line of the table."""
    wall = found.get("first_request_s", found["wall_s"])
    print(
        f"{what:44}{target:>16}{wall:9.2f}{found['cpu_s']:8.2f}{found['peak_rss_mb']:9.0f}",
        flush=True,
    )


def measure_all(args: argparse.Namespace, url: str, scratch: Path) -> None:
    """All steps, a line each."""
    print(f"{'what':44}{'target':>16}{'wall s':>9}{'cpu s':>8}{'peak MB':>9}")
    cpu = help_cpu_s()
    print(f"{f'evalkit --help, best of {HELP_ROUNDS}':44}{'0.15 s cpu':>16}{'':9}{cpu:8.3f}")
    show("plan MMLU-Pro", "5 s", run_step("plan", str(args.mmlu_pro)))
    made = run_step("make", str(scratch), url, str(args.samples), str(args.repeats))
    size = f"{made['units']} units, {made['shards']} shards"
    show(f"(make a run: {size})", "", made)
    run = str(scratch / "runs" / "bench")
    run_step("mark", run)
    show("status", "1 s", run_step("status", run))
    show("resume to first request", "10 s", run_step("resume", run))
    run_step("unmark", run)
    show("status, all markers lost", "", run_step("status", run))
    show("resume to first request, all markers lost", "10 s", run_step("resume", run))
    found = run_step("gather", run)
    if not found["complete"]:
        raise RuntimeError("the gathered run is not complete")
    show("gather", "60 s, 1000 MB", found)


def main() -> None:
    """Measure and print; with `--step`, one step only, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--mmlu-pro", type=Path, default=MMLU_PRO, metavar="FILE")
    parser.add_argument("--port", type=int, default=39475)
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step is not None:
        watch = Stopwatch.start()
        found = STEPS[args.step[0]](*args.step[1:])
        print(json.dumps({**watch.read(), "peak_rss_mb": peak_rss_mb(), **found}))
        return
    print(describe("orjson", "zstandard") + "\n")
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory() as scratch,
        instant_mock(Path(folder), args.port, None) as url,
    ):
        measure_all(args, url, Path(scratch))


if __name__ == "__main__":
    main()
