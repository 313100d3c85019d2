"""Every path of a run. Nobody else joins names.

The layout is that of a run on disk in the design: written-once files at the top, journals that are
only appended to, hints that may be lost (leases, replicas, markers), logs per attempt, artifacts.
Nothing here reads or writes; `evalkit.store.run` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.plan.model import Shard
    from evalkit.recipe.schema import Profile

JOURNAL_SUFFIX = ".jsonl"
LEASE_SUFFIX = ".lock"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths below one run's folder."""

    root: Path
    profile: Profile | None = None
    """Profile that the artifacts are scored by, where it is not the run's own."""

    @property
    def recipe(self) -> Path:
        """The recipe with all its layers merged (YAML): it loads again, and variables are named in it.
        Resolved values are in the plan and in `run_config`."""
        return self.root / "recipe.yaml"

    @property
    def recipe_as_given(self) -> Path:
        """The text the user wrote, but for what looks like a key."""
        return self.root / "recipe.given.yaml"

    @property
    def plan(self) -> Path:
        """The plan (JSON), written once."""
        return self.root / "plan.json"

    @property
    def provenance(self) -> Path:
        """Who and what made the plan: versions, commit, command (JSON)."""
        return self.root / "provenance.json"

    def requests(self, task: str) -> Path:
        """Frozen samples of a task, one JSON line each, zstandard."""
        return self.root / "tasks" / task / "requests.jsonl.zst"

    def journals(self, shard: Shard) -> Path:
        """Folder of a shard's journals, one file per attempt that leased it."""
        return self.root / "journal" / shard.task / shard.name

    def journal(self, shard: Shard, attempt: str) -> Path:
        """The journal one attempt writes for one shard."""
        return self.journals(shard) / f"{attempt}{JOURNAL_SUFFIX}"

    @property
    def leases(self) -> Path:
        """Folder of leases and of done markers: hints."""
        return self.root / "leases"

    def lease(self, shard: Shard) -> Path:
        """Lock file of a shard."""
        return self.leases / shard.task / f"{shard.name}{LEASE_SUFFIX}"

    def marker(self, shard: Shard) -> Path:
        """Hint that all units of a shard are done (JSON: sizes of the journals that say so)."""
        return self.leases / shard.task / f"{shard.name}.done"

    def grading(self, task: str, identity: str) -> RunFolder:
        """What was found about a task's answers by one grader (its fingerprint): journals, leases and
        logs, laid out as those of a run."""
        return RunFolder(self.root / "gradings" / task / identity[:12])

    def gradings(self) -> list[RunFolder]:
        """All gradings that are there."""
        return [RunFolder(path) for path in sorted(self.root.glob("gradings/*/*"))]

    @property
    def grader(self) -> Path:
        """In the folder of a grading: what its grader was, by key (JSON)."""
        return self.root / "grader.json"

    @property
    def replicas(self) -> Path:
        """Folder of the replicas' status files."""
        return self.root / "replicas"

    def replica(self, replica: str) -> Path:
        """Heartbeat and counters of a replica (JSON): a hint."""
        return self.replicas / f"{replica}.json"

    def loan(self, replica: str) -> Path:
        """Where another replica finds the server of this one, and its key (JSON, mode 0600)."""
        return self.replicas / f"{replica}.loan"

    def loans(self) -> list[Path]:
        """All loans that are there."""
        return sorted(self.replicas.glob("*.loan"))

    @property
    def cluster(self) -> Path:
        """Folder of submission records: scripts, pickles and job ids."""
        return self.root / "cluster"

    @property
    def cluster_settings(self) -> Path:
        """The resolved cluster settings of the last submission (JSON)."""
        return self.cluster / "settings.json"

    @property
    def current_plan(self) -> Path:
        """The plan with the servers and client settings of the last recipe (JSON), once they differ
        from those it was made with."""
        return self.cluster / "plan.json"

    @property
    def gather_place(self) -> RunFolder:
        """Where attempts of the job behind the replicas are on record, apart from the replicas'."""
        return RunFolder(self.cluster / "gather")

    @property
    def jobs(self) -> Path:
        """What was submitted, one JSON line per submission."""
        return self.cluster / "jobs.jsonl"

    @property
    def submit_lock(self) -> Path:
        """Lock file of whoever submits."""
        return self.cluster / "submit.lock"

    @property
    def cancelled(self) -> Path:
        """Number of the last submission that was cancelled (text)."""
        return self.cluster / "cancelled"

    def turn(self, job_id: str) -> Path:
        """Which of several runs a shared job works for; in the folder of the first of them."""
        return self.cluster / f"{job_id}.turn"

    def job_log(self, element: str) -> Path:
        """What a job itself wrote, all its executions: `123`, `123_4` for an element of an array."""
        return self.cluster / f"{element}_0_log.out"

    @property
    def stdout(self) -> Path:
        """Log of the run as a whole: submissions, attempts, gathers."""
        return self.root / "logs" / "stdout.log"

    def replica_logs(self, replica: str) -> Path:
        """Folder of a replica's attempts."""
        return self.root / "logs" / replica

    def attempt_logs(self, replica: str, attempt: int) -> Path:
        """Folder of one attempt's logs."""
        return self.replica_logs(replica) / f"attempt-{attempt}"

    def attempt_record(self, replica: str, attempt: int) -> Path:
        """Where and how long an attempt ran, and how it ended (JSON)."""
        return self.attempt_logs(replica, attempt) / "attempt.json"

    def worker_log(self, replica: str, attempt: int) -> Path:
        """What the worker of an attempt said."""
        return self.attempt_logs(replica, attempt) / "worker.log"

    def server_log(self, replica: str, attempt: int) -> Path:
        """What the server of an attempt said."""
        return self.attempt_logs(replica, attempt) / "server.log"

    def server_facts(self, replica: str, attempt: int) -> Path:
        """Version, command line and host of an attempt's servers (JSON lines)."""
        return self.attempt_logs(replica, attempt) / "server.json"

    def telemetry(self, replica: str, attempt: int) -> Path:
        """How busy the servers and GPUs of an attempt were (JSON lines)."""
        return self.attempt_logs(replica, attempt) / "telemetry.jsonl"

    def harness(self, task: str, sample: int, repeat: int, name: str) -> Path:
        """What a program wrote that asked the model for one unit; `name` is an attempt's, or that of a
        further try in it."""
        return self.root / "harness" / task / f"{sample}-{repeat}" / name

    def artifacts(self, task: str | None = None) -> Path:
        """Folder of a task's artifacts, or of all."""
        below = self.root / "artifacts"
        if self.profile is not None:
            below = self.root / "rescored" / self.profile
        return below / task if task else below

    def results(self, task: str) -> Path:
        """Headline, metrics, counts and provenance of a task (JSON, schema shipped)."""
        return self.artifacts(task) / "results.json"

    def samples(self, task: str) -> Path:
        """One JSON line per unit: answer, scores, outcome; zstandard."""
        return self.artifacts(task) / "samples.jsonl.zst"

    def native(self, task: str) -> Path:
        """Folder of what a harness wrote itself about a task, where it has one."""
        return self.artifacts(task) / "native"

    def metrics(self, task: str) -> Path:
        """All metrics, flat, by the field's names (JSON)."""
        return self.artifacts(task) / "metrics.json"

    def traffic(self, task: str) -> Path:
        """How the task's calls went over time, in bins (JSON), for plots."""
        return self.artifacts(task) / "traffic.json"

    def run_config(self, task: str) -> Path:
        """The resolved settings of a task (YAML)."""
        return self.artifacts(task) / "run_config.yaml"

    def exports(self, kind: str) -> Path:
        """Where the results go in the form of another tool, unless somebody says where."""
        return self.root / "exports" / (kind if self.profile is None else f"{kind}-{self.profile}")

    @property
    def summary(self) -> Path:
        """All tasks of the run (JSON)."""
        return self.artifacts() / "summary.json"

    @property
    def report(self) -> Path:
        """All of it for a person: one page (HTML) that loads nothing."""
        return self.artifacts() / "report.html"

    @property
    def restricted_report(self) -> Path:
        """The same with data that may not be republished; not among what is passed on."""
        return self.root / "report.restricted.html"


def attempt_id(replica: str, attempt: int) -> str:
    """Name of an attempt in journals: `r0.a1`."""
    return f"{replica}.a{attempt}"
