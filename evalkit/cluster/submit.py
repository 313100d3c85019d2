"""Submit what a run still owes: replicas, and the gather that follows them.

Submitting a run again is how it is resumed, and how replicas are added to it. So a submit first asks
whether jobs of the run still live (Slurm says it) and what is owed (the journals say it), and adds
nothing when there is no need or nobody asked. All scripts are rendered, and all secrets found, before
the first job exists.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from filelock import FileLock, Timeout

from evalkit.benchmarks.registry import benchmark_class
from evalkit.cluster import env as environment
from evalkit.cluster.cancel import Chain
from evalkit.cluster.credentials import (
    collect_secrets,
    remove_secrets,
    secrets_file,
    write_secrets,
)
from evalkit.cluster.grading import ungraded_tasks
from evalkit.cluster.jobs import (
    JobRecord,
    is_wanted_elsewhere,
    job_name,
    read_fence,
    read_jobs,
)
from evalkit.cluster.judge_check import check_judges_here, distinct, find_judges
from evalkit.cluster.launch import LocalLaunch, SlurmLaunch, without_bad_nodes
from evalkit.cluster.live import live_elements
from evalkit.cluster.order import Member, Order
from evalkit.cluster.parameters import check_folder
from evalkit.cluster.replica_report import read_reports
from evalkit.cluster.slurm import SlurmCommands
from evalkit.errors import ClusterError, StoreError
from evalkit.recipe.serving import LocalServing
from evalkit.store.leases import forget_leases
from evalkit.store.run import load_cluster, save_cluster
from evalkit.store.survey import survey_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from evalkit.clock import Clock
    from evalkit.cluster.replica_report import ReplicaReport
    from evalkit.plan.model import Plan
    from evalkit.recipe.schema import Cluster
    from evalkit.store.layout import RunFolder

LOCK_WAIT_S = 5.0
MOST_PROBLEMS = 10
"""Warnings about damage that one submit gives; results.json lists all."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What a submit did."""

    kind: Literal["submitted", "added", "already_running", "nothing_owed", "grading"]
    owed: dict[str, int]
    """Units owed by task, when it was looked up."""
    jobs: tuple[JobRecord, ...] = ()
    """Jobs submitted now, or those that still live; of added ones, with the gather that follows."""
    warnings: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One line for a person."""
        if self.kind == "nothing_owed":
            return "nothing is owed: every planned unit has an outcome; `evalkit gather` scores it"
        ids = ", ".join(f"{job.job_id} ({job.role})" for job in self.jobs)
        if self.kind == "grading":
            return f"every answer is there, some are not graded: submitted as {ids}"
        if self.kind == "already_running":
            return (
                f"jobs of this run are still there, nothing was added: {ids}; "
                "`--replicas N` adds N replicas to them"
            )
        if self.kind == "added":
            names = [name for job in self.jobs for name in job.replicas]
            return f"added {', '.join(names)} to what runs, as {ids}"
        return f"submitted {sum(self.owed.values())} owed units as {ids}"


def submit_run(
    folder: RunFolder,
    plan: Plan,
    cluster: Cluster,
    *,
    clock: Clock,
    env: Mapping[str, str],
    replicas: int | None = None,
) -> Submission:
    """Submit the run, or what is left of it.

    `env` is the user's environment. `replicas` is how many to start: instead of `cluster.replicas`
    where the run does not run, and beside those that work on it where it does; without it nothing is
    added there. Raises ClusterError when there is no Slurm or it refuses, RecipeError for a secret
    that is not set, EndpointError for a judge that refuses us, StoreError.
    """
    if cluster.executor == "slurm":
        check_slurm(env)
    with submitting(folder):
        return Submitter(folder, plan, cluster, clock, env, replicas).submit()


@contextlib.contextmanager
def submitting(folder: RunFolder) -> Iterator[None]:
    """Keep others from submitting the run. Raises ClusterError, StoreError."""
    check_folder(folder.root)
    lock = FileLock(folder.submit_lock, timeout=LOCK_WAIT_S)
    try:
        folder.cluster.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise ClusterError(
            "another `evalkit submit` of this run is at work",
            hint="Wait for it; `evalkit status` shows what it submitted.",
        ) from error
    except OSError as error:
        raise StoreError(
            f"cannot write {lock.lock_file}: {error.strerror or error}",
            hint="Nothing was submitted: check free space, quota and permissions of the run folder.",
        ) from error
    try:
        yield
    finally:
        lock.release()


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


class Owing(NamedTuple):
    """What a run owes, and what works on it."""

    owed: dict[str, int]
    damage: tuple[str, ...]
    number: int
    """Of the submission that replicas started now belong to."""
    first: int
    """Number of the first replica to start."""
    running: tuple[JobRecord, ...]
    only_gathers: bool

    @property
    def total(self) -> int:
        """Owed units of all tasks."""
        return sum(self.owed.values())


@dataclass(slots=True)
class Submitter:
    """One submit of one run."""

    folder: RunFolder
    plan: Plan
    cluster: Cluster
    clock: Clock
    env: Mapping[str, str]
    replicas: int | None = None

    def submit(self) -> Submission:
        """See `submit_run`."""
        found = self.look()
        return found if isinstance(found, Submission) else self.start(found)

    def look(self) -> Submission | Owing:
        """What is owed; the submission where nothing is to be started."""
        known = read_jobs(self.folder)
        commands = SlurmCommands(self.env)
        reports = read_reports(self.folder)
        live = live_elements(known, commands, now=self.clock.wall(), reports=reports)
        fence = read_fence(self.folder).submission
        running = tuple(
            job
            for job in known
            if live.intersection(job.elements)
            # a shared job that goes on without this run is none of its own
            and not (job.submission <= fence and is_wanted_elsewhere(self.folder, job))
        )
        self._refuse_ending(running)
        self._refuse_unrecorded(known, commands)
        if self.replicas is None and any(job.role == "replicas" for job in running):
            return Submission("already_running", {}, running)
        if not running:
            forget_leases(self.folder)
            for grading in self.folder.gradings():
                forget_leases(grading)
        single = {t.name: benchmark_class(t.benchmark).single_call for t in self.plan.tasks}
        survey = survey_run(self.folder, self.plan, single)
        owed, damage = survey.owed, tuple(survey.problems[:MOST_PROBLEMS])
        only_gathers = not survey.total
        if only_gathers and running:
            return Submission("already_running", owed, running, damage)
        if only_gathers and not ungraded_tasks(self.folder, self.plan, self.plan.tasks):
            return Submission("nothing_owed", owed, warnings=damage)
        last = max((job.submission for job in running or known), default=0)
        number = last if running else 1 + max(last, read_fence(self.folder).submission)
        first = self._first(known, running, reports) if running else 0
        return Owing(owed, damage, number, first, running, only_gathers)

    def start(self, found: Owing) -> Submission:
        """Start what is owed."""
        launch, warnings = send([(self, found)])
        kind: Literal["submitted", "added", "grading"] = "added" if found.running else "submitted"
        if found.only_gathers:
            kind = "grading"
        return Submission(kind, found.owed, tuple(launch.jobs), (*found.damage, *warnings))

    def _refuse_ending(self, running: Sequence[JobRecord]) -> None:
        """Jobs that a cancel came over may not be joined, and would be in the way of new ones."""
        last = read_fence(self.folder).submission
        ending = [job.job_id for job in running if job.submission <= last]
        if ending:
            raise ClusterError(
                f"this run was cancelled, and its jobs still end: {', '.join(ending)}",
                hint=f"`evalkit cancel {self.folder.root}` waits for them; submit again after it.",
            )

    def _refuse_unrecorded(self, known: Sequence[JobRecord], commands: SlurmCommands) -> None:
        """A submit that was killed behind its sbatch left jobs that nobody noted: not to be doubled."""
        if self.cluster.executor != "slurm":
            return
        chain = Chain(self.folder, job_name(self.plan), commands, known)
        chain.queued()
        if chain.unrecorded:
            raise ClusterError(
                "jobs of this run are in the queue that no submit has noted (it was killed?): "
                + ", ".join(sorted(chain.unrecorded)),
                hint=f"`evalkit cancel {self.folder.root}` ends them; then submit again.",
            )

    def _first(
        self,
        known: Sequence[JobRecord],
        running: Sequence[JobRecord],
        reports: Mapping[str, ReplicaReport],
    ) -> int:
        """Number of the first replica to add: above all that live, or that were submitted with them."""
        now = self.clock.wall()
        together = {job.submission for job in running}
        names = [name for job in known if job.submission in together for name in job.replicas]
        heard = [report.replica for report in reports.values() if report.is_fresh(now)]
        return 1 + max((int(name.removeprefix("r")) for name in (*names, *heard)), default=-1)

    def settings(self, *, is_added: bool) -> Cluster:
        """What the run goes on with: added replicas do not change how many a resume starts."""
        replicas = load_cluster(self.folder).replicas if is_added else self.replicas
        return self.cluster.model_copy(update={"replicas": replicas or self.cluster.replicas})

    def remove_links(self) -> None:
        """Remove submitit's absolute links: a run folder may be moved."""
        for link in self.folder.cluster.glob(".submission_file_*.sh"):
            link.unlink(missing_ok=True)


def send(
    parts: Sequence[tuple[Submitter, Owing]],
) -> tuple[SlurmLaunch | LocalLaunch, tuple[str, ...]]:
    """Start replicas for one run, or for several that share them; the launch, and warnings.

    What can fail beforehand fails before the first job exists. Raises as `submit_run`.
    """
    (first, found), *rest = parts
    count = first.replicas or first.cluster.replicas
    if not any(_lends(each.plan, owing) for each, owing in parts):
        count = max(1, min(count, sum(owing.total for _, owing in parts)))
    order = Order(
        folder=first.folder,
        plan=first.plan,
        cluster=first.cluster.model_copy(update={"replicas": count}),
        submission=found.number,
        first=found.first,
        running=found.running,
        only_gathers=found.only_gathers,
        then=tuple(Member(each.folder, each.plan, owing.number) for each, owing in rest),
    )
    secrets = [collect_secrets(each.plan, each.env) for each, _ in parts]
    judges = [
        judge for each, _ in parts for judge in find_judges(each.folder, each.plan, each.plan.tasks)
    ]
    silent = check_judges_here(distinct(judges), first.env)
    launch, left_out = _prepare_launch(order, first)
    for (each, owing), own in zip(parts, secrets, strict=True):
        if own:
            write_secrets(secrets_file(each.folder, each.plan), own)
        save_cluster(each.folder, each.settings(is_added=bool(owing.running)))
    hidden = frozenset().union(*secrets)
    sent = environment.submission_environment(first.env, hidden)
    try:
        with environment.process_environment(sent):
            warnings = launch.send()
    finally:
        if not launch.jobs and not order.running:  # nobody is left to read them
            for each, _ in parts:
                remove_secrets(secrets_file(each.folder, each.plan))
    for each, _ in parts:
        each.remove_links()
    if left_out:
        said = f"left out {', '.join(left_out)}: attempts failed there repeatedly"
        warnings = (*warnings, said)
    return launch, (*_dropped(first.env), *silent, *warnings)


def _lends(plan: Plan, owing: Owing) -> bool:
    """Whether replicas without a unit of their own are of use: their servers answer a program that runs beside
    another one."""
    for task in plan.tasks:
        serving = plan.deployments[task.deployment].serving
        exposed = isinstance(serving, LocalServing) and serving.expose
        if exposed and owing.owed.get(task.name) and benchmark_class(task.benchmark).drives:
            return True
    return False


def _prepare_launch(
    order: Order, submitter: Submitter
) -> tuple[SlurmLaunch | LocalLaunch, tuple[str, ...]]:
    """All scripts rendered; and the nodes that are left out."""
    if order.cluster.executor == "local":
        return LocalLaunch(order, submitter.clock, submitter.env), ()
    commands = SlurmCommands(submitter.env)
    cluster, left_out = without_bad_nodes(order.folder, order.cluster, commands)
    return SlurmLaunch(replace(order, cluster=cluster), submitter.clock, commands), left_out


def _dropped(env: Mapping[str, str]) -> tuple[str, ...]:
    names = sorted(name for name in env if name.startswith("SBATCH_"))
    if not names:
        return ()
    return (f"ignored {', '.join(names)}: put such options into `cluster` of the recipe",)
