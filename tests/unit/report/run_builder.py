"""Builds run folders with journals for the tests of the gather; no model, no server."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import jsonschema
import orjson

from evalkit.benchmarks.contract import Benchmark, BenchmarkParams, Dataset, Sample, Score, Solution
from evalkit.benchmarks.data import DataAccess, DataSource
from evalkit.benchmarks.frozen import checksum, freeze, write_frozen
from evalkit.errors import ScorerError
from evalkit.plan.model import (
    DataProvenance,
    DeploymentPlan,
    ModelIdentity,
    Plan,
    Shard,
    TaskPlan,
    UnitKey,
)
from evalkit.recipe.schema import Client, Generation
from evalkit.recipe.serving import VllmServing
from evalkit.report.facts import RunFacts
from evalkit.report.frames import iter_samples
from evalkit.report.gather import GatherProgress, gather_task
from evalkit.report.schema import shipped_schema_path
from evalkit.store.codec import encode, header, seal
from evalkit.store.layout import RunFolder
from evalkit.store.records import CallRecord, Outcome, Reply, Timing, UnitRecord, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from evalkit.report.results import Results

NO_FACTS = RunFacts(None, ())


class Echo(Benchmark[BenchmarkParams]):
    """Scores 1 when the text is the target; some texts make the grader fail in its own ways."""

    name = "echo"
    version = "1"
    title = "Echo"
    description = "For tests."
    licence = "Apache-2.0"
    source = DataSource()
    metric = "correct"

    def load(self, access: DataAccess) -> Dataset:
        """Not used: the samples are frozen by `make_run`."""
        raise NotImplementedError

    def score(self, sample: Sample, solution: Solution) -> Score:
        """Exact match, or the failure the text asks for."""
        text = solution.text
        if text == "raise":
            raise ScorerError("asked to fail")
        if text == "bug":
            raise KeyError("a bug")
        if text == "nan":
            return Score({"correct": float("nan")})
        if text == "nothing":
            return Score({"other": 1.0})
        return Score({"correct": float(text == sample.target)}, text or None)

    def gold(self, sample: Sample) -> Solution | None:
        """The target."""
        return None if sample.target is None else Solution(sample.target)


class PrivateEcho(Echo):
    """Data that may not be republished."""

    publishable = False


class ManyCallEcho(Echo):
    """Units of several calls, ended by a unit record."""

    single_call = False


def echo(cls: type[Echo] = Echo) -> Echo:
    """The benchmark with its (no) parameters."""
    return cls(BenchmarkParams(), "card")


def make_samples(n: int) -> list[Sample]:
    """n samples in two subsets, each with its own target."""
    return [
        Sample(
            id=f"s{i}",
            messages=({"role": "user", "content": f"say t{i}"},),
            target=f"t{i}",
            subset=("even", "odd")[i % 2],
        )
        for i in range(n)
    ]


def make_task(samples: Sequence[Sample], **changes: Any) -> TaskPlan:
    """A task over the samples: two repeats, three shards, unless changed."""
    frozen = freeze(samples)
    values: dict[str, Any] = {
        "name": "echo",
        "benchmark": "echo",
        "benchmark_version": "1",
        "profile": "card",
        "params": {},
        "metric": "correct",
        "generation": Generation(temperature=1.0),
        "repeats": 2,
        "n_samples": len(samples),
        "n_shards": 3,
        "deployment": 0,
        "data": DataProvenance(
            source="generated", sha256="0" * 64, n_rows=len(samples), licence="Apache-2.0"
        ),
        "requests_sha256": checksum(frozen),
        "fingerprint": "task-fingerprint",
        "identity": {"benchmark": {"name": "echo", "version": "1"}},
    }
    return TaskPlan(**(values | changes))


def make_plan(*tasks: TaskPlan, **changes: Any) -> Plan:
    """A plan of one model and one deployment."""
    serving = VllmServing()
    values: dict[str, Any] = {
        "run": "test-run",
        "recipe": "test",
        "model": ModelIdentity(name="tiny", source="tiny"),
        "deployments": (
            DeploymentPlan(serving=serving, model_source="tiny", served_model_name="tiny"),
        ),
        "tasks": tasks,
        "client": Client(),
        "fingerprint": "0123456789abcdef",
    }
    return Plan(**(values | changes))


@dataclass
class TestRun:
    """A run folder with one task, and what writes its journals."""

    __test__ = False

    folder: RunFolder
    plan: Plan
    samples: list[Sample]
    progress: list[GatherProgress] = field(default_factory=list)

    @property
    def task(self) -> TaskPlan:
        """The first task."""
        return self.plan.tasks[0]

    def units(self) -> list[UnitKey]:
        """All units in plan order."""
        return [self.task.unit(number) for number in range(self.task.n_units)]

    def write(self, records: Iterable[CallRecord | UnitRecord], attempt: str = "r0.a1") -> None:
        """Append records to the journals of one attempt."""
        for record in records:
            shard = Shard(self.task.name, self.task.shard_of(UnitKey(record.sample, record.repeat)))
            path = self.folder.journal(shard, attempt)
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(
                    seal(header(self.plan.fingerprint, shard.task, shard.index, attempt))
                )
            with path.open("ab") as file:
                file.write(seal(encode(record)))

    def write_all(self, wrong: Sequence[UnitKey] = ()) -> None:
        """Journal every unit: right, but for those named."""
        self.write(self.answer(key, "no" if key in wrong else None) for key in self.units())

    def answer(self, key: UnitKey, text: str | None = None, **changes: Any) -> CallRecord:
        """A finished call: the right answer unless another text is given."""
        target = str(self.samples[key.sample].target)
        return make_call(key, target if text is None else text, **changes)

    def gather(self, benchmark: Echo | None = None) -> Results:
        """Gather the first task; every results.json there is then must match the shipped schema."""
        results = gather_task(
            self.folder, self.plan, self.task, benchmark or echo(), NO_FACTS, self.progress.append
        )
        validate_results(self.folder.results(self.task.name))
        return results

    def read_samples(self) -> list[dict[str, Any]]:
        """The lines of samples.jsonl.zst."""
        return list(iter_samples(self.folder, self.task.name))

    def artifact_bytes(self) -> tuple[bytes, bytes]:
        """samples.jsonl.zst and metrics.json."""
        return (
            self.folder.samples(self.task.name).read_bytes(),
            self.folder.metrics(self.task.name).read_bytes(),
        )


def make_call(
    key: UnitKey,
    text: str,
    *,
    outcome: Outcome = Outcome.OK,
    usage: Usage = Usage(10, 5),  # noqa: B008
    call: int = 0,
    latency_s: float = 1.0,
    retries: int = 0,
    detail: str | None = None,
) -> CallRecord:
    """A finished call."""
    reply = Reply(outcome, text, finish_reason="stop", usage=usage, detail=detail)
    return CallRecord(key.sample, key.repeat, call, "hash", reply, Timing(0.0, latency_s, retries))


def make_failure(key: UnitKey, outcome: Outcome = Outcome.INFRA_ERROR) -> CallRecord:
    """A call that failed for a reason of ours."""
    return make_call(key, "", outcome=outcome, detail="connection refused")


def make_run(root: Path, n: int = 4, **changes: Any) -> TestRun:
    """A run folder with n frozen samples and no journal yet."""
    samples = make_samples(n)
    plan = make_plan(make_task(samples, **changes))
    run = TestRun(RunFolder(root), plan, samples)
    write_frozen(run.folder.requests(run.task.name), freeze(samples))
    return run


def validate_results(path: Path) -> None:
    """Refuse a results.json that the shipped schema does not describe."""
    _validator().validate(orjson.loads(path.read_bytes()))


@cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(orjson.loads(shipped_schema_path().read_bytes()))
