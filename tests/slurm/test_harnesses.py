"""Tasks of other harnesses on a real Slurm with real vLLM servers, killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from evalkit.cluster.replica_report import read_reports
from evalkit.store.layout import RunFolder
from tests.faults.harness import journaled_calls
from tests.slurm.test_end_to_end import artifact, evalkit, results

if TYPE_CHECKING:
    from tests.slurm.conftest import SlurmCluster

REPOSITORY = Path(__file__).parents[2]
RECIPES = REPOSITORY / "recipes"
LM_EVAL = {"include_path": str(REPOSITORY / "tests" / "data" / "samples" / "lm_eval_tasks")}
WHEEL = "nvidia-simple-evals"
DRIVEN = {"sums": 40, "doubles": 60, "math": 24}
"""Tasks of programs, and how many calls each makes."""
GENERATED = ("addition", "sums", "doubles", "math", "toy_group")
LIKELIHOODS = ("toy_choices", "toy_prose")
"""Their numbers depend on what else the server has in its batch, in the last digits."""
LIMIT_S = 1200.0
"""Real servers load for minutes on a busy machine."""
IN_THE_MIDDLE = {**DRIVEN, "toy_group": 40}
# In the wheel's Python: a data set as `datasets` keeps one that it has fetched from the hub.
FILL_CACHE = """
import json, sys
from pathlib import Path
from datasets.packaged_modules.json.json import Json

cache, rows = Path(sys.argv[1]), Path(sys.argv[1]) / "rows.jsonl"
sums = [(7 * i % 90, 11 * i % 90) for i in range(1, 13)]
lines = [{"problem": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in sums]
rows.write_text("".join(json.dumps(line) + "\\n" for line in lines))
files = {"test": [str(rows)]}
made = Json(cache_dir=str(cache), dataset_name="MATH-500", data_files=files, hash="0")
made.download_and_prepare()
place = cache / "HuggingFaceH4___math-500" / "default" / "0.0.0" / "0"
place.parent.mkdir(parents=True)
Path(made.cache_dir).rename(place)
"""


@pytest.fixture(scope="module")
def harnesses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables with which the wheel is there, and some sums are what it believes to be MATH-500.

    It is installed anew unless EVALKIT_HARNESSES names a folder that has it: some minutes, 0.7 GB.
    """
    home = tmp_path_factory.mktemp("harnesses")
    folder = Path(os.environ.get("EVALKIT_HARNESSES", home / "environments"))
    variables = {"EVALKIT_HARNESSES": str(folder)}
    env = {**os.environ, **variables}
    made = evalkit("harness", "install", WHEEL, cwd=home, env=env, limit_s=LIMIT_S)
    assert made.returncode == 0, made.stderr
    cache = home / "hub" / "datasets"
    cache.mkdir(parents=True)
    python = folder / WHEEL / "bin" / "python"
    subprocess.run([python, "-c", FILL_CACHE, cache], check=True)
    return {**variables, "HF_HOME": str(cache.parent), "HF_HUB_OFFLINE": "1"}


def write_recipe(folder: Path) -> Path:
    """The shipped recipe of harnesses, with lm-eval's three kinds of requests and a wheel beside its tasks."""
    text = (RECIPES / "harnesses.yaml").read_text("utf-8")
    recipe: dict[str, Any] = yaml.safe_load(text.replace("harnesses/", f"{RECIPES}/harnesses/"))
    recipe["models"]["demo"]["path"] = str(REPOSITORY / "checkpoints" / "demo" / "step-1600")
    tasks = recipe["tasks"]
    tasks["doubles"]["params"]["command"][1] = f"{RECIPES}/harnesses/ask.py"
    tasks["doubles"]["limit"] = DRIVEN["doubles"]
    tasks["addition"]["params"]["n"] = 60
    asked = {"n_samples": 2, "custom_config": {"prompt_template": "{Question}"}}
    tasks["math"] = {"benchmark": f"{WHEEL}/math_test_500_nemo", "params": {"extra": asked}}
    tasks["toy_group"] = {"params": {**LM_EVAL, "apply_chat_template": True}}
    tasks["toy_choices"] = {"params": LM_EVAL}
    tasks["toy_prose"] = {"params": LM_EVAL}
    for name in ("toy_group", "toy_choices", "toy_prose"):
        tasks[name]["benchmark"] = f"lm-eval/{name}"
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def kill_in_the_middle(cluster: SlurmCluster, folder: RunFolder) -> None:
    """SIGKILL for all workers that are ready, until each kind of task was interrupted with some of its calls
    journaled and some owed. All kinds at once where none is half done by then."""
    spared = set(IN_THE_MIDDLE)

    def amid() -> set[str]:
        if not folder.plan.exists():
            return set()
        calls = {name: len(journaled_calls(folder)[name]) for name in spared}
        found = {name for name in spared if 2 <= calls[name] < IN_THE_MIDDLE[name]}
        is_late = any(calls[name] > IN_THE_MIDDLE[name] / 2 for name in found)
        return found if found == spared or is_late else set()

    while spared:
        found = cluster.wait_for(f"{', '.join(sorted(spared))} in the middle", amid, LIMIT_S)
        ready = [report.pid for report in read_reports(folder).values() if report.state == "ready"]
        for pid in ready:
            os.kill(pid, signal.SIGKILL)
        if ready:
            spared -= found


def native(root: Path, task: str) -> dict[str, Any]:
    """lm-eval's own results, without what tells when and how fast."""
    found = json.loads((root / "artifacts" / task / "native" / "results.json").read_bytes())
    return {
        key: found[key] for key in ("results", "groups", "n-samples", "versions") if key in found
    }


def numbers(root: Path, task: str) -> dict[str, float]:
    """What lm-eval found, by metric."""
    return {each["name"]: each["value"] for each in results(root, task)["native"]["metrics"]}


def assert_all_appear(cluster: SlurmCluster, there: RunFolder, here: Path, recipe: Path) -> None:
    """One status, one summary and one report have the tasks of all harnesses, each with its score."""
    tasks = {*GENERATED, *LIKELIHOODS}
    assert set(yaml.safe_load(recipe.read_text())["tasks"]) == tasks
    summary = json.loads(there.summary.read_bytes())
    assert summary["complete"]
    assert {each["task"] for each in summary["tasks"]} == tasks
    shown = evalkit("status", str(there.root), cwd=here, env=cluster.env).stdout
    report = evalkit("report", str(there.root), "--format", "text", cwd=here, env=cluster.env)
    page = (there.root / "artifacts" / "report.html").read_text("utf-8")
    for each in summary["tasks"]:
        name, headline = each["task"], each["headline"]
        score = f"{headline['percent']:.2f}" if headline["is_share"] else f"{headline['value']:.4g}"
        for text in (shown, report.stdout):
            assert any(name in line and score in line for line in text.splitlines()), (name, text)
        assert name in page
        assert score in page


@pytest.mark.vllm
@pytest.mark.slurm
@pytest.mark.long  # without Slurm most of them are in tests/integration/test_all_benchmarks.py
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("replicas", [1, 2])
def test_harnesses_on_slurm_equal_an_undisturbed_run(
    slurm_cluster: SlurmCluster, tmp_path: Path, harnesses: dict[str, str], replicas: int
) -> None:
    """lm-eval's repeats, likelihoods and few-shots, a task of inspect, one of a wheel and a command: all workers
    are killed in the middle of each, and the samples and numbers are those of one replica that nobody
    disturbed."""
    recipe = write_recipe(tmp_path)
    env = {**os.environ, **harnesses}
    local = evalkit("run", str(recipe), cwd=tmp_path, env=env, limit_s=LIMIT_S)
    assert local.returncode == 0, local.stderr
    options = (
        *("-o", "output.name=on-slurm", "-o", "cluster.executor=slurm"),
        *("-o", f"cluster.replicas={replicas}", "-o", "cluster.time_min=30"),
        *("-o", "cluster.max_failures=6", "-o", f"client.parallelism={12 // replicas}"),
    )
    env = {**slurm_cluster.env, **harnesses}
    submitted = evalkit("submit", str(recipe), *options, cwd=tmp_path, env=env)
    assert submitted.returncode == 0, submitted.stderr
    there = RunFolder(tmp_path / "runs" / "on-slurm")
    kill_in_the_middle(slurm_cluster, there)
    again = ("submit", str(recipe), *options, "--wait")
    waited = evalkit(*again, cwd=tmp_path, env=env, limit_s=LIMIT_S)
    assert waited.returncode == 0, waited.stderr + waited.stdout
    here = tmp_path / "runs" / "recipe"
    for task in (*GENERATED, *LIKELIHOODS):
        ours, theirs = results(here, task), results(there.root, task)
        assert ours["complete"]
        assert theirs["complete"]
        assert theirs["counts"]["scored"] == ours["counts"]["scored"]
        assert theirs["headline"]["n_samples"] == ours["headline"]["n_samples"]
        assert theirs["settings"]["fingerprint"] == ours["settings"]["fingerprint"]
    for task in GENERATED:
        for name in ("samples.jsonl.zst", "metrics.json"):
            assert artifact(there.root, task, name) == artifact(here, task, name), (task, name)
        assert results(there.root, task)["headline"] == results(here, task)["headline"]
    assert native(there.root, "toy_group") == native(here, "toy_group")
    for task in LIKELIHOODS:
        assert numbers(there.root, task) == pytest.approx(numbers(here, task), rel=1e-2)
    for task in DRIVEN:
        assert results(here, task)["headline"]["percent"] >= 90
    assert (there.root / "artifacts" / "sums" / "native" / "merged.eval").is_file()
    assert_all_appear(slurm_cluster, there, tmp_path, recipe)
    calls = journaled_calls(there)
    for task, number in DRIVEN.items():  # nothing that was journaled was asked again
        assert len(calls[task]) == len({(c.sample, c.call) for c in calls[task]}) == number
    attempts = {
        path.stem for task in DRIVEN for path in (there.root / "journal" / task).rglob("*.jsonl")
    }
    assert any(name.endswith(".a2") for name in attempts)
    assert {name.partition(".")[0] for name in attempts} == {f"r{n}" for n in range(replicas)}
