"""NVIDIA's wheels with a `framework.yml`, which NeMo Evaluator runs from its containers.

The wheel's own command runs in the wheel's Python; nemo-evaluator's adapter between it and the server is not
used: the gateway is there instead. Such a command has no slices, so a task is one unit; what it asks is
answered from the journal when it runs again.
"""

from __future__ import annotations

import hashlib
import json
import os.path
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import yaml
from pydantic import Field

from evalkit.benchmarks.contract import BenchmarkParams, Dataset, Sample, Solution
from evalkit.benchmarks.harness import EnvironmentSpec, Harness, HarnessTask
from evalkit.errors import InfraError, PlanError, RecipeError
from evalkit.harnesses.driven import (
    LOG,
    DrivenBenchmark,
    folders_of,
    inside_command,
    keep,
    passed_variables,
    program_environment,
    read_answer,
    run_program,
    solution_data,
)
from evalkit.harnesses.environments import (
    find_python,
    normalised,
    read_pins,
    wheel_manifests,
)
from evalkit.harnesses.framework_result import check_answer, native_result
from evalkit.harnesses.framework_spec import (
    ROUTES,
    Framework,
    endpoint_types,
    overlay,
    read_framework,
    render,
    shown_defaults,
)
from evalkit.plan.model import DataProvenance

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.benchmarks.contract import Answered, Driving, ModelHandle
    from evalkit.benchmarks.data import DataAccess
    from evalkit.benchmarks.native import NativeResult
    from evalkit.harnesses.environments import HarnessPython
    from evalkit.recipe.schema import Profile

ADAPTER = "1"
"""Raised by any change here that can move a score."""
SCRIPT = "framework_results.py"
KEY = "EVALKIT_API_KEY"
OUTPUT = "output"
PATIENCE_S = 7 * 24 * 3600
"""A wheel's seconds for a request decide which answers are given up; the gateway has the recipe's limits."""
AT_ONCE = 1000
"""Requests in flight: the gateway has the recipe's limit."""
RETRIES = 3
SIMPLE_EVALS = EnvironmentSpec(
    name="nvidia-simple-evals",
    package="nvidia-simple-evals",
    module="core_evals.simple_evals",
    requirements="nvidia-simple-evals.txt",
)
BUILT_IN = {SIMPLE_EVALS.name: SIMPLE_EVALS}
LARGEST_KEPT = 64 * 1024 * 1024
"""Bytes of a file that goes into the artifacts; larger ones stay in the run's folder."""


class FrameworkParams(BenchmarkParams):
    """Which task is run, and what of its settings is changed. `generation` of the recipe is over these."""

    harness: str
    """The benchmark's name says it."""
    task: str
    """The benchmark's name says it."""
    endpoint: Literal["chat", "completions", "completions_logprob"] | None = None
    """How the model is asked; by default the first way that the task supports."""
    max_new_tokens: int | None = Field(None, ge=1)
    """As in `config.params`; null leaves it to the wheel."""
    temperature: float | None = Field(None, ge=0)
    """Likewise."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Likewise."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Over the task's `config.params.extra`, such as `{n_samples: 4}`."""
    pass_env: tuple[str, ...] = ()
    """Names of variables that are passed through, such as the key of a judge in `extra`."""


class FrameworkTask(DrivenBenchmark[FrameworkParams]):
    """One task of a wheel."""

    title = "A task of a wheel"
    description = "A task of a wheel with a framework.yml."
    licence = "that of the task's data"
    no_repeats: ClassVar[str | None] = (
        "Set params.extra as the wheel wants it, such as extra: {n_samples: 4} for nvidia-simple-evals."
    )
    params_type = FrameworkParams

    def __init__(self, params: FrameworkParams, profile: Profile) -> None:
        super().__init__(params, profile)
        self.name = f"{params.harness}/{params.task}"
        self.title = params.task
        self.metric = "score"
        self._environment = environment_of(params.harness)
        self.version = f"{ADAPTER}+{_version(self._environment)}"

    def load(self, access: DataAccess) -> Dataset:
        """One sample: the task's merged settings. Raises PlanError where the wheel is not installed or no
        command can be made of them, RecipeError for a task that it does not have."""
        evaluation = self._evaluation(access.limit)
        endpoint = self._endpoint(evaluation)
        target = {"url": "http://localhost/v1", "model_id": "model", "api_key_name": KEY}
        render(evaluation, {**target, "type": endpoint}, OUTPUT)
        digest = hashlib.sha256(json.dumps(evaluation, sort_keys=True).encode()).hexdigest()
        provenance = DataProvenance(
            source=self.name,
            sha256=digest,
            n_rows=1,
            licence=self.licence,
            unchecked="the wheel reads the data itself",
        )
        data = {"evaluation": evaluation, "endpoint": endpoint}
        return Dataset([Sample(id=self.params.task, data=data)], provenance)

    def _evaluation(self, limit: int | None) -> dict[str, Any]:
        """The task's settings: the wheel's, ours, the recipe's, each over those before."""
        params = self.params
        given = params.model_dump(
            include={"max_new_tokens", "temperature", "top_p"}, exclude_none=True
        )
        ours = {"parallelism": AT_ONCE, "request_timeout": PATIENCE_S, "max_retries": RETRIES}
        limited = {} if limit is None else {"limit_samples": limit}
        over = {**ours, **given, **limited, "extra": params.extra}
        framework = framework_of(find_python(self._environment), params.harness)
        if params.task not in framework.evaluations:
            raise RecipeError(
                f"the harness {params.harness} has no task {params.task!r}",
                hint=f"`evalkit ls tasks --harness {params.harness}` lists them.",
            )
        names = {"framework_name": framework.name, "pkg_name": framework.package}
        merged = overlay(framework.evaluations[params.task], {"config": {"params": over}})
        return {**merged, **names}

    def _endpoint(self, evaluation: Mapping[str, Any]) -> str:
        supported = evaluation["config"].get("supported_endpoint_types") or ["chat"]
        chosen = self.params.endpoint or next((each for each in supported if each in ROUTES), None)
        if chosen not in supported:
            raise RecipeError(
                f"params.endpoint: {chosen} is not among those that {self.params.task} supports",
                hint=f"It supports {', '.join(supported)}; evalkit has {', '.join(ROUTES)}.",
            )
        return str(chosen)

    def parts(self, sample: Sample) -> Mapping[str, int]:
        """One command."""
        return {"commands": 1}

    async def solve(self, sample: Sample, model: ModelHandle) -> Solution:
        """Run the wheel's command, and its own reader of what it wrote. Raises InfraError."""
        python = find_python(self._environment)
        async with model.drive() as driving:
            target = {
                "url": f"{driving.base_url}/{ROUTES[sample.data['endpoint']]}",
                "model_id": driving.model,
                "api_key_name": KEY,
                "type": sample.data["endpoint"],
            }
            output = driving.folder / OUTPUT
            output.mkdir()
            evaluation = sample.data["evaluation"]
            try:
                text = render(evaluation, target, str(output))
            except PlanError as error:
                raise InfraError(str(error), kind=error.kind) from error
            _write_run_config(output, evaluation, target)
            env = self._variables(driving, python)
            await run_program(driving, ["bash", "-c", text], env)
            arguments = {"package": evaluation["pkg_name"], "output": str(output)}
            arguments["type"] = evaluation["config"].get("type")
            command = inside_command(python.path, SCRIPT, arguments, driving.folder)
            await run_program(driving, command, env, "results.log")
            check_answer(read_answer(driving.folder), driving.folder)
            return Solution("", data=solution_data(driving))

    def _variables(self, driving: Driving, python: HarnessPython) -> dict[str, str]:
        passed = passed_variables(self.params.pass_env)
        env = program_environment(driving, {KEY: driving.api_key})
        # Its command and what that calls are beside its Python.
        path = f"{python.path.parent}{os.pathsep}{env.get('PATH', os.defpath)}"
        return {**env, **passed, "PATH": path}

    def conclude(self, answers: Sequence[Answered], run: Path, out: Path) -> NativeResult:
        """What the wheel's reader found. Raises ScorerError where its files are gone."""
        [folder] = folders_of(answers, run)
        for file in sorted((folder / OUTPUT).rglob("*")):
            name = file.relative_to(folder / OUTPUT)
            if file.is_file() and "cache" not in name.parts and file.stat().st_size <= LARGEST_KEPT:
                keep(file, out, str(name), self.params.pass_env)
        keep(folder / LOG, out, LOG, self.params.pass_env)
        versions = {self.params.harness: self.version.partition("+")[2]}
        return native_result(read_answer(folder), versions)


class FrameworkHarness(Harness):
    """A wheel that the user installed."""

    licence = "that of the wheel"
    benchmark_type = FrameworkTask

    def __init__(self, name: str, environment: EnvironmentSpec) -> None:
        self.name = self.title = name
        self.description = f"Tasks of the wheel {environment.package}."
        self.environment = environment

    def task_params(self, task: str) -> Mapping[str, Any]:
        """The wheel and its task."""
        return {"harness": self.name, "task": task}

    def tasks(self) -> Sequence[HarnessTask]:
        """Those of its framework.yml, in its order."""
        python = find_python(environment_of(self.name))
        return [
            HarnessTask(name, endpoint_types(each), each["description"], shown_defaults(each))
            for name, each in framework_of(python, self.name).evaluations.items()
        ]


class SimpleEvals(FrameworkHarness):
    """nvidia-simple-evals, whose versions are pinned here."""

    def __init__(self) -> None:
        super().__init__(SIMPLE_EVALS.name, SIMPLE_EVALS)
        self.description = (
            "NVIDIA's simple-evals, which many of NeMo Evaluator's configurations name."
        )


def installed_wheels() -> dict[str, Harness]:
    """Harnesses of the wheels that `evalkit harness install --wheel` installed, by name."""
    names = [each.name for each in wheel_manifests() if each.name not in BUILT_IN]
    return {name: FrameworkHarness(name, environment_of(name)) for name in names}


def environment_of(harness: str) -> EnvironmentSpec:
    """The environment of a wheel."""
    found = EnvironmentSpec(name=harness, package=harness, module="core_evals", requirements="")
    return BUILT_IN.get(harness, found)


def _version(spec: EnvironmentSpec) -> str:
    """The pinned one, or that of the wheel that is installed. Raises PlanError where none is."""
    if spec.requirements:
        return read_pins(spec.requirements)[normalised(spec.package)]
    return find_python(spec).version


def framework_of(python: HarnessPython, harness: str) -> Framework:
    """What the wheel's framework.yml says. Raises PlanError where there is none, or several."""
    if python.manifest is not None and python.folder is not None:
        found = [python.folder / each for each in python.manifest.frameworks.values()]
    else:
        spec = find_spec("core_evals")
        places = (spec.submodule_search_locations if spec else None) or ()
        found = [path for place in places for path in Path(place).glob("*/framework.yml")]
    if len(found) != 1:
        raise PlanError(
            f"the environment of {harness} has {len(found)} files core_evals/*/framework.yml, not one",
            hint="Install each wheel into an environment of its own: evalkit harness install --wheel.",
        )
    return read_framework(found[0])


def _write_run_config(
    output: Path, evaluation: Mapping[str, Any], target: Mapping[str, Any]
) -> None:
    """What nemo-evaluator leaves beside the results; readers of results look into it."""
    config = {**evaluation["config"], "output_dir": str(output)}
    document = {**evaluation, "config": config, "target": {"api_endpoint": dict(target)}}
    (output / "run_config.yml").write_text(yaml.safe_dump(document), "utf-8")
