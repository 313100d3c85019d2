"""How many answers a minute LiveCodeBench's graders judge, and what the tests of a run take on disk.

    python -m bench.livecodebench [--programs N] [--tests T] [--workers W] [--cores C]

Programs that read and write and functions, each on T tests, by W workers on the first C cores; CPU
time is that of the programs. The size is estimated from random integers, packed as the data set packs
its tests, and scaled to the bytes of its files.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import pickle
import random
import time
import zlib

import orjson
import zstandard

from bench.machine import describe
from evalkit.scoring.lcb import PRELOAD, Cases, Grader, ResultCode, Task, Verdict, grade_code
from evalkit.scoring.sandbox import Program, ProgramResult, SandboxPool, find_sandbox

GRADERS: tuple[Grader, ...] = ("ns-compat", "official", "strict-subprocess")
STDIN = "n = int(input())\nprint(sum(map(int, input().split())))\n"
FUNCTION = "class Solution:\n    def total(self, numbers):\n        return sum(numbers)\n"
WINDOW_BYTES = 1.9e9
"""test4.jsonl to test6.jsonl, which hold 443 of the 454 problems of the default window."""


def cases(n_tests: int, *, function: bool) -> Cases:
    """Sums of a hundred numbers."""
    rng = random.Random(0)
    rows = [[rng.randrange(10**9) for _ in range(100)] for _ in range(n_tests)]
    if function:
        return Cases([json.dumps(row) for row in rows], [str(sum(row)) for row in rows])
    return Cases(
        [f"100\n{' '.join(map(str, row))}\n" for row in rows], [f"{sum(row)}\n" for row in rows]
    )


async def judge_all(pool: SandboxPool, task: Task, count: int) -> list[Verdict]:
    """The same task as often as wanted."""

    async def run(program: Program) -> ProgramResult:
        return await asyncio.to_thread(pool.run_one, program)

    return await asyncio.gather(*(grade_code(task, run) for _ in range(count)))


def measure(pool: SandboxPool, task: Task, count: int) -> str:
    """A row's numbers. Raises RuntimeError for a wrong verdict."""
    started = time.perf_counter()
    found = asyncio.run(judge_all(pool, task, count))
    wall_s = time.perf_counter() - started
    wrong = [verdict for verdict in found if verdict.code is not ResultCode.PASSED]
    if wrong:
        raise RuntimeError(f"{task.grader}: {wrong[0]}")
    cpu_ms = 1000 * sum(verdict.cpu_s for verdict in found) / count
    rate = 60 * count / wall_s
    return f"{rate:,.0f} | {rate * len(task.tests):,.0f} | {cpu_ms:.0f} ms"


def estimate_sizes() -> str:
    """Bytes of the window's tests as they are published, and as evalkit keeps them."""
    rng = random.Random(0)
    numbers = " ".join(str(rng.randrange(10**9)) for _ in range(400_000))
    tests = json.dumps([{"input": numbers, "output": "1", "testtype": "stdin"}])
    private = base64.b64encode(zlib.compress(pickle.dumps(tests))).decode()
    content = orjson.dumps(["[]", private])
    kept = len(zstandard.ZstdCompressor(level=1).compress(content)) / len(content)
    return (
        f"Tests of the default window: {WINDOW_BYTES / 1e9:.1f} GB as published, "
        f"{kept * WINDOW_BYTES / 1e9:.1f} GB kept; unpacked {WINDOW_BYTES * len(tests) / len(private) / 1e9:.1f} GB."
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=100)
    parser.add_argument("--tests", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cores", type=int, default=2)
    args = parser.parse_args()
    os.sched_setaffinity(0, range(args.cores))
    print(describe("numpy"))
    print("\n| Grader | tests | kind | answers per minute | tests per minute | CPU each |")
    print("|---|---|---|---|---|---|")
    with SandboxPool(find_sandbox(os.environ), workers=args.workers, preload=PRELOAD) as pool:
        for grader in GRADERS:
            for n_tests in (1, args.tests):
                for name, code in ((None, STDIN), ("total", FUNCTION)):
                    given = cases(n_tests, function=name is not None)
                    task = Task(code, given, name, grader, 60.0)
                    row = measure(pool, task, args.programs)
                    kind = "function" if name else "stdin"
                    print(f"| {grader} | {n_tests} | {kind} | {row} |", flush=True)
    print("\n" + estimate_sizes())


if __name__ == "__main__":
    main()
