"""inspect_ai: its tasks by name (`inspect/inspect_evals/gpqa_diamond`) or from a file of one's own
(`inspect/tasks/sums.py@sums`, relative to the recipe).

A unit is a slice of the task's samples, by exact ids. Its log must say `success` and hold each sample and
epoch of the slice without an error: the exit code says nothing, and an average over the samples that
survived is none. The gather joins the logs by inspect's own functions, which compute the metrics anew.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from evalkit.base import Frozen
from evalkit.benchmarks.contract import BenchmarkParams, Dataset, Sample, Solution
from evalkit.benchmarks.env import variable
from evalkit.benchmarks.harness import EnvironmentSpec, Harness, HarnessTask
from evalkit.errors import DataError, InfraError, PlanError, RecipeError, ScorerError
from evalkit.harnesses.call import InsideError, call
from evalkit.harnesses.driven import (
    DrivenBenchmark,
    folders_of,
    inside_command,
    program_environment,
    read_answer,
    run_program,
    solution_data,
)
from evalkit.harnesses.environments import find_python, read_pins
from evalkit.harnesses.inspect_result import check_complete, check_joined, native_result
from evalkit.plan.model import DataProvenance

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.benchmarks.contract import Answered, Driving, ModelHandle
    from evalkit.benchmarks.data import DataAccess
    from evalkit.benchmarks.native import NativeResult
    from evalkit.recipe.schema import Profile

ADAPTER = "1"
"""Raised by any change here that can move a score."""
DRIVER = "inspect_driver.py"
SERVICE = "EVALKIT"
"""inspect's name of the endpoint: its variables begin with it."""
ENVIRONMENT = EnvironmentSpec(
    name="inspect",
    package="inspect_ai",
    module="inspect_ai",
    requirements="inspect.txt",
    extra="inspect",
)

KNOWN = (
    "`evalkit ls tasks --harness inspect` lists the tasks of installed packages; `evalkit harness install "
    "inspect` makes an environment with inspect_evals."
)


class Role(Frozen):
    """A further model that a task asks, such as its grader. Its calls go past evalkit: they are not journaled."""

    model: str
    """As inspect names models, such as `openai-api/judge/gpt-4o`."""
    base_url: str | None = None
    """Of its endpoint."""
    api_key_env: str | None = None
    """Environment variable that holds its key."""
    config: dict[str, Any] = Field(default_factory=dict)
    """inspect's settings of its generation, such as `{temperature: 0}`."""


class InspectParams(BenchmarkParams):
    """Which task is run, and how."""

    task: str
    """As inspect names it; the benchmark's name says it."""
    task_args: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the task."""
    epochs: int | None = Field(None, ge=1)
    """Answers to each sample; null leaves it to the task."""
    shard_size: int = Field(50, ge=1)
    """Samples of one process: each takes seconds to start, and is what replicas share."""
    model_args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of inspect's provider `openai-api`."""
    model_roles: dict[str, Role] = Field(default_factory=dict)
    """Models by role, such as `grader`. A role that is not named is the evaluated model's."""


class InspectTask(DrivenBenchmark[InspectParams]):
    """One task of inspect."""

    title = "A task of inspect_ai"
    description = "A task of inspect_ai."
    licence = "that of the task's data"
    no_repeats: ClassVar[str | None] = "Set params.epochs, which are inspect's repeats."
    params_type = InspectParams

    def __init__(self, params: InspectParams, profile: Profile) -> None:
        super().__init__(params, profile)
        self.name = f"inspect/{params.task}"
        self.title = params.task
        self.metric = "score"
        # Another version than the pinned one is no harness (`find_python`).
        self.version = f"{ADAPTER}+{read_pins(ENVIRONMENT.requirements)['inspect-ai']}"

    def check(self, base: Path) -> None:
        """Raise RecipeError for a file of tasks that is not there."""
        _task_file(self.params.task, base)

    def load(self, access: DataAccess) -> Dataset:
        """Ask inspect for the ids of the task's samples. Raises PlanError, RecipeError, DataError."""
        where = _task_file(self.params.task, access.base)
        task = self.params.task if where is None else f"{where}{_name_in_file(self.params.task)}"
        planned = self._plan(task)
        ids = planned["ids"][: access.limit]
        if not ids or len({str(each) for each in ids}) != len(ids):
            raise DataError(
                f"{self.name} has {len(ids)} samples, {len({str(each) for each in ids})} of them with an "
                "id of their own: evalkit asks for samples by their ids"
            )
        common = {
            "task": task,
            "file_sha256": where and hashlib.sha256(where.read_bytes()).hexdigest(),
            **{key: planned[key] for key in ("name", "task_version", "packages", "epochs")},
        }
        size = self.params.shard_size
        samples = [
            Sample(id=f"{start:06}", data={**common, "ids": ids[start : start + size]})
            for start in range(0, len(ids), size)
        ]
        digest = hashlib.sha256(json.dumps([common["file_sha256"], planned["ids"]]).encode())
        provenance = DataProvenance(
            source=planned["dataset"] if where is None else where.name,
            sha256=digest.hexdigest(),
            n_rows=planned["n_samples"],
            licence=self.licence,
            unchecked="inspect reads the data itself: what is known of it are the ids of its samples",
        )
        return Dataset(samples, provenance)

    def _plan(self, task: str) -> dict[str, Any]:
        arguments = {"do": "plan", **self._common(task)}
        try:
            planned: dict[str, Any] = call(find_python(ENVIRONMENT), DRIVER, arguments)
        except InsideError as error:
            raise DataError(
                f"inspect cannot load the task {self.params.task}: {error.message}",
                hint=error.tail or KNOWN,
            ) from error
        return planned

    def _common(self, task: str) -> dict[str, Any]:
        return {"task": task, "task_args": self.params.task_args, "epochs": self.params.epochs}

    def parts(self, sample: Sample) -> Mapping[str, int]:
        """Its samples, each as often as there are epochs."""
        return {"answers": len(sample.data["ids"]) * sample.data["epochs"]}

    async def solve(self, sample: Sample, model: ModelHandle) -> Solution:
        """Run inspect on the slice. Raises InfraError unless its log is complete."""
        python = find_python(ENVIRONMENT)
        _check_file(sample.data)
        async with model.drive() as driving:
            arguments = {
                "do": "run",
                **self._common(sample.data["task"]),
                "name": sample.data["name"],
                "ids": sample.data["ids"],
                "model": driving.model,
                "model_args": self.params.model_args,
                "model_roles": {n: r.model_dump() for n, r in self.params.model_roles.items()},
            }
            command = inside_command(python.path, DRIVER, arguments, driving.folder)
            await run_program(driving, command, self._environment(driving))
            logs = read_answer(driving.folder)
            check_complete(logs, sample.data, driving.folder)
            return Solution("", data=solution_data(driving, log=f"logs/{logs[0]['file']}"))

    def _environment(self, driving: Driving) -> dict[str, str]:
        keys = {r.api_key_env: variable(r.api_key_env) for r in self.params.model_roles.values()
                if r.api_key_env is not None}  # fmt: skip
        unset = [name for name, value in keys.items() if value is None]
        if unset:
            raise InfraError(
                f"{self.name}: model_roles: the variable {unset[0]} is not set on this machine"
            )
        more = {name: value for name, value in keys.items() if value is not None}
        return program_environment(
            driving,
            {
                f"{SERVICE}_BASE_URL": driving.base_url,
                f"{SERVICE}_API_KEY": driving.api_key,
                # Where inspect would keep traces and buffers of its own.
                "XDG_DATA_HOME": str(driving.folder / "xdg"),
                **more,
            },
        )

    def conclude(self, answers: Sequence[Answered], run: Path, out: Path) -> NativeResult:
        """Join the logs into `merged.eval`. Raises ScorerError where one is not there or not whole."""
        folders = folders_of(answers, run)
        samples = [answer.sample.data for answer in answers]
        try:
            _check_file(samples[0])
        except InfraError as error:
            raise ScorerError(error.message) from error  # its scorers would be others
        ids = [each for data in samples for each in data["ids"]]
        arguments = {
            "do": "join",
            **self._common(samples[0]["task"]),
            "is_file": samples[0]["file_sha256"] is not None,
            "logs": [
                str(folder / answer.solution.data["log"])
                for folder, answer in zip(folders, answers, strict=True)
            ],
            "ids": ids,
            "log": str(out / "merged.eval"),
        }
        with tempfile.TemporaryDirectory(prefix="evalkit-inspect-") as name:
            arguments["samples"] = str(Path(name) / "samples.jsonl")
            joined = self._join(arguments)
            check_joined(joined["done"], ids, samples[0]["epochs"])
            return native_result(joined, Path(arguments["samples"]), samples[0], len(ids))

    def _join(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        try:
            joined: dict[str, Any] = call(find_python(ENVIRONMENT), DRIVER, arguments)
        except InsideError as error:
            raise ScorerError(
                f"inspect cannot join the logs of {self.name}: {error.message}",
                hint=error.tail or None,
            ) from error
        return joined


class InspectHarness(Harness):
    """inspect_ai."""

    name = "inspect"
    title = "inspect_ai"
    description = (
        "Tasks of the UK AI Security Institute's inspect_ai: of inspect_evals, or of a file."
    )
    licence = "MIT"
    environment = ENVIRONMENT
    benchmark_type = InspectTask

    def tasks(self) -> Sequence[HarnessTask]:
        """Those that installed packages register; files of tasks are not among them."""
        try:
            found = call(find_python(ENVIRONMENT), DRIVER, {"do": "list"})
        except InsideError as error:
            raise PlanError(
                f"inspect cannot list its tasks: {error.message}", hint=error.tail or None
            ) from error
        return [HarnessTask(each["name"], "chat", each["description"]) for each in found]


def _task_file(task: str, base: Path) -> Path | None:
    """The file that a task is in; null for one that a package registers. Raises RecipeError."""
    file = task.partition("@")[0]
    if not file.endswith(".py"):
        return None
    path = (base / Path(file).expanduser()).resolve()
    if not path.is_file():
        raise RecipeError(
            f"benchmark 'inspect/{task}': there is no file {path}",
            hint="A relative path starts at the recipe's folder; write inspect/FILE.py@TASK.",
        )
    return path


def _name_in_file(task: str) -> str:
    _, at, name = task.partition("@")
    return at + name


def _check_file(data: Mapping[str, Any]) -> None:
    """Raise InfraError where a file of tasks is not the one that was planned."""
    if data["file_sha256"] is None:
        return
    path = Path(data["task"].rpartition(".py")[0] + ".py")
    try:
        same = hashlib.sha256(path.read_bytes()).hexdigest() == data["file_sha256"]
    except OSError as error:
        raise InfraError(f"cannot read {path}: {error.strerror}") from error
    if not same:
        raise InfraError(f"{path} is not the file that was planned: restore it, or start a new run")
