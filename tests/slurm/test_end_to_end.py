"""The demo recipe on a real Slurm with real vLLM servers, against the same recipe run here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.slurm.conftest import SlurmCluster

REPOSITORY = Path(__file__).parents[2]
RECIPE = REPOSITORY / "recipes" / "demo.yaml"
TASKS = ("addition", "addition_choice")
SMALL = ("-o", "addition.params.n=60", "-o", "addition_choice.params.n=60")


def evalkit(
    *arguments: str, cwd: Path, env: dict[str, str], limit_s: float = 540
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "evalkit", *arguments],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )


def artifact(root: Path, task: str, name: str) -> bytes:
    """Bytes of an artifact."""
    return (root / "artifacts" / task / name).read_bytes()


def results(root: Path, task: str) -> dict[str, Any]:
    """A task's results.json."""
    value: dict[str, Any] = json.loads(artifact(root, task, "results.json"))
    return value


@pytest.mark.vllm
@pytest.mark.slurm
@pytest.mark.long  # a real vLLM on Slurm is in test_multi_node, too
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_run_on_slurm_equals_a_local_one(
    slurm_cluster: SlurmCluster, tmp_path: Path, replicas: int
) -> None:
    """Same samples, same scores, byte for byte; all replicas worked; the gather job did the rest."""
    local = evalkit("run", str(RECIPE), *SMALL, cwd=tmp_path, env=dict(os.environ))
    assert local.returncode == 0, local.stderr
    submitted = evalkit(
        *("submit", str(RECIPE), *SMALL, "--wait"),
        *("-o", "output.name=on-slurm", "-o", "cluster.executor=slurm"),
        *("-o", f"cluster.replicas={replicas}", "-o", "cluster.time_min=30"),
        *("-o", "client.parallelism=3"),  # work is left for the server that loads longer
        cwd=tmp_path,
        env=slurm_cluster.env,
    )
    assert submitted.returncode == 0, submitted.stderr + submitted.stdout
    here, there = tmp_path / "runs" / "demo", tmp_path / "runs" / "on-slurm"
    for task in TASKS:
        assert results(there, task)["complete"]
        for name in ("samples.jsonl.zst", "metrics.json"):
            assert artifact(there, task, name) == artifact(here, task, name), (task, name)
        ours, theirs = results(here, task), results(there, task)
        assert theirs["headline"] == ours["headline"]
        assert theirs["settings"]["fingerprint"] == ours["settings"]["fingerprint"]
    assert results(here, "addition")["headline"]["percent"] >= 90
    journals = {path.name for path in (there / "journal").rglob("*.jsonl")}
    assert {name.split(".")[0] for name in journals} == {f"r{n}" for n in range(replicas)}


@pytest.mark.slurm
def test_dry_run_shows_the_script_that_is_submitted(
    slurm_cluster: SlurmCluster, tmp_path: Path
) -> None:
    """Every line of the shown batch script is in the one that sbatch got, and nothing is written."""
    options = ("-o", "cluster.executor=slurm", "-o", "cluster.partition=low")
    shown = evalkit(
        *("submit", str(RECIPE), "--dry-run", "--json", *options),
        cwd=tmp_path,
        env=slurm_cluster.env,
    )
    assert shown.returncode == 0, shown.stderr
    assert not (tmp_path / "runs").exists()
    submitted = evalkit("submit", str(RECIPE), *options, cwd=tmp_path, env=slurm_cluster.env)
    assert submitted.returncode == 0, submitted.stderr
    cancelled = evalkit("cancel", "demo", cwd=tmp_path, env=slurm_cluster.env)
    assert cancelled.returncode == 0, cancelled.stderr
    [document] = json.loads(shown.stdout)
    [replicas, _gather] = document["scripts"]
    folder = tmp_path / "runs" / "demo" / "cluster"
    jobs = [json.loads(line) for line in (folder / "jobs.jsonl").read_text().splitlines()]
    script = (tmp_path / "runs" / "demo" / jobs[0]["script"]).read_text()
    assert replicas["text"] == script


@pytest.mark.slurm
def test_sbatchs_refusal_is_shown(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    """A partition that does not exist: sbatch's own words, exit code 9, the prepared run kept."""
    refused = evalkit(
        *("submit", str(RECIPE), "-o", "cluster.executor=slurm", "-o", "cluster.partition=nowhere"),
        cwd=tmp_path,
        env=slurm_cluster.env,
    )
    assert refused.returncode == 9
    assert "invalid partition specified: nowhere" in refused.stderr
    assert (tmp_path / "runs" / "demo" / "plan.json").is_file()
    assert not (tmp_path / "runs" / "demo" / "cluster" / "jobs.jsonl").exists()
