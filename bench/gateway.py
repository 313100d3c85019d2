"""The gateway beside a direct connection: what it takes per request, and by how much it delays one.

    python -m bench.gateway [--requests N] [--parallelism P] [--rounds R]

A bare aiohttp client sends the same bodies to nginx's canned reply and to a gateway before it. The gateway
is one process on one core, as a worker has it: durable calls, a journal on disk, the client with its pool.
The client and nginx share the other core, so that wall times of the gateway are its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson

from bench.machine import ROOT, Stopwatch, describe, measure, peak_rss_mb
from bench.nginx import MODEL, instant_mock
from bench.runs import addition_recipe, prepare
from evalkit.client.calls import CallClient
from evalkit.client.durable import DurableModel
from evalkit.client.request import RequestBuilder
from evalkit.client.target import Target
from evalkit.clock import SYSTEM_CLOCK
from evalkit.recipe.schema import Client
from evalkit.serving.gateway import Gateway, Guest
from evalkit.store.journal import JournalSet
from evalkit.store.work import OpenShard, WorkItem

if TYPE_CHECKING:
    from collections.abc import Iterator

GATEWAY_CORE, OTHER_CORE = 0, 1


def bodies(n: int) -> list[bytes]:
    """Requests of which no two are equal."""
    return [
        orjson.dumps(
            {
                "model": MODEL,
                "messages": [{"role": "user", "content": f"What is {i} + {i * i}? Explain."}],
                "temperature": 0.6,
            }
        )
        for i in range(n)
    ]


async def load(url: str, key: str, n: int, parallelism: int) -> dict[str, Any]:
    """Send all, so many at once; wall and CPU time and latencies (s)."""
    work = iter(bodies(n))
    latencies: list[float] = []
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    connector = aiohttp.TCPConnector(limit=parallelism)

    async def send(session: aiohttp.ClientSession) -> None:
        for body in work:
            begin = time.perf_counter()
            async with session.post(f"{url}/chat/completions", data=body) as response:
                answer = orjson.loads(await response.read())
                if response.status != 200 or not answer["choices"][0]["message"]["content"]:
                    raise RuntimeError(f"status {response.status}: {answer}")
            latencies.append(time.perf_counter() - begin)

    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        watch = Stopwatch.start()
        await asyncio.gather(*(send(session) for _ in range(parallelism)))
        found: dict[str, Any] = watch.read()
    quantiles = statistics.quantiles(latencies, n=100)
    return found | {"median_s": statistics.median(latencies), "p99_s": quantiles[98], "requests": n}


async def serve(url: str, parallelism: int, folder: Path) -> dict[str, float]:
    """A gateway before `url` until standard input ends; it says its address and a key first."""
    recipe = addition_recipe(f"{url}/v1", MODEL, 1, parallelism, {})
    run = prepare(recipe, folder)
    [shard] = run.plan.tasks[0].shards()
    journals = JournalSet()
    writer = journals.open(run.folder.journal(shard, "r0.a1"), run.plan, shard, "r0.a1")
    [key] = run.plan.tasks[0].units(shard)
    item = WorkItem(key, OpenShard(shard, writer, {key}, {}, {}, {}))
    syncing = asyncio.create_task(journals.sync_forever())
    target = Target(f"{url}/v1", MODEL, is_ours=False)
    settings = Client(parallelism=parallelism)
    async with CallClient(target, settings, SYSTEM_CLOCK) as client, Gateway() as gateway:
        builder = RequestBuilder(run.plan.tasks[0].generation, MODEL)
        model = DurableModel(client, builder, None, key, item)
        with gateway.admit(Guest(MODEL, model.relays)) as secret:
            print(f"{gateway.base_url} {secret}", flush=True)
            watch = Stopwatch.start()
            await asyncio.to_thread(sys.stdin.read)
            found = watch.read() | {"peak_rss_mb": peak_rss_mb()}
    syncing.cancel()
    await journals.close()
    return found


@contextmanager
def gateway(url: str, parallelism: int, found: dict[str, float]) -> Iterator[tuple[str, str]]:
    """A gateway on its core: its address and a key; what it took is in `found` at the end."""
    command = ["taskset", "-c", str(GATEWAY_CORE), sys.executable, "-m", "bench.gateway"]
    process = subprocess.Popen(
        [*command, "--side", "gateway", "--url", url, "--parallelism", str(parallelism)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address, key = process.stdout.readline().split()
    yield address, key
    found |= json.loads(process.communicate()[0])


def compare(args: argparse.Namespace) -> None:
    """One line per round and side."""
    print(describe("aiohttp", "orjson"))
    print(f"{args.requests} requests, {args.parallelism} at once; then 300, one at a time\n")
    print(
        f"{'side':9}{'req/s':>8}{'gateway CPU':>14}{'median':>11}{'p99':>11}{'alone':>10}{'MB':>6}"
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        instant_mock(Path(folder), args.port, OTHER_CORE) as url,
    ):
        for _ in range(args.rounds):
            show("direct", *ask(f"{url}/v1", "none", args), {})
            used: dict[str, float] = {}
            with gateway(url, args.parallelism, used) as (address, key):
                found = ask(address, key, args)
            show("gateway", *found, used)


def ask(url: str, key: str, args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Results of a client at full load, and of one that asks one at a time."""
    sizes = ((args.requests, args.parallelism), (300, 1))
    common = ["--url", url, "--key", key]
    many, alone = (
        measure(
            "bench.gateway",
            ["--side", "load", *common, "--requests", str(n), "--parallelism", str(parallelism)],
            OTHER_CORE,
        )
        for n, parallelism in sizes
    )
    return many, alone


def show(side: str, many: dict[str, Any], alone: dict[str, Any], used: dict[str, float]) -> None:
    """A line of the table."""
    own = f"{1e6 * many['cpu_s'] / many['requests']:.0f} us"
    cpu = f"{1e6 * used['cpu_s'] / (many['requests'] + 300):.0f} us" if used else "-"
    print(
        f"{side:9}{many['requests'] / many['wall_s']:8.0f}{own:>13}{cpu:>14}"
        f"{1e3 * many['median_s']:8.0f} ms{1e3 * many['p99_s']:8.0f} ms"
        f"{1e3 * alone['median_s']:7.2f} ms{used.get('peak_rss_mb', 0):6.0f}"
    )


def main() -> None:
    """Measure and print; with `--side`, one side only, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--parallelism", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--port", type=int, default=39475)
    parser.add_argument("--side", choices=["gateway", "load"], help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--key", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side is None:
        compare(args)
    elif args.side == "load":
        print(json.dumps(asyncio.run(load(args.url, args.key, args.requests, args.parallelism))))
    else:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(asyncio.run(serve(args.url, args.parallelism, Path(folder)))))


if __name__ == "__main__":
    main()
