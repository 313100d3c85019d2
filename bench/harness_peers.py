"""Other harnesses on the same mock, as processes of an interpreter that has them.

    PYTHON -m bench.harness_peers inspect|lm-eval --url URL --requests N --parallelism P

They ask the questions of a data set of their own making, generate with their client for endpoints like
vLLM's, and score by looking for the answer in the text; each is told to run as many at once as evalkit.
The time is that of their whole evaluation call. Needs nothing of evalkit.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from importlib import import_module
from pathlib import Path

from bench.machine import Stopwatch, peak_rss_mb

MODEL = "canned"
MAX_TOKENS = 128


def questions(n: int) -> list[dict[str, str]]:
    """n additions with their answers."""
    pairs = ((i * 7919 % 1000, i * 104729 % 1000) for i in range(n))
    return [{"question": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in pairs]


def run_inspect(url: str, n: int, parallelism: int, folder: Path) -> dict[str, float]:
    """inspect_ai with its provider for OpenAI-compatible endpoints."""
    inspect = import_module("inspect_ai")
    models = import_module("inspect_ai.model")
    sample = import_module("inspect_ai.dataset").Sample
    task = inspect.Task(
        dataset=[sample(input=q["question"], target=q["answer"]) for q in questions(n)],
        solver=import_module("inspect_ai.solver").generate(),
        scorer=import_module("inspect_ai.scorer").includes(),
    )
    config = models.GenerateConfig(
        temperature=0.0, max_tokens=MAX_TOKENS, max_connections=parallelism
    )
    model = models.get_model(
        f"openai-api/bench/{MODEL}", base_url=f"{url}/v1", api_key="none", config=config
    )
    watch = Stopwatch.start()
    [log] = inspect.eval(
        task, model=model, max_samples=parallelism, display="none", log_dir=str(folder)
    )
    if log.status != "success":
        raise RuntimeError(f"inspect ended with {log.status}: {log.error}")
    return watch.read()


def run_lm_eval(url: str, n: int, parallelism: int, folder: Path) -> dict[str, float]:
    """lm-evaluation-harness with its client for OpenAI-compatible chat endpoints."""
    data = folder / "questions.jsonl"
    data.write_text("".join(json.dumps(q) + "\n" for q in questions(n)), "utf-8")
    task = {
        "task": "addition",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": [], "temperature": 0.0, "max_gen_toks": MAX_TOKENS},
        "metric_list": [{"metric": "exact_match"}],
    }
    arguments = {
        "model": MODEL,
        "base_url": f"{url}/v1/chat/completions",
        "num_concurrent": parallelism,
        "tokenized_requests": False,
    }
    lm_eval = import_module("lm_eval")
    watch = Stopwatch.start()
    lm_eval.simple_evaluate(
        model="local-chat-completions",
        model_args=arguments,
        tasks=[task],
        apply_chat_template=True,
        bootstrap_iters=0,
    )
    return watch.read()


def main() -> None:
    """Run one harness; prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=["inspect", "lm-eval"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--parallelism", type=int, required=True)
    args = parser.parse_args()
    run = run_inspect if args.side == "inspect" else run_lm_eval
    with tempfile.TemporaryDirectory() as folder:
        times = run(args.url, args.requests, args.parallelism, Path(folder))
    print("\n" + json.dumps({"requests": args.requests, "peak_rss_mb": peak_rss_mb(), **times}))


if __name__ == "__main__":
    main()
