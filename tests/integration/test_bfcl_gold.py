"""BFCL's gold answers through the whole of evalkit: a server over HTTP, a worker, its journals, the
grading in the sandbox, a gather. Right answers get all points there are, wrong ones none.

Some entries of each category in every test run; all that can be run without the web and weights, which
is 4,751 entries, and 200 of the web search from a recording, with `make long`.
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
from evalkit.scoring.bfcl_categories import CATEGORIES, ENTRIES, MEMORY, WEB_SEARCH, subset_weights
from evalkit.store.layout import RunFolder
from tests.integration.bfcl_endpoint import MODEL, Answers, serving, write_recording
from tests.unit.benchmarks.bfcl_support import frozen, load, make

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.benchmarks.contract import Sample

LOCAL = [name for name in CATEGORIES if name != "memory_vector"]


def load_samples(recording: Path, profile: Any = "card") -> list[Sample]:
    """All that can be run here; the searches of the web are recorded."""
    recording.write_text("")
    web = load(
        make(profile, categories=["web_search"], web_search="replay", web_recording=str(recording))
    ).samples
    write_recording(recording, web)
    return [*frozen(profile, "single_turn", "multi_turn", "memory_kv", "memory_rec_sum"), *web]


def run(folder: Path, address: str, recording: Path, **changes: Any) -> RunFolder:
    """`evalkit run` with a task for each category, which names itself to the endpoint."""
    tasks = {}
    for name in LOCAL:
        params: dict[str, Any] = {"categories": [name]}
        if name in WEB_SEARCH:
            params |= {"web_search": "replay", "web_recording": str(recording)}
        body = {"extra_body": {"user": name}}
        tasks[name] = {"benchmark": "bfcl_v4", "params": params, "generation": body, **changes}
    recipe = {
        "name": "gold",
        "models": {"m": {"id": MODEL}},
        "serving": {"kind": "external", "base_url": address, "max_model_len": 1_000_000},
        "client": {"parallelism": 64},
        "tasks": tasks,
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


def read_scores(run: RunFolder) -> dict[str, tuple[int, int]]:
    """Right entries and all entries, by category."""
    found = {}
    for name in LOCAL:
        results = json.loads(run.results(name).read_bytes())
        assert results["complete"], name
        entries = int(results["totals"]["entries"])
        accuracy = results["metrics"]["pass@1"]["accuracy"]
        found[name] = (round(accuracy * entries), entries)
        assert found[name][0] / entries == pytest.approx(accuracy)
    return found


@pytest.mark.timeout(180)
def test_some_gold_answers_of_each_category_are_right_and_wrong_ones_are_not(
    tmp_path: Path,
) -> None:
    """Through the real loop: what the endpoint does not expect would end a dialogue, and lose it."""
    recording = tmp_path / "web.jsonl"
    with serving(Answers.of(load_samples(recording))) as address:
        for kind in ("gold", "wrong"):
            (tmp_path / kind).mkdir()
            found = run(tmp_path / kind, f"{address}/{kind}/v1", recording, limit=1)
            for name, (right, entries) in read_scores(found).items():
                assert entries == 1 or name in MEMORY
                assert right == (entries if kind == "gold" else 0), (kind, name)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["gold", "wrong"])
@pytest.mark.parametrize("profile", ["card", "fixed"])
def test_all_gold_answers_are_right_and_all_wrong_ones_are_not(
    tmp_path: Path, profile: str, kind: str
) -> None:
    """But for six entries, which the official checker accepts in no form."""
    recording = tmp_path / "web.jsonl"
    lost = Counter(name.rpartition("_")[0] for name in IMPOSSIBLE)
    with serving(Answers.of(load_samples(recording, profile))) as address:
        done = run(tmp_path, f"{address}/{kind}/v1", recording, profile=profile)
    found = read_scores(done)
    sys.stderr.write(f"{profile} {kind}: {found}\n")
    right = {n: ENTRIES[n] - lost[n] if kind == "gold" else 0 for n in LOCAL}
    assert found == {name: (right[name], ENTRIES[name]) for name in LOCAL}
    weights = next(iter(subset_weights({n: ENTRIES[n] for n in LOCAL}).values()))
    overall = sum(w * found[n][0] / found[n][1] for n, w in weights.items())
    sys.stderr.write(f"{profile} {kind}: overall_partial {100 * overall:.4f} %\n")
