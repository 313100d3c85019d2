"""Every benchmark on a real vLLM, from its data to its artifacts, undisturbed and killed in the middle.

The model has seen nothing but sums, so scores near zero are right; what is tested is that everything that
is sent, parsed, run, judged and written fits together.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml
import zstandard

from evalkit.store.layout import RunFolder
from tests.faults.harness import finish, wait_for
from tests.integration.conftest import START_TIMEOUT_S, vllm_serving
from tests.unit.vectors import SHARED, TESTS

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.serving.endpoint import Endpoint
    from tests.integration.conftest import VllmServer

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(START_TIMEOUT_S + 300)]

SAMPLES = TESTS / "data" / "samples"
HARNESSES = TESTS.parent / "recipes" / "harnesses"
CHECKPOINT = TESTS.parent / "checkpoints" / "demo" / "step-1600"
LM_EVAL = {"include_path": str(SAMPLES / "lm_eval_tasks")}
KEY = "EVALKIT_TEST_KEY"
UNGRADED = "scicode"
"""Its targets are a file that nobody but its authors may hand out."""


def task(limit: int = 2, path: Path | None = None, **more: Any) -> dict[str, Any]:
    """A few samples of a benchmark; `path` is its data, or some of it."""
    data = {} if path is None else {"data": {"path": str(path), "allow_altered": True}}
    return {"limit": limit, **data, **more}


def bfcl(category: str, limit: int) -> dict[str, Any]:
    """Some of BFCL, whose data comes with its package."""
    return task(limit, benchmark="bfcl_v4", params={"categories": [category]})


TASKS: dict[str, dict[str, Any]] = {
    "mmlu_pro": task(path=SHARED / "mmlu_pro" / "mmlu_pro_test_2024-10.jsonl.gz"),
    "gpqa_diamond": task(path=SAMPLES / "gpqa_diamond.csv", repeats=2),
    "gpqa_diamond_tools": task(path=SAMPLES / "gpqa_diamond.csv", repeats=1),
    "aime2025": task(path=SHARED / "aime2025" / "aime2025.jsonl", repeats=2),
    "aime2025_tools": task(path=SHARED / "aime2025" / "aime2025.jsonl", repeats=1),
    "ifbench": task(
        path=SHARED / "ifbench" / "IFBench_test_294.jsonl",
        repeats=2,
        params={"without_tagger": True},
    ),
    "livecodebench_v6": task(path=SAMPLES / "livecodebench_v6.jsonl", repeats=2),
    "scicode": task(path=SHARED / "scicode", repeats=1),
    "hle": task(path=SAMPLES / "hle.jsonl"),
    "bfcl_single": bfcl("simple_python", 2),
    "bfcl_turns": bfcl("multi_turn_base", 1),
    "bfcl_memory": bfcl("memory_kv", 1),
    "lm_eval": task(benchmark="lm-eval/toy_group", params={**LM_EVAL, "apply_chat_template": True}),
    "likelihoods": task(
        benchmark="lm-eval/toy_choices", params={**LM_EVAL, "tokenizer": str(CHECKPOINT)}
    ),
    "inspect": task(benchmark=f"inspect/{HARNESSES / 'sums.py'}@sums", params={"shard_size": 1}),
    "command": task(
        benchmark="command",
        params={
            "command": ["{python}", str(HARNESSES / "ask.py"), "{model}", "{shard}", "{shards}"],
            "with_limit": ["{limit}"],
            "results": {"samples": {"file": "answers.jsonl", "scores": {"right": "right"}}},
        },
    ),
}
BY_BATCH = "likelihoods"
"""Its last digits depend on what else is in the server's batch."""


@pytest.fixture
def endpoint(vllm_server: VllmServer) -> Endpoint:
    """The vLLM of all tests has room for the longest prompt."""
    assert vllm_server.facts.max_model_len == 32_768
    return vllm_server.endpoint


def write_recipe(folder: Path, endpoint: Endpoint, **changes: Any) -> Path:
    """All tasks, greedy and short, answered and judged by one server."""
    serving = {"kind": "external", "base_url": endpoint.base_url, "api_key_env": KEY}
    recipe = {
        "name": "all",
        "models": {"m": {"id": endpoint.model}},
        "serving": serving,
        "generation": {"temperature": 0, "top_p": 1, "max_tokens": 24},
        "client": {"parallelism": 8},
        "tasks": TASKS,
        "judges": {
            "j": {"id": endpoint.model, "serving": serving, "generation": {"max_tokens": 24}}
        },
        "output": {"dir": str(folder / "runs")},
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def start(recipe: Path, endpoint: Endpoint) -> subprocess.Popen[str]:
    """`evalkit run`, in the background."""
    key = endpoint.request_headers()["Authorization"].removeprefix("Bearer ")
    return subprocess.Popen(
        [sys.executable, "-m", "evalkit", "run", str(recipe)],
        env={**os.environ, KEY: key, "XDG_CACHE_HOME": str(recipe.parent / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def results_of(run: RunFolder, name: str) -> dict[str, Any]:
    """results.json of a task."""
    results: dict[str, Any] = json.loads(run.results(name).read_bytes())
    return results


def samples_of(run: RunFolder, name: str) -> bytes:
    """Lines of samples.jsonl."""
    with zstandard.ZstdDecompressor().stream_reader(run.samples(name).read_bytes()) as stream:
        content: bytes = stream.readall()
    return content


def check_complete(run: RunFolder) -> None:
    """Every task has all artifacts; the one that cannot be graded says so."""
    for name in TASKS:
        results = results_of(run, name)
        assert results["complete"] == (name != UNGRADED), name
        assert run.metrics(name).exists()
        assert run.run_config(name).exists()
        assert samples_of(run, name)
    missing = results_of(run, UNGRADED)["missing"]["by_reason"]
    assert set(missing) == {"ungraded"}
    assert results_of(run, "hle")["headline"]["name"] == "pass@1 judge_correct[demo]"
    for name in ("bfcl_single", "bfcl_turns", "bfcl_memory"):
        assert "overall_partial" in results_of(run, name)["headline"]["name"]
    [server] = results_of(run, "bfcl_turns")["provenance"]["servers"][-1:]
    replayed = server["facts"]["reasoning_replay"]
    assert set(replayed) == {"aime2025_tools", "gpqa_diamond_tools", "bfcl_turns", "bfcl_memory"}
    # the toy's chat template has no place for it
    assert {found["effect"] for found in replayed.values()} == {"ignored"}, replayed


def test_every_benchmark_and_a_kill(endpoint: Endpoint, tmp_path: Path) -> None:
    """A run that is killed in the middle and run again gives what an undisturbed one gives."""
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    recipe = write_recipe(tmp_path / "whole", endpoint)
    text = finish(start(recipe, endpoint), 10)  # for the task that is not graded
    assert "tasks.scicode cannot be graded" in text
    whole = RunFolder(tmp_path / "whole" / "runs" / "all")
    check_complete(whole)
    recipe = write_recipe(tmp_path / "killed", endpoint)
    killed = RunFolder(tmp_path / "killed" / "runs" / "all")
    kill_at(written(whole) // 2, start(recipe, endpoint), killed)
    finish(start(recipe, endpoint), 10)
    check_complete(killed)
    differing = {name for name in TASKS if samples_of(killed, name) != samples_of(whole, name)}
    assert differing <= {BY_BATCH}
    metrics = [results_of(run, BY_BATCH)["metrics"] for run in (whole, killed)]
    assert metrics[0] == metrics[1]


def kill_at(size: int, process: subprocess.Popen[str], run: RunFolder) -> None:
    """SIGKILL once the journals have so many bytes."""
    wait_for(lambda: written(run) > size, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def written(run: RunFolder) -> int:
    """Bytes in all journals of answers."""
    return sum(path.stat().st_size for path in (run.root / "journal").rglob("*.jsonl"))


@pytest.mark.long
def test_judge_that_evalkit_serves(
    endpoint: Endpoint, demo_checkpoint: Path, tmp_path: Path
) -> None:
    """A second vLLM starts when the answers are there, judges them, and is gone."""
    serving = vllm_serving(max_model_len=8192).model_dump(mode="json", exclude_unset=True)
    judge = {
        "path": str(demo_checkpoint),
        "serving": serving,
        "generation": {"max_tokens": 24},
    }
    recipe = write_recipe(
        tmp_path, endpoint, tasks={"hle": TASKS["hle"]}, judges={"local-judge": judge}
    )
    text = finish(start(recipe, endpoint))
    assert "server is ready on" in text
    run = RunFolder(tmp_path / "runs" / "all")
    results = results_of(run, "hle")
    assert results["complete"]
    assert results["headline"]["name"] == "pass@1 judge_correct[local-judge]"
    assert results["settings"]["judge"]["model"]["weights"]
    [log] = (run.root / "gradings" / "hle").glob("*/logs/r900/attempt-1/server.log")
    assert "vLLM" in log.read_text(errors="replace")
