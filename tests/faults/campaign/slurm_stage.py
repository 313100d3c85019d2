"""A run on a real Slurm, as a campaign sees and disturbs it: jobs, nodes, processes, journals."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import psutil
import yaml

from evalkit.cluster.jobs import read_jobs
from evalkit.serving.tree import MARKER
from evalkit.store.run import load_plan
from evalkit.store.survey import survey_run
from tests.faults.campaign.ledger import LedgerFile
from tests.faults.campaign.stage import ANSWERS, StuckError, living_pids
from tests.faults.fault_options import write_vllm
from tests.faults.harness import REPOSITORY, Place, Server, finish

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.slurm.conftest import SlurmCluster

ServerKind: TypeAlias = Literal["fault server", "vllm"]
CHECKPOINT = REPOSITORY / "checkpoints" / "demo" / "step-1600"
ESSAY = {"max_tokens": 1500, "extra_body": {"ignore_eos": True}}
TASKS: dict[ServerKind, dict[str, Any]] = {
    "fault server": {
        "chain": {"params": {"n": 5, "calls": 4}, "repeats": 2},
        "talk": {"benchmark": "chain", "params": {"n": 6, "calls": 3, "tokens": 300}},
        "essay": {"params": {"n": 32, "tokens": 1500}},
        "addition": {"params": {"n": 40, "digits": 6}},
    },
    "vllm": {
        "chain": {"params": {"n": 4, "calls": 3}, "generation": {"max_tokens": 120}},
        "essay": {"params": {"n": 24, "tokens": 1}, "generation": ESSAY},
        "addition": {"params": {"n": 60}},
    },
}
SINGLE_CALL = {"chain": False, "talk": False, "essay": True, "addition": True}
SPEED = 100.0
FAST = 3000.0
POLL_S = 0.3
PATIENCE_S = 240.0


class SlurmStage:
    """One run on a cluster."""

    def __init__(
        self, cluster: SlurmCluster, root: Path, server: ServerKind, rng: random.Random
    ) -> None:
        self.cluster, self.server, self.rng = cluster, server, rng
        self.place = Place(root)
        self.folder = self.place.folder
        self.tasks = TASKS[server]
        self.ledger = LedgerFile(root / "ledger.jsonl")
        self.dead_nodes: set[str] = set()
        if server == "fault server":
            write_vllm(root / "plugin")
        self.place.env = {**cluster.env, **_only_new(self.place.env)}

    # The run

    def write_recipe(self, executor: str, speed: float = SPEED, name: str = "test") -> Path:
        """The recipe, to be run here or on the cluster."""
        cluster: dict[str, Any] = {"executor": executor}
        if executor == "slurm":
            cluster |= {"partition": "low", "time_min": 10, "signal_delay_s": 60}
            cluster |= {"cpus_per_task": 4, "mem": "4000MB", "gather": {"mem": "1000MB"}}
            cluster["setup"] = [f"export PYTHONPATH={self.place.env['PYTHONPATH']}"]
        changes: dict[str, Any] = {
            "tasks": self.tasks,
            "client": {"parallelism": 8, "stall_timeout_s": 10.0, "retry_budget_s": 60},
            "cluster": cluster,
            "output": {"dir": str(self.place.root / "runs"), "name": name},
        }
        serving = {"kind": "vllm", "gpus": 0, "stream_interval": 32, "max_restarts": 10}
        if self.server == "fault server":
            switches = {**ANSWERS, "tokens_per_s": speed, "ledger": str(self.ledger.path)}
            changes["generation"] = {"temperature": 0, "max_tokens": 4000}
            extra = {name.replace("_", "-"): value for name, value in switches.items()}
            serving |= {"extra_args": extra, "shutdown_timeout_s": 2}
        else:
            demo = yaml.safe_load((REPOSITORY / "recipes" / "demo.yaml").read_text())
            changes |= {
                "generation": demo["generation"],
                "models": {"m": {"path": str(CHECKPOINT)}},
            }
            env = {**demo["serving"]["env"], "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}
            # Prefix caching: continuations of a Mamba model in one step kill vLLM 0.32's CPU engine
            # with it (mamba_mixer2 indexes states that the CPU operator does not return).
            own = {"max_model_len": 2304, "enable_prefix_caching": False, "env": env}
            serving = {**demo["serving"], **serving, **own}
        return self.place.write_recipe(serving, **changes)

    def evalkit(self, *arguments: str | Path) -> str:
        """What a command says; it must succeed."""
        return finish(self.place.start(*arguments))

    def submit(self, *options: str) -> None:
        """Submit, or resume."""
        self.evalkit("submit", self.write_recipe("slurm"), *options)

    def owed(self) -> int:
        """Units that the journals lack."""
        single = {name: SINGLE_CALL[name] for name in self.tasks}
        return survey_run(self.folder, load_plan(self.folder), single).total

    def lines(self) -> int:
        """Records in all journals: finished calls and chunks of those that are not."""
        return sum(
            path.read_bytes().count(b"\n") for path in self.folder.root.glob("journal/*/*/*.jsonl")
        )

    # Jobs

    def jobs(self) -> dict[str, tuple[str, str]]:
        """Elements of this run that Slurm has: id -> (state, node)."""
        ids = {job.job_id for job in read_jobs(self.folder)}
        text = self.cluster.run("squeue", "-h", "-r", "-o", "%i|%T|%N|%A")
        rows = [line.split("|") for line in text.splitlines()]
        return {
            name: (state, node)
            for name, state, node, _ in rows
            if name.split("_")[0] in ids or name in ids
        }

    def replicas(self) -> dict[str, tuple[str, str]]:
        """As `jobs`, without the gather."""
        gathers = {job.job_id for job in read_jobs(self.folder) if job.role != "replicas"}
        return {k: v for k, v in self.jobs().items() if k.split("_")[0] not in gathers}

    def running(self) -> tuple[str, str]:
        """One running replica: id of its element and its node."""

        def find() -> list[tuple[str, str]]:
            found = self.replicas().items()
            return sorted((name, node) for name, (state, node) in found if state == "RUNNING")

        found: list[tuple[str, str]] = self.wait(find, "a replica runs")
        return self.rng.choice(found)

    # Processes

    def processes(self, marker: str, text: str = "") -> dict[int, str]:
        """Living processes of this run with a variable, and `text` in their command line."""
        found = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                value = process.environ().get(marker)
                mine = str(self.folder.root) in " ".join(process.environ().values())
                ours = str(self.place.root) in process.environ().get("PYTHONPATH", "")
                if value is None or not (mine or ours) or text not in " ".join(process.cmdline()):
                    continue
                if process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid] = value
        return found

    def servers(self) -> dict[int, str]:
        """Servers, without their keepers."""
        return self.processes(MARKER, "vllm.entrypoints")

    def server_pids(self) -> list[int]:
        """The main processes of servers."""
        found = []
        for pid in self.servers():
            with contextlib.suppress(psutil.Error):
                if "keeper.py" not in " ".join(psutil.Process(pid).cmdline()):
                    found.append(pid)
        return sorted(found)

    # Time

    def wait(self, probe: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
        """The first truthy value of `probe`."""
        deadline = time.monotonic() + patience_s
        while not (value := probe()):
            if time.monotonic() > deadline:
                raise StuckError(f"not within {patience_s:.0f} s: {what}\n{self.describe()}")
            time.sleep(POLL_S)
        return value

    def wait_for_lines(self, count: int) -> bool:
        """Wait for so many more records; False when there is nothing left to do."""
        goal = self.lines() + count
        self.wait(lambda: self.lines() >= goal or not self.replicas(), f"{count} more records")
        return self.lines() >= goal

    def describe(self) -> str:
        """What is going on."""
        logs = sorted(self.folder.root.glob("logs/*/attempt-*/worker.log"))
        ends = [f"{path}\n{path.read_text(errors='replace')[-1500:]}" for path in logs[-2:]]
        queue = self.cluster.run("squeue", "-o", "%i %T %N %r")
        return "\n".join([queue, f"{self.lines()} records, {self.owed()} owed", *ends])

    # The end

    def mend_nodes(self) -> None:
        """Bring dead nodes back."""
        for node in sorted(self.dead_nodes):
            self.cluster.script("start-node", node)
        self.dead_nodes.clear()

    def hasten(self) -> None:
        """Let fault servers be fast from now on."""
        if self.server == "fault server":
            for event in self.ledger.read().servers:
                with contextlib.suppress(OSError):
                    Server(event["port"]).switch(tokens_per_s=FAST)

    def leave(self) -> None:
        """End what is left, however it is left."""
        with contextlib.suppress(AssertionError):
            self.mend_nodes()
            for job in self.jobs():
                self.cluster.run("scancel", job)
            self.wait(lambda: not self.jobs(), "all jobs are gone")
        for pid in living_pids(str(self.place.root)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def caches(self) -> list[str]:
        """Folders of servers' caches that are still there."""
        run = load_plan(self.folder).run_id
        return [str(p) for p in Path(tempfile.gettempdir()).glob(f"evalkit-{run}-*")]


def _only_new(env: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in env.items() if k in ("PYTHONPATH", "PYTHONWARNINGS", "NO_COLOR")}


def run_here(stage: SlurmStage) -> None:
    """The same recipe without Slurm, where nothing disturbs it."""
    recipe = stage.write_recipe("local", FAST)
    finish(stage.place.start("run", recipe))
