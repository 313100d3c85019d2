"""How many small programs a minute run in the sandbox, in each backend that works here.

    python -m bench.sandbox [--programs N] [--workers W] [--cores C]

Every kind of program is run N times by a pool of W workers on the first C cores. A program reads a line
and prints its square; with numpy it does so through an array. `source` runs in the forked warm
interpreter, `argv` in an interpreter of its own. CPU time is that of all processes, of the sandbox's
start as well.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

from bench.machine import describe
from evalkit.errors import ScorerError
from evalkit.scoring.sandbox import Program, Sandbox, SandboxPool, probe, view_of
from evalkit.scoring.sandbox.backends import safe_backends

SQUARE = "n = int(input())\nprint(n * n)\n"
WITH_NUMPY = "import numpy as np\nprint(np.square(np.array([int(input())]))[0])\n"


def programs(source: str, count: int, *, fresh: bool) -> list[Program]:
    """The same program with other numbers."""
    argv = (sys.executable, "main.py")
    files = {"main.py": source.encode()}
    made = Program(argv=argv, files=files) if fresh else Program(source=source)
    return [replace(made, stdin=b"%d\n" % n) for n in range(count)]


def measure_kind(
    sandbox: Sandbox, workers: int, preload: tuple[str, ...], kind: list[Program]
) -> str:
    """A row: programs per minute, CPU per program. Raises RuntimeError for a wrong answer."""
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
    with SandboxPool(sandbox, workers=workers, preload=preload) as pool:
        pool.run(kind[:workers])
        start = time.perf_counter()
        results = pool.run(kind)
        wall = time.perf_counter() - start
    for n, result in enumerate(results):
        if isinstance(result, ScorerError) or result.stdout != b"%d\n" % n**2:
            raise RuntimeError(f"program {n}: {result}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime
    rate, each = 60 * len(kind) / wall, 1000 * spent / len(kind)
    return f"{rate:,.0f} | {each:.1f} ms"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cores", type=int, default=2)
    args = parser.parse_args()
    os.sched_setaffinity(0, range(args.cores))
    print(describe("numpy"))
    print("\n| Sandbox | program | per minute | CPU each |\n|---|---|---|---|")
    for finding in probe(safe_backends(os.environ, None), view_of(Path(sys.executable))):
        if finding.sandbox is None:
            print(f"| {finding.backend.name} | {finding.reason} | | |")
            continue
        single = replace(finding.sandbox, mode="single")
        few = max(20, args.programs // 10)
        plain, numpy = (), ("numpy",)
        for sandbox, name, preload, kind in (
            (finding.sandbox, "source", plain, programs(SQUARE, args.programs, fresh=False)),
            (
                finding.sandbox,
                "source, numpy",
                numpy,
                programs(WITH_NUMPY, args.programs, fresh=False),
            ),
            (finding.sandbox, "argv", plain, programs(SQUARE, args.programs, fresh=True)),
            (finding.sandbox, "argv, numpy", plain, programs(WITH_NUMPY, few, fresh=True)),
            (single, "source", plain, programs(SQUARE, few, fresh=False)),
            (single, "argv", plain, programs(SQUARE, few, fresh=True)),
        ):
            print(
                f"| {sandbox.name} | {name} | {measure_kind(sandbox, args.workers, preload, kind)} |"
            )


if __name__ == "__main__":
    main()
