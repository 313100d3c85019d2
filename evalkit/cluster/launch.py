"""Start replicas and the gather that follows them: as Slurm arrays, or as processes of this machine.

A launch renders all scripts when it is made, so that a bad setting fails before the first job exists,
and notes every job right after it exists. Replicas may join others that run: then the gather that
waits for those waits for the new ones too. Nothing here decides whether a run needs replicas.
"""

from __future__ import annotations

import contextlib
import io
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from submitit.core.utils import FailedJobError, FailedSubmissionError

from evalkit.cluster.attempts import read_attempts
from evalkit.cluster.executor import (
    MAX_TIMEOUTS,
    GatherShape,
    JobShape,
    make_executor,
    render_gather_parameters,
    render_parameters,
    render_python,
    render_setup,
    replica_gpus,
)
from evalkit.cluster.job import GatherJob, ReplicaJob
from evalkit.cluster.jobs import JobRecord, append_job, job_name, read_fence
from evalkit.cluster.local import (
    DetachedExecutor,
    assign_gpus,
    find_process,
    kill_tree,
    started_at,
    visible_gpus,
)
from evalkit.cluster.requeue import bad_nodes, choose_excluded, given_exclude
from evalkit.cluster.script import share_parallelism, split_replicas
from evalkit.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from evalkit.clock import Clock
    from evalkit.cluster.slurm import SlurmCommands
    from evalkit.plan.model import Plan
    from evalkit.recipe.schema import Cluster
    from evalkit.store.layout import RunFolder

LOCAL_ATTEMPTS = 7
"""submitit's local controller runs a job at most so often (six retries at its time limit)."""


@dataclass(frozen=True, slots=True)
class Order:
    """Replicas to start: `cluster.replicas` of them."""

    folder: RunFolder
    plan: Plan
    cluster: Cluster
    submission: int
    """Number of the submit they belong to; that of the running ones when they join them."""
    first: int = 0
    """Number of the first of them."""
    running: tuple[JobRecord, ...] = ()
    """Jobs of the run that live."""
    only_gathers: bool = False
    """Every answer is there: no replica is started, and the gather grades what is ungraded."""

    def running_ids(self, role: str, executor: str) -> list[str]:
        """Ids of the jobs that live, of one kind."""
        return [j.job_id for j in self.running if (j.role, j.executor) == (role, executor)]


def without_bad_nodes(
    folder: RunFolder, cluster: Cluster, commands: SlurmCommands
) -> tuple[Cluster, tuple[str, ...]]:
    """The settings without nodes on which attempts of the run failed repeatedly, and their names.

    Slurm refuses a job that excludes a node it does not know, so those are not named. Raises
    ClusterError.
    """
    bad = bad_nodes(read_attempts(folder))
    avoid = [name for name in bad if commands.run("scontrol", "show", "node", name).returncode == 0]
    if not avoid:
        return cluster, ()
    given = commands.host_names(given_exclude(cluster))
    size = commands.partition_size(cluster.partition) if cluster.partition else None
    chosen = choose_excluded(avoid, given, given, size=size, nodes=cluster.nodes)
    if chosen is None:
        return cluster, ()
    left_out = tuple(name for name in chosen if name not in given)
    free = {key: value for key, value in cluster.sbatch.items() if key.strip("-") != "exclude"}
    return cluster.model_copy(update={"exclude": ",".join(chosen), "sbatch": free}), left_out


@dataclass(slots=True)
class Launch:
    """What both kinds have in common: every job is on record as soon as it exists."""

    order: Order
    clock: Clock
    jobs: list[JobRecord] = field(default_factory=list)
    """What was started by now, the gather last; also one that was there and waits for more now."""

    def record(self, job_id: str, replicas: range, gpus: str | None = None) -> None:
        """Note a job that now exists. Raises StoreError."""
        order = self.order
        local = order.cluster.executor == "local"
        script = f"{order.folder.cluster.name}/{job_id}_submission.sh"
        record = JobRecord(
            submission=order.submission,
            time=self.clock.wall(),
            host=socket.gethostname(),
            executor=order.cluster.executor,
            name=job_name(order.plan),
            job_id=job_id,
            role="replicas" if replicas else "gather",
            replicas=tuple(f"r{index}" for index in replicas),
            is_array=not local and len(replicas) > 1,
            script=None if local else script,
            started=started_at(int(job_id)) if local else None,
            gpus=gpus,
        )
        append_job(order.folder, record)
        self.jobs.append(record)


class SlurmLaunch(Launch):
    """Replicas as job arrays."""

    def __init__(self, order: Order, clock: Clock, commands: SlurmCommands) -> None:
        """Raises ClusterError for settings that no job can have."""
        super().__init__(order, clock)
        self._commands = commands
        cluster, name = order.cluster, job_name(order.plan)
        kill_wait_s = commands.kill_wait_s()
        shape = JobShape(name, replica_gpus(order.plan), order.folder.root, kill_wait_s)
        parameters = render_parameters(cluster, shape)
        # submitit renders the script once to validate it: a bad value fails before any job exists
        self._executor = make_executor(order.folder.cluster, cluster, parameters)
        gather = render_gather_parameters(cluster, name, ["1"], GatherShape.of(order.plan))
        make_executor(order.folder.cluster, cluster, gather)
        self._parts = []
        if not order.only_gathers:
            self._parts = split_replicas(cluster.replicas, commands.max_array_size())
        self._shares = share_parallelism(parameters["array_parallelism"], self._parts)

    def send(self) -> tuple[str, ...]:
        """Submit everything; warnings. Raises ClusterError, StoreError."""
        root = str(self.order.folder.root.absolute())
        first = self.order.first
        for part, most in zip(self._parts, self._shares, strict=True):
            self._check_fence()
            numbers = range(first + part.start, first + part.stop)
            self._executor.update_parameters(array_parallelism=most)
            with self._refusals("replicas"):
                jobs = self._executor.submit_array([ReplicaJob(root, index) for index in numbers])
            self.record(jobs[0].job_id.split("_")[0], numbers)
        self._check_fence()
        return self._send_gather()

    def _check_fence(self) -> None:
        """Raise ClusterError, and leave no job, when a cancel has come over this submission."""
        if self.order.submission > read_fence(self.order.folder).submission:
            return
        if self.jobs:
            self._commands.cancel([job.job_id for job in self.jobs])
        raise ClusterError(
            "the run was cancelled while it was submitted",
            hint="`evalkit submit` starts it again.",
        )

    def _send_gather(self) -> tuple[str, ...]:
        """Let a gather follow; replicas that are queued already are not lost to its refusal."""
        order = self.order
        workers = [*order.running_ids("replicas", "slurm"), *(job.job_id for job in self.jobs)]
        gathers = [j for j in order.running if (j.role, j.executor) == ("gather", "slurm")]
        waiting = next((job for job in gathers if self._wait_also(job.job_id, workers)), None)
        if waiting is not None:
            self.jobs.append(waiting)
            return ()
        # one that runs by now reads journals that still grow: another one follows it
        after = [*workers, *(job.job_id for job in gathers)]
        shape = GatherShape.of(order.plan)
        parameters = render_gather_parameters(order.cluster, job_name(order.plan), after, shape)
        executor = make_executor(order.folder.cluster, order.cluster, parameters)
        try:
            with self._refusals("gather"):
                job = executor.submit(GatherJob(str(order.folder.root.absolute())))
        except ClusterError as error:
            if order.only_gathers:
                raise
            return (f"{error.message}. Type `evalkit gather` when the replicas have ended.",)
        self.record(job.job_id, range(0))
        for old in gathers:
            self._commands.run("scancel", "--state=PENDING", old.job_id)
        return ()

    def _wait_also(self, gather: str, workers: Sequence[str]) -> bool:
        """Let a pending gather wait for these jobs; False when it starts, or is not ours to change."""
        ended = self._commands.run(
            *("scontrol", "update", f"JobId={gather}"), f"Dependency=afterany:{':'.join(workers)}"
        )
        return ended.returncode == 0

    @contextlib.contextmanager
    def _refusals(self, what: str) -> Iterator[None]:
        """Turn submitit's failures into Slurm's own words."""
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it raises
                yield
        except (FailedJobError, FailedSubmissionError, RuntimeError) as error:
            queued = ", ".join(job.job_id for job in self.jobs)
            raise ClusterError(
                f"sbatch refused the {what}: {str(error).strip()}",
                hint="See `evalkit submit --dry-run` for the script; partition, account, qos and "
                "free options are keys of `cluster` or its template."
                + (f" Jobs {queued} are queued already." if queued else ""),
            ) from error


class LocalLaunch(Launch):
    """Replicas as background processes."""

    def __init__(self, order: Order, clock: Clock, env: Mapping[str, str]) -> None:
        """Raises ClusterError when there are too few GPUs."""
        super().__init__(order, clock)
        each = replica_gpus(order.plan) if order.cluster.gpu_request != "none" else 0
        held = {gpu for job in order.running if job.gpus for gpu in job.gpus.split(",")}
        count = 0 if order.only_gathers else order.cluster.replicas
        free = visible_gpus(env)
        self._gpus = assign_gpus(free, count, each, held)
        judge = GatherShape.of(order.plan).judge_gpus
        self._judge_gpus = ",".join((free or [])[:judge])  # the replicas are gone by then
        self._setup = render_setup(order.cluster)

    def send(self) -> tuple[str, ...]:
        """Start everything; no warnings. Raises ClusterError, StoreError."""
        order = self.order
        root = str(order.folder.root.absolute())
        for index, devices in enumerate(self._gpus, start=order.first):
            job = self._executor(order.cluster.time_min, devices).submit(ReplicaJob(root, index))
            self.record(job.job_id, range(index, index + 1), devices)
        here = [j for j in order.running if (j.executor, j.host) == ("local", socket.gethostname())]
        workers = [*(job for job in here if job.role == "replicas"), *self.jobs]
        after = tuple((int(job.job_id), job.started or 0.0) for job in workers)
        own_min = GatherShape.of(order.plan).time_min
        limit = order.cluster.time_min * LOCAL_ATTEMPTS + own_min
        gather = self._executor(limit, self._judge_gpus).submit(GatherJob(root, after))
        self.record(gather.job_id, range(0))
        for old in here:
            if old.role == "gather":  # the new one waits for all; it writes whole files or nothing
                kill_tree(find_process(int(old.job_id), old.started))
        return ()

    def _executor(self, minutes: int, devices: str) -> DetachedExecutor:
        cluster = self.order.cluster
        executor = DetachedExecutor(
            self.order.folder.cluster, max_num_timeout=MAX_TIMEOUTS, python=render_python(cluster)
        )
        executor.update_parameters(
            timeout_min=minutes,
            signal_delay_s=min(cluster.signal_delay_s, minutes * 60 - 1),
            setup=self._setup,
            cuda_devices=devices,
        )
        return executor
