"""A rate limit in front of a real vLLM: how near to it evalkit comes, and how often it is refused.

    python -m bench.hosted [--requests N] [--per-minute R] [--burst B]

The demo checkpoint is served as `recipes/demo.yaml` says, behind a proxy with a token bucket that refuses
with 429 and Retry-After in whole seconds. evalkit is told of neither rate nor burst. The proxy's ledger
says what came of it; what the full bucket let through at the start is not counted as rate.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.machine import ROOT, describe
from bench.real_vllm import KEY, KEY_VARIABLE, demo_server, evalkit_side, make_run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evalkit.serving.endpoint import Endpoint

PARALLELISM = 64


@contextmanager
def limited(upstream: str, port: int, args: argparse.Namespace) -> Iterator[str]:
    """Root URL of the proxy."""
    command = [sys.executable, "-m", "tests.faults.rate_proxy", "--port", str(port)]
    command += ["--upstream", upstream, "--requests-per-s", str(args.per_minute / 60)]
    command += ["--burst", str(args.burst), "--styles", "seconds"]
    with subprocess.Popen(command, cwd=ROOT) as proxy:
        try:
            root = f"http://127.0.0.1:{port}"
            while not is_up(root):
                time.sleep(0.1)
            yield root
        finally:
            proxy.terminate()


def is_up(root: str) -> bool:
    """Whether the proxy answers."""
    try:
        read_ledger(root)
    except OSError:
        return False
    return True


def read_ledger(root: str) -> dict[str, Any]:
    """When calls were accepted and refused."""
    with urllib.request.urlopen(f"{root}/_ledger") as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def summarise(ledger: dict[str, Any], args: argparse.Namespace) -> str:
    """The rate that was reached beside the one that was allowed."""
    accepted, refused = ledger["accepted"][1:], ledger["refused"]  # the first is the preflight
    minutes = (accepted[-1] - accepted[0]) / 60
    reached = (len(accepted) - args.burst) / minutes
    share = len(refused) / (len(refused) + len(accepted))
    return (
        f"allowed {args.per_minute:g} calls a minute, burst {args.burst:g}\n"
        f"reached {reached:.1f} ({reached / args.per_minute:.3f}) over {60 * minutes:.0f} s\n"
        f"refused {len(refused)} of {len(refused) + len(accepted)} tries ({share:.3f})"
    )


def main() -> None:
    """Start the server and the proxy, and run once."""
    parser = argparse.ArgumentParser(description="A real vLLM behind a rate limit.")
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--per-minute", type=float, default=240)
    parser.add_argument("--burst", type=float, default=30)
    parser.add_argument("--port", type=int, default=18400)
    args = parser.parse_args()
    os.environ[KEY_VARIABLE] = KEY
    print(describe())
    with tempfile.TemporaryDirectory(prefix="evalkit-bench-") as name:
        folder = Path(name)
        with demo_server(folder, args.port) as (endpoint, _):
            run_limited(endpoint, folder, args)


def run_limited(endpoint: Endpoint, folder: Path, args: argparse.Namespace) -> None:
    """One run through the proxy; prints what came of it."""
    with limited(endpoint.base_url.removesuffix("/v1"), args.port + 50, args) as root:
        hosted = dataclasses.replace(endpoint, base_url=f"{root}/v1")
        run = make_run(hosted, args.requests, PARALLELISM, folder / "run")
        found = evalkit_side(run.folder)
        print(summarise(read_ledger(root), args))
        print(f"{found['requests']} of {args.requests} units done, {found['wall_s']:.0f} s")


if __name__ == "__main__":
    main()
