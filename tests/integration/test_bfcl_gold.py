"""BFCL's gold answers through the whole of evalkit: a server over HTTP, a worker, its journals, the
grading in the sandbox, a gather. Right answers get all points there are, wrong ones none.

An entry of each category in every test run; all that can be run without the web and weights, which is
4,751 entries, and 200 of the web search from a recording, with `make long`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from evalkit.benchmarks.bfcl_gold import IMPOSSIBLE
from evalkit.benchmarks.frozen import FrozenSamples, freeze
from evalkit.scoring.bfcl_categories import CATEGORIES, ENTRIES, MEMORY, WEB_SEARCH
from evalkit.store.layout import RunFolder
from tests.integration.bfcl_endpoint import MODEL, Answers, serving, write_recording
from tests.unit.benchmarks.bfcl_support import load, make

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from evalkit.benchmarks.contract import Sample
    from evalkit.recipe.schema import Profile

LOCAL = [name for name in CATEGORIES if name != "memory_vector"]


def load_samples(recording: Path, profile: Profile) -> Sequence[Sample]:
    """All that can be run here, one of each category first; the searches of the web are recorded."""
    recording.write_text("")
    benchmark = make(profile, **params_of(LOCAL, recording))
    samples = FrozenSamples(freeze(load(benchmark).samples))[:]
    write_recording(recording, [sample for sample in samples if sample.subset in WEB_SEARCH])
    return samples


def params_of(categories: Sequence[str], recording: Path) -> dict[str, Any]:
    """Parameters of a task with these categories."""
    params: dict[str, Any] = {"categories": list(categories)}
    if set(categories) & set(WEB_SEARCH):
        params |= {"web_search": "replay", "web_recording": str(recording)}
    return params


def run(folder: Path, address: str, profile: Profile, tasks: dict[str, Any]) -> RunFolder:
    """`evalkit run`, with tasks by what they say to the endpoint."""
    recipe = {
        "name": "gold",
        "profile": profile,
        "models": {"m": {"id": MODEL}},
        "serving": {"kind": "external", "base_url": address, "max_model_len": 1_000_000},
        "client": {"parallelism": 64},
        "tasks": {
            says.replace(":", "-"): {
                "benchmark": "bfcl_v4",
                "generation": {"extra_body": {"user": says}},
                **task,
            }
            for says, task in tasks.items()
        },
        "output": {"dir": str(folder / "runs")},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    done = subprocess.run(
        [sys.executable, "-m", "evalkit", "run", str(path)],
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return RunFolder(folder / "runs" / "gold")


def read_results(run: RunFolder, task: str) -> dict[str, Any]:
    """results.json of a complete task."""
    results: dict[str, Any] = json.loads(run.results(task).read_bytes())
    assert results["complete"], task
    return results


def count_right(results: dict[str, Any]) -> tuple[int, int]:
    """Right entries and all entries."""
    entries = results["totals"]["entries"]
    return round(results["metrics"]["pass@1"]["accuracy"] * entries), int(entries)


def test_a_gold_answer_of_each_category_is_right_and_a_wrong_one_is_not(tmp_path: Path) -> None:
    """Through the real loop: a request that the endpoint does not expect would fail, and be missing."""
    recording = tmp_path / "web.jsonl"
    samples = load_samples(recording, "card")[: len(LOCAL)]
    assert [sample.subset for sample in samples] == LOCAL
    task = {"params": params_of(LOCAL, recording), "limit": len(LOCAL)}
    with serving(Answers.of(samples, by_category=False)) as address:
        done = run(tmp_path, address, "card", {"gold": task, "wrong": task})
    entries = sum(len(s.target) if s.subset in MEMORY else 1 for s in samples)
    for name, right in (("gold", entries), ("wrong", 0)):
        results = read_results(done, name)
        assert count_right(results) == (right, entries)
        assert results["headline"]["metric"] == "overall_partial"
        assert results["headline"]["value"] == pytest.approx(float(name == "gold"))
        assert results["not_run"] == ["memory_vector"]


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["gold", "wrong"])
@pytest.mark.parametrize("profile", ["card", "fixed"])
def test_all_gold_answers_are_right_and_all_wrong_ones_are_not(
    tmp_path: Path, profile: Profile, kind: str
) -> None:
    """But for six entries, which the official checker accepts in no form."""
    recording = tmp_path / "web.jsonl"
    with serving(Answers.of(load_samples(recording, profile), by_category=True)) as address:
        tasks = {f"{kind}:{name}": {"params": params_of([name], recording)} for name in LOCAL}
        done = run(tmp_path, address, profile, tasks)
    found = {name: count_right(read_results(done, f"{kind}-{name}")) for name in LOCAL}
    lost = Counter(name.rpartition("_")[0] for name in IMPOSSIBLE)
    right = {name: ENTRIES[name] - lost[name] if kind == "gold" else 0 for name in LOCAL}
    assert found == {name: (right[name], ENTRIES[name]) for name in LOCAL}
