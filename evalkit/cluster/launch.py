"""Start replicas and the gather that follows them: as Slurm arrays, or as processes of this machine.

A launch renders all scripts when it is made, so that a bad setting fails before the first job exists,
and notes every job right after it exists. Replicas may join others that run: then the gather that
waits for those waits for the new ones too. Nothing here decides whether a run needs replicas.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from submitit.core.utils import FailedJobError, FailedSubmissionError

from evalkit.cluster.attempts import read_attempts
from evalkit.cluster.executor import MAX_TIMEOUTS, make_executor
from evalkit.cluster.job import GatherJob
from evalkit.cluster.jobs import JobRecord, append_job, job_name, read_fence
from evalkit.cluster.local import DetachedExecutor, assign_gpus, visible_gpus
from evalkit.cluster.parameters import (
    GatherShape,
    JobShape,
    render_gather_parameters,
    render_parameters,
    render_python,
    render_setup,
)
from evalkit.cluster.processes import find_process, kill_tree, started_at
from evalkit.cluster.requeue import bad_nodes, choose_excluded, given_exclude
from evalkit.cluster.script import share_parallelism, split_replicas
from evalkit.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from evalkit.clock import Clock
    from evalkit.cluster.order import Member, Order
    from evalkit.cluster.slurm import SlurmCommands
    from evalkit.recipe.schema import Cluster
    from evalkit.store.layout import RunFolder

LOCAL_ATTEMPTS = 7
"""submitit's local controller runs a job at most so often (six retries at its time limit)."""


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
    others: dict[RunFolder, list[JobRecord]] = field(default_factory=dict)
    """The same of each run that shares the replicas."""

    def record(self, job_id: str, replicas: range, gpus: str | None = None) -> None:
        """Note replicas that now exist, in every run that they work for. Raises StoreError."""
        roots = [member.folder.root for member in self.order.members]
        for member in self.order.members:
            here = member.folder.root
            others = tuple(os.path.relpath(root, here) for root in roots if root != here)
            record = replace(
                self._record(member, job_id, replicas),
                is_array=self.order.cluster.executor == "slurm" and len(replicas) > 1,
                gpus=gpus,
                shared=others,
                owner=os.path.relpath(roots[0], here),
            )
            self._append(member, record)

    def record_gather(self, member: Member, job_id: str) -> None:
        """Note the job behind the replicas of one run. Raises StoreError."""
        self._append(member, self._record(member, job_id, range(0)))

    def _append(self, member: Member, record: JobRecord) -> None:
        append_job(member.folder, record)
        self.jobs_of(member.folder).append(record)

    def _record(self, member: Member, job_id: str, replicas: range) -> JobRecord:
        order = self.order
        local = order.cluster.executor == "local"
        # replicas are the first run's, whoever shares them
        owner = order.members[0] if replicas else member
        script = owner.folder.cluster / f"{job_id}_submission.sh"
        return JobRecord(
            submission=member.submission,
            time=self.clock.wall(),
            host=socket.gethostname(),
            executor=order.cluster.executor,
            name=job_name(owner.plan),
            job_id=job_id,
            role="replicas" if replicas else "gather",
            replicas=tuple(f"r{index}" for index in replicas),
            is_array=False,
            script=None if local else os.path.relpath(script, member.folder.root),
            started=started_at(int(job_id)) if local else None,
        )

    def jobs_of(self, folder: RunFolder) -> list[JobRecord]:
        """What was started for one of the runs."""
        return self.jobs if folder == self.order.folder else self.others.setdefault(folder, [])


class SlurmLaunch(Launch):
    """Replicas as job arrays."""

    def __init__(self, order: Order, clock: Clock, commands: SlurmCommands) -> None:
        """Raises ClusterError for settings that no job can have."""
        super().__init__(order, clock)
        self._commands = commands
        cluster, name = order.cluster, job_name(order.plan)
        kill_wait_s = commands.kill_wait_s()
        shape = JobShape(name, order.gpus, order.folder.root, kill_wait_s)
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
        first = self.order.first
        for part, most in zip(self._parts, self._shares, strict=True):
            self._check_fence()
            numbers = range(first + part.start, first + part.stop)
            self._executor.update_parameters(array_parallelism=most)
            with self._refusals("replicas"):
                jobs = self._executor.submit_array([self.order.replica(n) for n in numbers])
            self.record(jobs[0].job_id.split("_")[0], numbers)
        self._check_fence()
        warnings = self._send_gather()
        for member in self.order.then:
            warnings += self._submit_gather(
                member, [job.job_id for job in self.jobs_of(member.folder)]
            )
        return warnings

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
        warnings = self._submit_gather(
            order.members[0], [*workers, *(job.job_id for job in gathers)]
        )
        for old in gathers if not warnings else ():
            self._commands.run("scancel", "--state=PENDING", old.job_id)
        return warnings

    def _submit_gather(self, member: Member, after: list[str]) -> tuple[str, ...]:
        """The gather of one run behind these jobs; a warning where it is refused."""
        cluster, name = self.order.cluster, job_name(member.plan)
        parameters = render_gather_parameters(cluster, name, after, GatherShape.of(member.plan))
        executor = make_executor(member.folder.cluster, cluster, parameters)
        try:
            with self._refusals("gather"):
                job = executor.submit(GatherJob(str(member.folder.root.absolute())))
        except ClusterError as error:
            if self.order.only_gathers:
                raise
            return (f"{error.message}. Type `evalkit gather` when the replicas have ended.",)
        self.record_gather(member, job.job_id)
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
        each = order.gpus if order.cluster.gpu_request != "none" else 0
        held = {gpu for job in order.running if job.gpus for gpu in job.gpus.split(",")}
        count = 0 if order.only_gathers else order.cluster.replicas
        free = visible_gpus(env)
        self._gpus = assign_gpus(free, count, each, held)
        judge = max(GatherShape.of(member.plan).judge_gpus for member in order.members)
        self._judge_gpus = ",".join((free or [])[:judge])  # the replicas are gone by then
        self._setup = render_setup(order.cluster)

    def send(self) -> tuple[str, ...]:
        """Start everything; no warnings. Raises ClusterError, StoreError."""
        order = self.order
        for index, devices in enumerate(self._gpus, start=order.first):
            executor = self._executor(order.cluster.time_min, devices, order.folder)
            job = executor.submit(order.replica(index))
            self.record(job.job_id, range(index, index + 1), devices)
        here = [j for j in order.running if (j.executor, j.host) == ("local", socket.gethostname())]
        workers = [*(job for job in here if job.role == "replicas"), *self.jobs]
        after = tuple((int(job.job_id), job.started or 0.0) for job in workers)
        for member in order.members:
            own_min = GatherShape.of(member.plan).time_min
            limit = order.cluster.time_min * LOCAL_ATTEMPTS + own_min
            executor = self._executor(limit, self._judge_gpus, member.folder)
            gather = executor.submit(GatherJob(str(member.folder.root.absolute()), after))
            self.record_gather(member, gather.job_id)
        for old in here:
            if old.role == "gather":  # the new one waits for all; it writes whole files or nothing
                kill_tree(find_process(int(old.job_id), old.started))
        return ()

    def _executor(self, minutes: int, devices: str, folder: RunFolder) -> DetachedExecutor:
        cluster = self.order.cluster
        executor = DetachedExecutor(
            folder.cluster, max_num_timeout=MAX_TIMEOUTS, python=render_python(cluster)
        )
        executor.update_parameters(
            timeout_min=minutes,
            signal_delay_s=min(cluster.signal_delay_s, minutes * 60 - 1),
            setup=self._setup,
            cuda_devices=devices,
        )
        return executor
