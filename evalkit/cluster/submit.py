"""Submit what a run still owes: replicas as Slurm arrays, and the gather that follows them.

Submitting a run again is how it is resumed, so a submit first asks what is owed (the journals say it)
and whether jobs of the run still live (Slurm says it), and adds nothing when there is no need. All
scripts are rendered, and all secrets found, before the first job exists.
"""

from __future__ import annotations

import contextlib
import io
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from filelock import FileLock, Timeout
from submitit.core.utils import FailedJobError, FailedSubmissionError

from evalkit.benchmarks.registry import benchmark_class
from evalkit.cluster import env as environment
from evalkit.cluster.credentials import collect_secrets, secrets_file, write_secrets
from evalkit.cluster.executor import (
    GATHER_TIME_MIN,
    MAX_TIMEOUTS,
    JobShape,
    check_folder,
    make_executor,
    render_gather_parameters,
    render_parameters,
    render_python,
    render_setup,
    replica_gpus,
)
from evalkit.cluster.job import GatherJob, ReplicaJob
from evalkit.cluster.jobs import JobRecord, append_job, job_name, read_jobs
from evalkit.cluster.live import live_elements
from evalkit.cluster.local import DetachedExecutor, assign_gpus, started_at, visible_gpus
from evalkit.cluster.replica_report import read_reports
from evalkit.cluster.script import split_replicas
from evalkit.cluster.slurm import SlurmCommands
from evalkit.errors import ClusterError
from evalkit.store.run import save_cluster
from evalkit.store.union import owed_units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from evalkit.clock import Clock
    from evalkit.plan.model import Plan
    from evalkit.recipe.schema import Cluster
    from evalkit.store.layout import RunFolder

LOCAL_ATTEMPTS = 7
"""submitit's local controller runs a job at most so often (six retries at its time limit)."""
LOCK_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Submission:
    """What a submit did."""

    kind: Literal["submitted", "already_running", "nothing_owed"]
    owed: dict[str, int]
    """Units owed by task, when it was looked up."""
    jobs: tuple[JobRecord, ...] = ()
    """Jobs submitted now, or those that still live."""
    warnings: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One line for a person."""
        if self.kind == "nothing_owed":
            return "nothing is owed: every planned unit has an outcome; `evalkit gather` scores it"
        ids = ", ".join(f"{job.job_id} ({job.role})" for job in self.jobs)
        if self.kind == "already_running":
            return f"jobs of this run are still there, nothing was added: {ids}"
        return f"submitted {sum(self.owed.values())} owed units as {ids}"


def submit_run(
    folder: RunFolder,
    plan: Plan,
    cluster: Cluster,
    *,
    clock: Clock,
    env: Mapping[str, str],
) -> Submission:
    """Submit the run, or what is left of it.

    `env` is the user's environment. Raises ClusterError when there is no
    Slurm or it refuses, RecipeError for a secret that is not set, StoreError.
    """
    submitter = Submitter(folder, plan, cluster, clock, env)
    if cluster.executor == "slurm":
        check_slurm(env)
    check_folder(folder.root)
    folder.cluster.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.cluster / "submit.lock", timeout=LOCK_WAIT_S)
    try:
        with lock:
            return submitter.submit()
    except Timeout as error:
        raise ClusterError(
            "another `evalkit submit` of this run is at work",
            hint="Wait for it; `evalkit status` shows what it submitted.",
        ) from error


def check_slurm(env: Mapping[str, str]) -> None:
    """Raise ClusterError when jobs cannot be submitted from this machine."""
    commands = SlurmCommands(env)
    for program in ("sbatch", "srun"):
        if not commands.has(program):
            raise ClusterError(
                f"no Slurm on this machine: {program} is not on PATH",
                hint="Use `evalkit run` to evaluate here and now, set cluster.executor: local for "
                "background processes, or submit from a login node of the cluster.",
            )


@dataclass(slots=True)
class Submitter:
    """One submit of one run."""

    folder: RunFolder
    plan: Plan
    cluster: Cluster
    clock: Clock
    env: Mapping[str, str]
    submitted: list[JobRecord] = field(default_factory=list)
    number: int = 1

    def submit(self) -> Submission:
        """See `submit_run`."""
        known = read_jobs(self.folder)
        commands = SlurmCommands(self.env)
        reports = read_reports(self.folder)
        live = live_elements(known, commands, now=self.clock.wall(), reports=reports)
        if live:
            jobs = tuple(job for job in known if live.intersection(job.elements))
            return Submission("already_running", {}, jobs)
        single = {t.name: benchmark_class(t.benchmark).single_call for t in self.plan.tasks}
        owed = owed_units(self.folder, self.plan, single)
        if not any(owed.values()):
            return Submission("nothing_owed", owed)
        self.number = max((job.submission for job in known), default=0) + 1
        replicas = min(self.cluster.replicas, sum(owed.values()))
        secrets = collect_secrets(self.plan, self.env)
        sent = environment.submission_environment(self.env, frozenset(secrets))
        if self.cluster.executor == "local":
            send = self._plan_local(replicas)
        else:
            send = self._plan_slurm(replicas, commands)
        if secrets:
            write_secrets(secrets_file(self.folder, self.plan), secrets)
        save_cluster(self.folder, self.cluster)
        with environment.process_environment(sent):
            warnings = send()
        self._remove_links()
        return Submission("submitted", owed, tuple(self.submitted), (*self._dropped(), *warnings))

    def _plan_slurm(self, replicas: int, commands: SlurmCommands) -> Callable[[], tuple[str, ...]]:
        """Render everything; what is returned submits it."""
        name = job_name(self.plan)
        parameters = render_parameters(self.cluster, JobShape(name, replica_gpus(self.plan)))
        # submitit renders the script once to validate it: a bad value fails before any job exists
        executor = make_executor(self.folder.cluster, self.cluster, parameters)
        gather = render_gather_parameters(self.cluster, name, ["1"])
        make_executor(self.folder.cluster, self.cluster, gather)
        parts = split_replicas(replicas, commands.max_array_size())

        def send() -> tuple[str, ...]:
            for part in parts:
                jobs = [ReplicaJob(str(self.folder.root.absolute()), index) for index in part]
                with self._refusals("replicas"):
                    first = executor.submit_array(jobs)[0].job_id
                self._record(first.split("_")[0], part)
            return self._send_gather([job.job_id for job in self.submitted])

        return send

    def _send_gather(self, after: list[str]) -> tuple[str, ...]:
        """Submit the gather; replicas that are queued already are not lost to its refusal."""
        gather = render_gather_parameters(self.cluster, job_name(self.plan), after)
        executor = make_executor(self.folder.cluster, self.cluster, gather)
        try:
            with self._refusals("gather"):
                job = executor.submit(GatherJob(str(self.folder.root.absolute())))
        except ClusterError as error:
            return (f"{error.message}. Type `evalkit gather` when the replicas have ended.",)
        self._record(job.job_id, range(0))
        return ()

    def _plan_local(self, replicas: int) -> Callable[[], tuple[str, ...]]:
        each = replica_gpus(self.plan) if self.cluster.gpu_request != "none" else 0
        gpus = assign_gpus(visible_gpus(self.env), replicas, each)
        setup = render_setup(self.cluster)

        def send() -> tuple[str, ...]:
            root = str(self.folder.root.absolute())
            for index, devices in enumerate(gpus):
                executor = self._local_executor(self.cluster.time_min, setup, devices)
                job = executor.submit(ReplicaJob(root, index))
                self._record(job.job_id, range(index, index + 1))
            after = tuple((int(j.job_id), j.started or 0.0) for j in self.submitted)
            limit = self.cluster.time_min * LOCAL_ATTEMPTS + GATHER_TIME_MIN
            executor = self._local_executor(limit, setup, "")
            self._record(executor.submit(GatherJob(root, after)).job_id, range(0))
            return ()

        return send

    def _local_executor(self, minutes: int, setup: list[str], devices: str) -> DetachedExecutor:
        executor = DetachedExecutor(
            self.folder.cluster, max_num_timeout=MAX_TIMEOUTS, python=render_python(self.cluster)
        )
        executor.update_parameters(
            timeout_min=minutes,
            signal_delay_s=min(self.cluster.signal_delay_s, minutes * 60 - 1),
            setup=setup,
            cuda_devices=devices,
        )
        return executor

    def _record(self, job_id: str, replicas: range) -> None:
        local = self.cluster.executor == "local"
        script = f"{self.folder.cluster.name}/{job_id}_submission.sh"
        record = JobRecord(
            submission=self.number,
            time=self.clock.wall(),
            host=socket.gethostname(),
            executor=self.cluster.executor,
            name=job_name(self.plan),
            job_id=job_id,
            role="replicas" if replicas else "gather",
            replicas=tuple(f"r{index}" for index in replicas),
            is_array=not local and len(replicas) > 1,
            script=None if local else script,
            started=started_at(int(job_id)) if local else None,
        )
        append_job(self.folder, record)
        self.submitted.append(record)

    @contextlib.contextmanager
    def _refusals(self, what: str) -> Iterator[None]:
        """Turn submitit's failures into Slurm's own words."""
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it raises
                yield
        except (FailedJobError, FailedSubmissionError, RuntimeError) as error:
            queued = ", ".join(job.job_id for job in self.submitted)
            raise ClusterError(
                f"sbatch refused the {what}: {str(error).strip()}",
                hint="See `evalkit submit --dry-run` for the script; partition, account, qos and "
                "free options are keys of `cluster` or its template."
                + (f" Jobs {queued} are queued already." if queued else ""),
            ) from error

    def _remove_links(self) -> None:
        """Remove submitit's absolute links: a run folder may be moved."""
        for link in self.folder.cluster.glob(".submission_file_*.sh"):
            link.unlink(missing_ok=True)

    def _dropped(self) -> tuple[str, ...]:
        names = sorted(name for name in self.env if name.startswith("SBATCH_"))
        if not names:
            return ()
        return (f"ignored {', '.join(names)}: put such options into `cluster` of the recipe",)
