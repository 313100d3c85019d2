"""The suite at full size against an endpoint with one canned answer: wall time and memory of all stages.

    python -m bench.suite [--shared FOLDER]

What is at hand in full: MMLU-Pro (12,032), AIME 2025 (30 x 64), IFBench (294 x 8), SciCode (80 problems x 8,
not graded for want of its targets) and BFCL without web search and vector memory. Each stage is a command
in a process of its own; its memory is that of the largest of its processes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from bench.machine import ROOT, describe
from bench.nginx import MODEL, instant_mock

PARALLELISM = 256
PORT = 18764


def write_recipe(folder: Path, shared: Path, base_url: str) -> Path:
    """The card's repeats; short answers, since they are canned."""
    tasks: dict[str, Any] = {
        "mmlu_pro": {"repeats": 1, "data": {"path": "mmlu_pro/mmlu_pro_test_2024-10.jsonl.gz"}},
        "aime2025": {"repeats": 64, "data": {"path": "aime2025/aime2025.jsonl"}},
        "ifbench": {
            "repeats": 8,
            "data": {"path": "ifbench/IFBench_test_294.jsonl"},
            "params": {"without_tagger": True},
        },
        "scicode": {"repeats": 8, "data": {"path": "scicode"}},
        "bfcl_v4": {"repeats": 1},
    }
    for task in tasks.values():
        if "data" in task:
            task["data"] = {"path": str(shared / task["data"]["path"]), "allow_altered": True}
    recipe = {
        "name": "suite",
        "models": {"m": {"id": MODEL}},
        "serving": {"kind": "external", "base_url": base_url, "max_model_len": 262_144},
        "generation": {"max_tokens": 1024},
        "client": {"parallelism": PARALLELISM},
        "tasks": tasks,
        "output": {"dir": str(folder / "runs")},
    }
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def stage(*arguments: str, codes: tuple[int, ...] = (0,)) -> dict[str, float]:
    """Wall and CPU time (s) and peak memory (MB) of a command. Raises RuntimeError when it fails."""
    started, before = time.perf_counter(), os.times()
    done = subprocess.run(
        [sys.executable, "-m", "evalkit", *arguments], capture_output=True, text=True, check=False
    )
    after = os.times()
    if done.returncode not in codes:
        raise RuntimeError(f"evalkit {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    cpu_s = after.children_user + after.children_system
    return {
        "wall_s": time.perf_counter() - started,
        "cpu_s": cpu_s - before.children_user - before.children_system,
        "peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }


def show(name: str, numbers: dict[str, float]) -> None:
    """A row; the memory is the largest so far, for so the kernel counts it."""
    print(
        f"{name:28} {numbers['wall_s']:8.1f} s {numbers['cpu_s']:8.1f} s CPU "
        f"{numbers['peak_mb']:8.0f} MB"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Run the suite against a canned endpoint.")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared" / "data")
    shared = parser.parse_args().shared
    print(describe("evalkit"))
    with tempfile.TemporaryDirectory(prefix="evalkit-suite-") as name:
        folder = Path(name)
        with instant_mock(folder, PORT, None) as mock:
            recipe = str(write_recipe(folder, shared, f"{mock}/checked/v1"))
            show("prepare", stage("prepare", recipe))
            run = str(folder / "runs" / "suite")
            show("status", stage("status", run))
            # 10: SciCode and the requests for NLTK's tagger have no score here
            show("run, grade and gather", stage("run", recipe, codes=(0, 10)))
            show("gather", stage("gather", run, codes=(0, 10)))
            for path in sorted((folder / "runs" / "suite" / "artifacts").glob("*/results.json")):
                results = json.loads(path.read_bytes())
                counts, headline = results["counts"], results["headline"]
                print(
                    f"{results['task']:12} {counts['scored']:6,} of {counts['expected']:6,} units, "
                    f"{counts['calls']:7,} calls, {headline['name']} {headline['percent']}"
                )


if __name__ == "__main__":
    main()
