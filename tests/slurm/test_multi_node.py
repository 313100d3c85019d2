"""Replicas of several nodes on a real Slurm: a real vLLM over two, and what becomes of its parts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import yaml

from evalkit.cluster.attempts import read_attempts
from evalkit.store.layout import RunFolder
from tests.faults.fault_options import write_vllm
from tests.faults.harness import server_of

if TYPE_CHECKING:
    from tests.slurm.conftest import SlurmCluster

REPOSITORY = Path(__file__).parents[2]
VLLM = "vllm.entrypoints.cli.main"
LOGS = ("server.log", "server-node1.log")  # of the two parts of a server
CHECKPOINT = REPOSITORY / "checkpoints" / "demo" / "step-1600"
# In place of `vllm serve`: the fault server, or a part without calls; both tell their GPUs.
PARTS = """
import os, sys, time
print("devices", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
if "--headless" in sys.argv:
    time.sleep(600)
from tests.faults.fault_server import main
main(as_vllm=True)
"""


def write_recipe(folder: Path, **changes: Any) -> Path:
    """A few units of addition on one replica of two nodes."""
    recipe: dict[str, Any] = {
        "models": {"demo": {"path": str(CHECKPOINT)}},
        "generation": {"temperature": 0, "max_tokens": 128},
        "tasks": {"addition": {"params": {"n": 24}}},
        **changes,
    }
    recipe["cluster"] = {"time_min": 15, "nodes": 2, **recipe.get("cluster", {})}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def evalkit(*arguments: str, cwd: Path, env: dict[str, str]) -> str:
    """Standard output of a command that must end well."""
    done = subprocess.run(
        [sys.executable, "-m", "evalkit", *arguments],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def distribution_of_vllm(folder: Path) -> Path:
    """A folder for PYTHONPATH in which the CPU build is found under vLLM's own name.

    `vllm serve` looks its version up there; the build for GPUs is called so by itself.
    """
    info = folder / "vllm-0.32.0+cpu.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")
    return folder


def processes(run: Path) -> list[psutil.Process]:
    """Living processes of a run on all nodes, which are this machine: its packages are on their path."""
    found = []
    for process in psutil.process_iter():
        try:
            path = process.environ().get("PYTHONPATH", "")
            if str(run.parents[1]) in path and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def command_of(process: psutil.Process) -> list[str]:
    """Its command line; nothing of one that has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def part(run: Path, *, headless: bool) -> psutil.Process | None:
    """The process that stands for one part of the run's server, once it is there."""
    started = [(p, argv) for p in processes(run) if (argv := command_of(p))[1:3] == ["-m", VLLM]]
    return next((p for p, argv in started if ("--headless" in argv) == headless), None)


def parted_run(cluster: SlurmCluster, folder: Path) -> Path:
    """Submit a run on a server of two parts that are vLLM only by name; its folder.

    Each server stops in the middle of the work until it may `go_on`.
    """
    packages = folder / "packages"
    write_vllm(packages)
    (packages / "vllm" / "entrypoints" / "cli" / "main.py").write_text(PARTS)
    recipe = write_recipe(
        folder,
        serving={
            "tensor_parallel_size": 4,
            "shutdown_timeout_s": 5,
            "extra_args": {"hang-after": 4},
        },
        client={"parallelism": 2},
        cluster={"env": {"PYTHONPATH": f"{packages}:{REPOSITORY}"}},
    )
    evalkit("submit", str(recipe), cwd=folder, env=cluster.env)
    return folder / "runs" / "recipe"


def told_devices(log: Path) -> list[str]:
    """What the parts that wrote this log said of their GPUs, a line for each that started."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [line for line in lines if line.startswith("devices")]


def wait_until_ready(cluster: SlurmCluster, run: Path, servers: int) -> None:
    """Until so many servers of the first attempt have been ready, and each part of them has started.

    The fault server answers without its other part, which may still be on its way.
    """
    logs = run / "logs" / "r0" / "attempt-1"
    facts = logs / "server.json"  # written once it is ready
    cluster.wait_for(
        f"server {servers} is ready",
        lambda: facts.exists() and len(facts.read_text().splitlines()) == servers,
    )
    cluster.wait_for(
        f"each part of server {servers} has started",
        lambda: all(len(told_devices(logs / name)) >= servers for name in LOGS),
    )


def log_of(logs: Path) -> str:
    """What the worker said."""
    return (logs / "worker.log").read_text()


def results_of(run: Path) -> dict[str, Any]:
    """results.json of the only task."""
    found: dict[str, Any] = json.loads(
        (run / "artifacts" / "addition" / "results.json").read_text()
    )
    return found


def kill(run: Path, *, headless: bool) -> None:
    """SIGKILL for one part."""
    process = part(run, headless=headless)
    assert process is not None
    process.kill()


def test_a_lost_part_is_the_end_of_the_server(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    """Whichever part dies, the other goes too, a whole new server takes over, and the node is named."""
    run = parted_run(slurm_cluster, tmp_path)
    logs = run / "logs" / "r0" / "attempt-1"
    wait_until_ready(slurm_cluster, run, 1)
    kill(run, headless=True)
    wait_until_ready(slurm_cluster, run, 2)
    kill(run, headless=False)
    wait_until_ready(slurm_cluster, run, 3)
    server_of(RunFolder(run), "r0").go_on()
    evalkit("submit", str(tmp_path / "recipe.yaml"), "--wait", cwd=tmp_path, env=slurm_cluster.env)
    rows = [json.loads(line) for line in (logs / "server.json").read_text().splitlines()]
    assert len(rows) == 3
    first, second = rows[0]["nodes"]
    said = log_of(logs)
    assert f"the part on node {second} ended first, with exit code 137 (SIGKILL)" in said
    assert f"the part on node {first} ended first, with exit code 137 (SIGKILL)" in said
    for name in LOGS:
        told = told_devices(logs / name)
        assert len(told) >= 3, name  # one more where a port was taken in the last moment
        assert set(told) == {"devices 0,1"}, name
    assert results_of(run)["complete"]
    slurm_cluster.wait_for("no process", lambda: not processes(run))


def test_nothing_outlives_a_killed_worker(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    """SIGKILL for the worker: no part is left on any node, and no folder of compile caches."""
    run = parted_run(slurm_cluster, tmp_path)
    wait_until_ready(slurm_cluster, run, 1)
    follower = part(run, headless=True)
    assert follower is not None
    caches = Path(follower.environ()["VLLM_CACHE_ROOT"]).parent
    assert caches.is_dir()
    key = follower.environ()["VLLM_API_KEY"]
    assert not any(key in text for p in processes(run) for text in command_of(p))
    jobs = [p for p in processes(run) if "submitit.core._submit" in command_of(p)]
    [worker] = [p for p in jobs if p.name() != "srun"]
    worker.kill()
    slurm_cluster.wait_for("no process", lambda: not processes(run))
    slurm_cluster.wait_for("no caches", lambda: not caches.exists())
    evalkit("cancel", "recipe", cwd=tmp_path, env=slurm_cluster.env)


def test_replicas_on_one_node_have_their_own_gpus(
    slurm_cluster: SlurmCluster, tmp_path: Path
) -> None:
    """Slurm's CUDA_VISIBLE_DEVICES reaches the servers: two replicas of a node share no GPU."""
    server = (sys.executable, "-m", "tests.faults.fault_server", "--hang-after", "1")
    options = ("--port", "{port}", "--model", "{served_model_name}", "--api-key", "{api_key}")
    told = 'echo "devices $CUDA_VISIBLE_DEVICES on $SLURMD_NODENAME"; exec "$@"'
    recipe = write_recipe(
        tmp_path,
        models={"demo": {"id": "demo"}},
        serving={
            "kind": "command",
            "command": ["bash", "-c", told, "sh", *server, *options],
            "gpus": 2,
            "max_model_len": 4096,
        },
        client={"parallelism": 2},
        cluster={
            "nodes": 1,
            "replicas": 2,
            "env": {"PYTHONPATH": str(REPOSITORY)},
            "sbatch": {"nodelist": slurm_cluster.nodes[0]},
        },
    )
    evalkit("submit", str(recipe), cwd=tmp_path, env=slurm_cluster.env)
    folder = RunFolder(tmp_path / "runs" / "recipe")
    for replica in ("r0", "r1"):
        facts = folder.server_facts(replica, 1)
        slurm_cluster.wait_for(f"{replica} has a server", facts.exists)
    for replica in ("r0", "r1"):
        server_of(folder, replica).go_on()
    evalkit("submit", str(recipe), "--wait", cwd=tmp_path, env=slurm_cluster.env)
    logs = folder.root.glob("logs/r*/attempt-1/server.log")
    told_by = sorted(path.read_text().splitlines()[0] for path in logs)
    node = slurm_cluster.nodes[0]
    assert told_by == [f"devices 0,1 on {node}", f"devices 2,3 on {node}"]


def test_a_command_starts_its_own_parts(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    """A server of another kind reaches the replica's other node by srun, and is left to do so."""
    server = (sys.executable, "-m", "tests.faults.fault_server")
    options = ("--port", "{port}", "--model", "{served_model_name}", "--api-key", "{api_key}")
    script = (
        'last=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | tail -n 1); '
        "srun --overlap --nodes=1 --ntasks=1 --mem=0 --nodelist=$last printenv SLURMD_NODENAME; "
        'exec "$@"'
    )
    recipe = write_recipe(
        tmp_path,
        models={"demo": {"id": "demo"}},
        serving={
            "kind": "command",
            "command": ["bash", "-c", script, "sh", *server, *options],
            "gpus": 2,
            "max_model_len": 4096,
        },
        cluster={"env": {"PYTHONPATH": str(REPOSITORY)}},
    )
    evalkit("submit", str(recipe), "--wait", cwd=tmp_path, env=slurm_cluster.env)
    folder = RunFolder(tmp_path / "runs" / "recipe")
    logs = folder.server_log("r0", 1).parent
    first, second = read_attempts(folder)[0].nodes
    assert first != second
    assert (logs / "server.log").read_text().split()[0] == second
    assert not (logs / "server-node1.log").exists()


@pytest.mark.vllm
def test_vllm_over_two_nodes(slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    """One copy of the model, split over two nodes: it answers, the run is complete, nothing is left."""
    serving = {
        "tensor_parallel_size": 2,
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 512,
        "gpu_memory_utilization": 0.1,
        "reasoning_parser": "deepseek_r1",
        "env": {"VLLM_CPU_KVCACHE_SPACE": "1"},
    }
    path = str(distribution_of_vllm(tmp_path / "packages"))
    recipe = write_recipe(tmp_path, serving=serving, cluster={"env": {"PYTHONPATH": path}})
    evalkit("submit", str(recipe), "--wait", cwd=tmp_path, env=slurm_cluster.env)
    run = tmp_path / "runs" / "recipe"
    results = results_of(run)
    assert results["complete"]
    assert results["headline"]["percent"] >= 90
    [facts] = map(json.loads, (run / "logs/r0/attempt-1/server.json").read_text().splitlines())
    assert len(set(facts["nodes"])) == 2
    log = (run / "logs" / "r0" / "attempt-1" / "server-node1.log").read_text()
    assert "Launching vLLM" in log
    assert "headless multiproc executor" in log
    slurm_cluster.wait_for("no process", lambda: not processes(run))
