"""What it costs to start evalkit: CPU time of short commands and of the modules that jobs begin with.

    python -m bench.start [--rounds N] [--against CHECKOUT]

Each step is a process of its own over a run of `recipes/demo.yaml` that was prepared and has no answers.
With another checkout, both take turns.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.machine import ROOT, describe

ROUNDS = 5


def steps(runs: Path) -> dict[str, list[str]]:
    """What is started, by its name: arguments of Python."""
    recipe, output = str(ROOT / "recipes" / "demo.yaml"), f"output.dir={runs}"
    run = str(runs / "demo")
    return {
        "python -c pass": ["-c", "pass"],
        "status RUN": ["-m", "evalkit", "status", run],
        "logs RUN": ["-m", "evalkit", "logs", run],
        "ls tasks": ["-m", "evalkit", "ls", "tasks"],
        "prepare": ["-m", "evalkit", "prepare", recipe, "-o", output],
        "submit --dry-run": ["-m", "evalkit", "submit", "--dry-run", recipe, "-o", output],
        "gather RUN": ["-m", "evalkit", "gather", "--allow-partial", run],
        "the worker's module": ["-c", "import evalkit.cluster.worker"],
        "the grading's module": ["-c", "import evalkit.cluster.grading"],
    }


def cpu_s(arguments: list[str], checkout: Path) -> float:
    """CPU time (s) of one process, its children included. Code that was compiled before is used."""
    env = {**os.environ, "PYTHONPATH": str(checkout), "EVALKIT_REGISTRY": "off"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    before = os.times()
    subprocess.run(
        [sys.executable, *arguments],
        cwd=checkout,
        env=env,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT")
    arguments = parser.parse_args()
    sides = [ROOT, *([arguments.against.absolute()] if arguments.against else [])]
    print(describe())
    with tempfile.TemporaryDirectory() as folder:
        of_side = {side: steps(Path(folder) / str(n)) for n, side in enumerate(sides)}
        for side, commands in of_side.items():
            cpu_s(commands["prepare"], side)
        for name in of_side[ROOT]:
            rounds = [
                [cpu_s(commands[name], side) for side, commands in of_side.items()]
                for _ in range(arguments.rounds)
            ]
            best = [f"{min(each):.2f} s" for each in zip(*rounds, strict=True)]
            print(f"{name:22} {'  '.join(best)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
