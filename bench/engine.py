"""Engine throughput on an instant mock: evalkit's whole path beside bare aiohttp.

    python -m bench.engine [--requests N] [--large N] [--rounds R] [--parallelism P] [--peers]
                           [--harnesses PYTHON]

The client has one core and nginx the other. Sides run in turn, `rounds` times each; the best of each
side counts, because what else runs on the machine can only slow a round down. evalkit builds requests,
journals every reply on disk and scores it; bare aiohttp posts ready bytes and parses the JSON.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import describe, measure
from bench.nginx import instant_mock

CLIENT_CORE, SERVER_CORE = 0, 1
TARGET = 0.60


@dataclass(frozen=True, slots=True)
class Best:
    """The best rounds of one side."""

    side: str
    per_wall_s: float
    """Requests per second."""
    per_cpu_s: float
    """Requests per second of the client's CPU time: what other load moves least."""
    peak_rss_mb: float


def best_of(side: str, rounds: list[dict[str, Any]]) -> Best:
    """The best of each measure over a side's rounds; the largest memory."""
    return Best(
        side,
        max(r["requests"] / r["wall_s"] for r in rounds),
        max(r["requests"] / r["cpu_s"] for r in rounds),
        max(r["peak_rss_mb"] for r in rounds),
    )


def compare(
    url: str, requests: dict[str, int], rounds: int, common: list[str]
) -> dict[str, list[dict[str, Any]]]:
    """Results of all rounds by side. `requests` says how many each side sends."""
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in requests}
    for _ in range(rounds):
        for side, n in requests.items():
            args = [side, "--url", url, "--requests", str(n), *common]
            found[side].append(measure("bench.sides", args, CLIENT_CORE))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=40_000)
    parser.add_argument("--large", type=int, default=0, help="also evalkit's memory at this size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parallelism", type=int, default=64)
    parser.add_argument("--port", type=int, default=39471)
    parser.add_argument("--peers", action="store_true", help="also the openai package")
    parser.add_argument(
        "--harnesses", metavar="PYTHON", help="an interpreter with inspect_ai and lm_eval[api]"
    )
    args = parser.parse_args()
    sides = {"bare": args.requests, "evalkit": args.requests}
    if args.peers:
        sides |= {"openai": args.requests // 15, "openai-aiohttp": args.requests // 15}
    print(describe("aiohttp", "orjson", "openai"))
    print(f"{args.requests} requests, {args.parallelism} at once, best of {args.rounds}\n")
    common = ["--parallelism", str(args.parallelism)]
    with (
        tempfile.TemporaryDirectory() as folder,
        instant_mock(Path(folder), args.port, SERVER_CORE) as url,
    ):
        found = compare(url, sides, args.rounds, common)
        large = compare(url, {"evalkit": args.large} if args.large else {}, 1, common)
        table = {side: best_of(side, rounds) for side, rounds in found.items()}
        if args.harnesses:
            for side in ("inspect", "lm-eval"):
                n = args.requests // 40
                table[side] = harness(url, side, n, common, args.harnesses)
    print_table(table)
    small_rss = table["evalkit"].peak_rss_mb
    for result in large.get("evalkit", []):
        print(
            f"\npeak memory of evalkit: {small_rss:.0f} MB at {args.requests} requests, "
            f"{result['peak_rss_mb']:.0f} MB at {args.large}"
        )


def harness(url: str, side: str, n: int, common: list[str], python: str) -> Best:
    """A harness by the difference between 3n and n requests: its start is not held against it."""
    small, large = (
        measure(
            "bench.harness_peers",
            [side, "--url", url, "--requests", str(size), *common],
            CLIENT_CORE,
            python,
        )
        for size in (n, 3 * n)
    )
    return Best(
        side,
        2 * n / (large["wall_s"] - small["wall_s"]),
        2 * n / (large["cpu_s"] - small["cpu_s"]),
        large["peak_rss_mb"],
    )


def print_table(table: dict[str, Best]) -> None:
    """One line per side, each beside bare aiohttp."""
    bare = table["bare"]
    print(f"{'side':16}{'req/s':>8}{'ratio':>7}{'req/cpu-s':>11}{'ratio':>7}{'peak MB':>9}")
    for best in table.values():
        print(
            f"{best.side:16}{best.per_wall_s:8.0f}{best.per_wall_s / bare.per_wall_s:7.2f}"
            f"{best.per_cpu_s:11.0f}{best.per_cpu_s / bare.per_cpu_s:7.2f}{best.peak_rss_mb:9.0f}"
        )
    print(f"\ntarget: evalkit at {TARGET:.2f} of bare or better")


if __name__ == "__main__":
    main()
