"""What a submit starts: replicas of one run, or of several that share them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit.cluster.job import ReplicaJob
from evalkit.cluster.parameters import replica_gpus

if TYPE_CHECKING:
    from evalkit.cluster.jobs import JobRecord
    from evalkit.plan.model import Plan
    from evalkit.recipe.schema import Cluster
    from evalkit.store.layout import RunFolder


@dataclass(frozen=True, slots=True)
class Member:
    """A run that shares another's replicas: they work for it when they are done with that one."""

    folder: RunFolder
    plan: Plan
    submission: int
    """Number of the submit, as this run counts them."""


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
    then: tuple[Member, ...] = ()
    """Runs that share the replicas, in their order."""

    @property
    def members(self) -> tuple[Member, ...]:
        """All runs that the replicas work for."""
        return (Member(self.folder, self.plan, self.submission), *self.then)

    @property
    def gpus(self) -> int:
        """GPUs of one replica: what the largest deployment of all its runs needs."""
        return max(replica_gpus(member.plan) for member in self.members)

    def replica(self, index: int) -> ReplicaJob:
        """What one replica does."""
        root, *then = (str(member.folder.root.absolute()) for member in self.members)
        return ReplicaJob(root, index, tuple(then))

    def running_ids(self, role: str, executor: str) -> list[str]:
        """Ids of the jobs that live, of one kind."""
        return [j.job_id for j in self.running if (j.role, j.executor) == (role, executor)]
