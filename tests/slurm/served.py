"""Runs on the real Slurm with real workers, each beside a fault server of its own.

How a replica's server behaves comes from the variable FAULTS of its job, so that replicas of one run
can differ: slow and fast ones, servers that never get ready, servers that do not end.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.attempts import read_attempts
from evalkit.cluster.cancel import cancel_run
from evalkit.cluster.jobs import read_jobs
from evalkit.cluster.status import run_status
from evalkit.cluster.submit import submit_run
from evalkit.recipe.schema import Client
from evalkit.recipe.serving import CommandServing
from evalkit.serving.tree import MARKER
from tests.faults.harness import Server, server_of
from tests.slurm.conftest import WAIT_S
from tests.unit.cluster.builders import make_cluster, make_plan, make_task, write_run
from tests.unit.serving.support import writing_to

if TYPE_CHECKING:
    from evalkit.cluster.cancel import Cancelled
    from evalkit.cluster.status import RunStatus
    from evalkit.cluster.submit import Submission
    from tests.slurm.conftest import SlurmCluster

REPOSITORY = Path(__file__).parents[2]
SERVER = (
    *("bash", "-c", 'exec "$@" $FAULTS', "sh"),
    *(sys.executable, "-m", "tests.faults.fault_server", "--port", "{port}"),
    *("--api-key", "{api_key}", "--model", "{served_model_name}"),
)
SETTINGS: dict[str, Any] = {
    "time_min": 10,
    "signal_delay_s": 60,
    "mem": "400MB",
    "gather": {"mem": "400MB"},
}


class ServedRun:
    """One run on the cluster, and what its tests ask of it."""

    def __init__(
        self,
        cluster: SlurmCluster,
        root: Path,
        *,
        units: int,
        shards: int,
        parallelism: int = 4,
        command: tuple[str, ...] = SERVER,
    ) -> None:
        serving = CommandServing(kind="command", command=command, gpus=1, max_model_len=4096)
        plan = make_plan(make_task(n_samples=units, n_shards=shards), serving=serving)
        client = Client(parallelism=parallelism)
        self.cluster = cluster
        self.plan = plan.model_copy(update={"client": client})
        self.folder = write_run(root, self.plan)

    def submit(
        self, faults: str = "", replicas: int | None = None, setup: str = "true", **changes: Any
    ) -> Submission:
        """Submit replicas whose servers have these faults."""
        lines = [setup, f"export PYTHONPATH={REPOSITORY}"]
        settings = {**SETTINGS, "env": {"FAULTS": faults}, "setup": lines, **changes}
        return submit_run(
            self.folder,
            self.plan,
            make_cluster(**settings),
            clock=SYSTEM_CLOCK,
            env=self.cluster.env,
            replicas=replicas,
        )

    def cancel(self, wait_s: float = WAIT_S) -> Cancelled:
        """Cancel the run. It takes as long as the machine needs to end its processes."""
        return cancel_run(self.folder, clock=SYSTEM_CLOCK, env=self.cluster.env, wait_s=wait_s)

    def status(self) -> RunStatus:
        """The run now."""
        return run_status(self.folder, clock=SYSTEM_CLOCK, env=self.cluster.env)

    def wait_for_state(self, element: str, state: str, limit_s: float = WAIT_S) -> None:
        """Until squeue says so of a job; `""` when it has gone."""

        def reached() -> bool:
            rows = self.cluster.run("squeue", "-h", "-r", "-o", "%i %T").splitlines()
            return dict(row.split() for row in rows).get(element, "") == state

        self.cluster.wait_for(f"{element} is {state or 'gone'}", reached, limit_s)

    def wait_for_log(
        self, replica: str, text: str, attempt: int = 1, limit_s: float = WAIT_S
    ) -> None:
        """Until a worker has said this."""
        path = self.folder.worker_log(replica, attempt)
        self.cluster.wait_for(
            f"{replica} says {text!r}", lambda: path.exists() and text in path.read_text(), limit_s
        )

    def wait_for_answers(self, number: int, limit_s: float = WAIT_S) -> None:
        """Until so many answers are journaled."""
        self.cluster.wait_for(f"{number} answers", lambda: self.status().done >= number, limit_s)

    def wait_for_drain(self) -> None:
        """Until an attempt has been told to stop."""
        self.cluster.wait_for(
            "a drain", lambda: any(record.reason for record in read_attempts(self.folder))
        )

    def server(self, replica: str = "r0") -> Server:
        """The server of a replica's first attempt, once it is ready."""
        facts = self.folder.server_facts(replica, 1)
        self.cluster.wait_for(f"{replica} has a server", facts.exists)
        return server_of(self.folder, replica)

    def finish(self, limit_s: float = WAIT_S) -> RunStatus:
        """Until the run is over; it must be complete."""
        status = self.cluster.wait_for(
            "the run is over", lambda: (s := self.status()).is_over and s, limit_s
        )
        assert (status.phase, status.done) == ("complete", status.expected), status.message
        return status

    def results(self) -> dict[str, Any]:
        """results.json of the only task."""
        found: dict[str, Any] = json.loads(self.folder.results("sums").read_bytes())
        return found

    def queued(self) -> list[str]:
        """What squeue shows of the run."""
        name = f"evalkit-{self.plan.run}-{self.plan.run_id}"
        rows = self.cluster.run("squeue", "-h", "-r", f"--name={name}", "-o", "%i %T %r")
        ours = {job.job_id for job in read_jobs(self.folder)}
        return [row for row in rows.splitlines() if row.split()[0].split("_")[0] in ours]

    def processes(self) -> list[psutil.Process]:
        """All processes of the run on all nodes, which are this machine: workers, keepers, servers, and
        what of these hides its environment and its command line but writes to the run's logs."""
        writing = {process.pid for process in writing_to(self.folder.root)}
        return [p for p in psutil.process_iter() if p.pid in writing or self._is_ours(p)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            command = " ".join(process.cmdline())
            variables = process.environ()
        except psutil.Error:
            return False
        here = self.cluster.env["SLURM_CONF"]
        if variables.get("SLURM_CONF", here) != here:
            return False  # of another cluster, where a run has the same name
        marker = variables.get(MARKER, "")
        home = variables.get("SLURM_JOB_NAME", "")
        name = f"evalkit-{self.plan.run}-{self.plan.run_id}"
        ours = str(self.folder.root) in command or home == name
        return ours or marker.startswith(f"{self.plan.run_id}-")
