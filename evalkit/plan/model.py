"""The plan: a recipe resolved for one run, frozen and hashed, written before anything is submitted.

A plan holds no secret, no time and nothing about the cluster. What may not move a score (parallelism,
the path of a checkpoint whose weights are hashed) is in it where the run needs it, but not in a
fingerprint.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from pydantic import Field

from evalkit.base import Frozen
from evalkit.recipe.request import Reasoning, RequestSettings
from evalkit.recipe.schema import Client, Generation, Profile, Scoring
from evalkit.recipe.serving import AnyServing

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAN_VERSION: Final = 2


class UnitKey(NamedTuple):
    """(sample index, repeat) inside one task: the smallest thing that is done or not done.

    `sample` is the position of the sample in the task's frozen requests, which the plan's checksum
    pins; artifacts show the sample's own id.
    """

    sample: int
    repeat: int


@dataclass(frozen=True, slots=True, order=True)
class Shard:
    """Units leased together: every `stride`-th unit of a task, starting with unit `index`."""

    task: str
    index: int

    @property
    def name(self) -> str:
        """Name of the shard's journal folder and lease."""
        return f"{self.index:05d}"


class DataProvenance(Frozen):
    """Which data a task was made from."""

    source: str
    """Hub repository, package or file name: never a path of one machine."""
    revision: str | None = None
    sha256: str
    """Checksum of the file(s) as read."""
    n_rows: int
    """Rows in the data set before `limit`."""
    licence: str
    altered: bool = False
    """The checksum is not the benchmark's own pinned one."""
    unchecked: str | None = None
    """What of it could not be compared with what others have; null where nothing is left."""


class ModelIdentity(Frozen):
    """What makes a model this model."""

    name: str
    source: str
    """Hub id, folder name or model id."""
    revision: str | None = None
    """Commit of a hub model, as far as it was known; it names the model, and the hashes below, from
    this machine's cache, only describe it."""
    weights: str | None = None
    """Fingerprint of the weight files; null for a hub or hosted model."""
    config: str | None = None
    """sha256 of config.json and generation_config.json."""
    tokenizer: str | None = None
    """sha256 over the tokenizer's files."""
    chat_template: str | None = None
    """sha256 of the chat template."""


class DeploymentPlan(Frozen):
    """One server configuration; tasks that share it share the server."""

    serving: AnyServing
    model_source: str
    """What the server loads: absolute path, hub id or model id."""
    revision: str | None = None
    served_model_name: str


class JudgePlan(Frozen):
    """The judge of a task's answers. It enters the gradings' identity, not the run's: answers can be
    judged again, by another one, without being generated again."""

    model: ModelIdentity
    """Its name in the recipe is part of the metric's."""
    deployment: DeploymentPlan
    generation: Generation
    request: RequestSettings = RequestSettings()
    reasoning: Reasoning = Reasoning()
    parallelism: int
    """Most requests in flight."""
    identity: dict[str, Any]
    """Everything of it that may move a verdict, by key."""


class TaskPlan(Frozen):
    """One task of a run."""

    name: str
    benchmark: str
    benchmark_version: str
    profile: Profile
    params: dict[str, Any]
    """The benchmark's parameters, all of them, resolved for the profile. Those that are not in
    `identity` move no answer."""
    metric: str
    """Name of the score the headline is made of."""
    generation: Generation
    request: RequestSettings = RequestSettings()
    reasoning: Reasoning = Reasoning()
    repeats: int
    n_samples: int
    n_shards: int
    n_calls: int | None = None
    """Calls of all units together; null where that depends on the answers."""
    parts: dict[str, int] = Field(default_factory=dict)
    """What all units consist of then, such as dialogues, in the benchmark's words."""
    limit: int | None = None
    """The recipe's, where the samples here are not what it limits."""
    deployment: int
    """Index into `Plan.deployments`."""
    data: DataProvenance
    requests_sha256: str
    """Checksum of the frozen requests, uncompressed."""
    fingerprint: str
    """Hash of `identity`."""
    identity: dict[str, Any]
    """Everything that may move an answer to this task, or how it is scored, by key."""
    judge: JudgePlan | None = None
    """Who judges the answers, where the benchmark needs that."""

    @property
    def n_units(self) -> int:
        """Planned units: samples times repeats."""
        return self.n_samples * self.repeats

    def executed_as(self, other: TaskPlan) -> TaskPlan:
        """This task on the server, with the judge and the parameters of grading of another plan of it."""
        bound = self.identity.get("params", self.params)
        loose = {name: value for name, value in other.params.items() if name not in bound}
        update = {
            "deployment": other.deployment,
            "judge": other.judge,
            "params": {**self.params, **loose},
        }
        return self.model_copy(update=update)

    def unit(self, number: int) -> UnitKey:
        """Unit by number: sample by sample within a repeat, repeat after repeat."""
        repeat, sample = divmod(number, self.n_samples)
        return UnitKey(sample, repeat)

    def units(self, shard: Shard) -> Iterator[UnitKey]:
        """The units of one shard, interleaved so that long prompts do not cluster."""
        for number in range(shard.index, self.n_units, self.n_shards):
            yield self.unit(number)

    def shard_of(self, key: UnitKey) -> int:
        """Index of the shard a unit belongs to."""
        return (key.repeat * self.n_samples + key.sample) % self.n_shards

    def shards(self) -> list[Shard]:
        """All shards of the task."""
        return [Shard(self.name, index) for index in range(self.n_shards)]


class Plan(Frozen):
    """One model through one recipe."""

    version: Literal[2] = PLAN_VERSION
    run: str
    """Name of the run."""
    recipe: str
    """Name of the recipe."""
    model: ModelIdentity
    deployments: tuple[DeploymentPlan, ...] = Field(min_length=1)
    tasks: tuple[TaskPlan, ...] = Field(min_length=1)
    """Longest expected work first: the order in which shards are leased."""
    client: Client
    scoring: Scoring = Scoring()
    fingerprint: str
    """Hash over the tasks' fingerprints: what a resume compares."""
    unavailable: dict[str, str] = Field(default_factory=dict)
    """Tasks that the recipe names and that cannot be run, with the reason. They have no units."""

    @property
    def run_id(self) -> str:
        """Short id of the run: another one for each run of the same settings."""
        text = "\0".join((self.fingerprint, self.run, self.model.name))
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def n_units(self) -> int:
        """Planned units of all tasks."""
        return sum(task.n_units for task in self.tasks)

    def executed_as(self, other: Plan) -> Plan:
        """This plan on the servers, with the client and scoring settings and the graders of another one.

        Tasks, their order, shards and units stay this plan's. A plan of another fingerprint changes
        nothing.
        """
        if other.fingerprint != self.fingerprint:
            return self
        tasks = (task.executed_as(other.task(task.name)) for task in self.tasks)
        update = {
            "tasks": tuple(tasks),
            "deployments": other.deployments,
            "client": other.client,
            "scoring": other.scoring,
        }
        return self.model_copy(update=update)

    def find_judge(self, name: str) -> ModelIdentity | None:
        """What a judge was when this was planned; null for one that no task has."""
        judges = (task.judge.model for task in self.tasks if task.judge is not None)
        return next((judge for judge in judges if judge.name == name), None)

    def task(self, name: str) -> TaskPlan:
        """Task by name. Raises KeyError with the names there are."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise KeyError(
            f"no task {name!r} in this run; tasks: {', '.join(t.name for t in self.tasks)}"
        )
