"""Tasks of other harnesses on a real Slurm with real vLLM servers, killed in the middle."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.replica_report import read_reports
from evalkit.cluster.status import run_status
from evalkit.store.layout import RunFolder
from tests.slurm.test_end_to_end import artifact, evalkit, results

if TYPE_CHECKING:
    from tests.slurm.conftest import SlurmCluster

REPOSITORY = Path(__file__).parents[2]
RECIPES = REPOSITORY / "recipes"
LM_EVAL = {"include_path": str(REPOSITORY / "tests" / "data" / "samples" / "lm_eval_tasks")}
GENERATED = ("addition", "sums", "doubles", "toy_group")
LIKELIHOODS = ("toy_choices", "toy_prose")
"""Their numbers depend on what else the server has in its batch, in the last digits."""


def write_recipe(folder: Path) -> Path:
    """The shipped recipe of harnesses, with lm-eval's three kinds of requests beside its tasks."""
    text = (RECIPES / "harnesses.yaml").read_text("utf-8")
    recipe: dict[str, Any] = yaml.safe_load(text.replace("harnesses/", f"{RECIPES}/harnesses/"))
    recipe["models"]["demo"]["path"] = str(REPOSITORY / "checkpoints" / "demo" / "step-1600")
    tasks = recipe["tasks"]
    tasks["doubles"]["params"]["command"][1] = f"{RECIPES}/harnesses/ask.py"
    tasks["addition"]["params"]["n"] = 60
    tasks["toy_group"] = {"params": {**LM_EVAL, "apply_chat_template": True}}
    tasks["toy_choices"] = {"params": LM_EVAL}
    tasks["toy_prose"] = {"params": LM_EVAL}
    for name in ("toy_group", "toy_choices", "toy_prose"):
        tasks[name]["benchmark"] = f"lm-eval/{name}"
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def kill_in_the_middle(cluster: SlurmCluster, folder: RunFolder) -> None:
    """SIGKILL for a worker that has answers, and owes some."""

    def working() -> int | None:
        if not folder.plan.exists():
            return None
        status = run_status(folder, clock=SYSTEM_CLOCK, env=cluster.env)
        if not 3 <= status.done < status.expected - 10:
            return None
        ready = [r.pid for r in read_reports(folder).values() if r.state == "ready"]
        return ready[0] if ready else None

    os.kill(cluster.wait_for("a worker in the middle", working, 300), signal.SIGKILL)


def native(root: Path, task: str) -> dict[str, Any]:
    """lm-eval's own results, without what tells when and how fast."""
    found = json.loads((root / "artifacts" / task / "native" / "results.json").read_bytes())
    return {
        key: found[key] for key in ("results", "groups", "n-samples", "versions") if key in found
    }


def numbers(root: Path, task: str) -> dict[str, float]:
    """What lm-eval found, by metric."""
    return {each["name"]: each["value"] for each in results(root, task)["native"]["metrics"]}


@pytest.mark.vllm
@pytest.mark.slurm
@pytest.mark.long  # without Slurm they are in tests/integration/test_all_benchmarks.py
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("replicas", [1, 2])
def test_harnesses_on_slurm_equal_an_undisturbed_run(
    slurm_cluster: SlurmCluster, tmp_path: Path, replicas: int
) -> None:
    """lm-eval's repeats, likelihoods and few-shots, a task of inspect and a command: a worker is killed in the
    middle, and the samples and numbers are those of one replica that nobody disturbed."""
    recipe = write_recipe(tmp_path)
    local = evalkit("run", str(recipe), cwd=tmp_path, env=dict(os.environ))
    assert local.returncode == 0, local.stderr
    options = (
        *("-o", "output.name=on-slurm", "-o", "cluster.executor=slurm"),
        *("-o", f"cluster.replicas={replicas}", "-o", "cluster.time_min=30"),
        *("-o", "client.parallelism=4"),
    )
    submitted = evalkit("submit", str(recipe), *options, cwd=tmp_path, env=slurm_cluster.env)
    assert submitted.returncode == 0, submitted.stderr
    there = RunFolder(tmp_path / "runs" / "on-slurm")
    kill_in_the_middle(slurm_cluster, there)
    waited = evalkit("submit", str(recipe), *options, "--wait", cwd=tmp_path, env=slurm_cluster.env)
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
    assert results(here, "sums")["headline"]["percent"] >= 90
    assert (there.root / "artifacts" / "sums" / "native" / "merged.eval").is_file()
    attempts = {path.stem for path in (there.root / "journal").rglob("*.jsonl")}
    assert any(name.endswith(".a2") for name in attempts)
