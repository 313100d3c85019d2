"""The sides of the engine's comparison, each run as a process: `python -m bench.sides SIDE ...`.

Prints one line of JSON: requests, wall_s, cpu_s and peak_rss_mb.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from bench.machine import Stopwatch, peak_rss_mb
from bench.nginx import MODEL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    import aiohttp
    import openai

GENERATION = {"temperature": 0.0, "max_tokens": 128}
MOST_SAMPLES = 20_000
"""Larger runs repeat these, so that what grows with the requests is told from what the data takes."""


def bodies(n: int) -> list[bytes]:
    """Request bodies of the `addition` benchmark as evalkit sends them, for a client to repeat."""
    from evalkit.benchmarks.addition import Addition, AdditionParams
    from evalkit.benchmarks.data import DataAccess
    from evalkit.client.request import RequestBuilder
    from evalkit.recipe.schema import DataOverride, Generation

    benchmark = Addition(AdditionParams(n=n), "card")
    samples = benchmark.load(DataAccess("addition", DataOverride(), Path())).samples
    builder = RequestBuilder(Generation.model_validate(GENERATION), MODEL)
    return [builder.chat(sample.messages, 0).payload for sample in samples]


async def _bare(session: aiohttp.ClientSession, url: str, work: Iterator[bytes]) -> None:
    for body in work:
        async with session.post(url, data=body) as response:
            orjson.loads(await response.read())


async def bare(url: str, payloads: Iterable[bytes], parallelism: int) -> dict[str, float]:
    """aiohttp as its manual shows it: bytes out, JSON in, and nothing else."""
    import aiohttp

    work = iter(payloads)
    headers = {"Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=parallelism)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        target = f"{url}/v1/chat/completions"
        return await _timed(lambda: _bare(session, target, work), parallelism)


async def _openai(client: openai.AsyncOpenAI, work: Iterator[dict[str, Any]]) -> None:
    for body in work:
        answer = await client.chat.completions.create(**body)
        if answer.choices[0].message.content is None:
            raise RuntimeError("an answer without content")


async def run_openai(url: str, n: int, parallelism: int, *, aiohttp: bool) -> dict[str, float]:
    """The `openai` package, as it comes (httpx) or with its aiohttp back end."""
    import openai

    some = [orjson.loads(body) for body in bodies(min(n, 1000))]
    work = itertools.islice(itertools.cycle(some), n)
    transport = openai.DefaultAioHttpClient() if aiohttp else None
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key="none", http_client=transport
    ) as client:
        return await _timed(lambda: _openai(client, work), parallelism)


async def _timed(worker: Callable[[], Awaitable[None]], parallelism: int) -> dict[str, float]:
    watch = Stopwatch.start()
    await asyncio.gather(*(worker() for _ in range(parallelism)))
    return watch.read()


def run_evalkit(url: str, n: int, parallelism: int, folder: str | None) -> dict[str, float]:
    """A whole run of evalkit: requests built, journaled on disk, scored and counted."""
    from bench.runs import addition_recipe, prepare, work

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        samples = min(n, MOST_SAMPLES)
        recipe = addition_recipe(f"{url}/checked/v1", MODEL, samples, parallelism, GENERATION)
        recipe["tasks"]["addition"]["repeats"] = n // samples
        run = prepare(recipe, Path(scratch))
        times = work(run.folder)
        lines = sum(
            path.read_bytes().count(b"\n") - 1 for path in run.folder.root.glob("journal/*/*/*")
        )
        if lines != n:
            raise RuntimeError(
                f"{lines} records in the journals, not {n}: take a multiple of {MOST_SAMPLES}"
            )
        return times


def main() -> None:
    """Run one side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=["bare", "evalkit", "openai", "openai-aiohttp"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--parallelism", type=int, required=True)
    parser.add_argument("--folder", help="where the run folder is made; by default in /tmp")
    args = parser.parse_args()
    n, parallelism = args.requests, args.parallelism
    if args.side == "evalkit":
        result = run_evalkit(args.url, n, parallelism, args.folder)
    elif args.side == "bare":
        payloads = itertools.islice(itertools.cycle(bodies(min(n, 1000))), n)
        result = asyncio.run(bare(args.url, payloads, parallelism))
    else:
        with_aiohttp = args.side == "openai-aiohttp"
        result = asyncio.run(run_openai(args.url, n, parallelism, aiohttp=with_aiohttp))
    print(json.dumps({"requests": n, "peak_rss_mb": peak_rss_mb(), **result}))


if __name__ == "__main__":
    main()
