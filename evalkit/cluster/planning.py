"""From a loaded recipe to plans: data loaded and rendered, models identified, nothing written.

This is the last step that needs data sets or the network.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.benchmarks.contract import served_model
from evalkit.benchmarks.data import DataAccess
from evalkit.benchmarks.frozen import checksum, freeze
from evalkit.cluster.resolved import (
    judge_generation,
    task_benchmark,
    task_settings,
)
from evalkit.errors import (
    DataError,
    EvalkitError,
    IncompleteCheckpointError,
    PlanError,
)
from evalkit.plan.build import (
    PreparedTask,
    RunInputs,
    build_plan,
    plan_deployment,
    plan_judge,
)
from evalkit.recipe.request import Adapters
from evalkit.recipe.resolve import resolve_judge
from evalkit.recipe.serving import VllmServing
from evalkit.serving.hub import hub_identity
from evalkit.serving.identity import checkpoint_identity
from evalkit.store.layout import RunFolder
from evalkit.store.run import (
    is_run,
    load_plan,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from evalkit.benchmarks.contract import Benchmark, Dataset, Sample
    from evalkit.plan.model import JudgePlan, ModelIdentity, Plan
    from evalkit.recipe.load import LoadedRecipe
    from evalkit.recipe.schema import Scoring, Source, Task


@dataclass(frozen=True, slots=True)
class _Data:
    """A task's frozen samples; the same for all models."""

    benchmark: Benchmark[Any]
    samples: Sequence[Sample]
    frozen: bytes
    n_calls: int | None
    """Of all samples, once each."""
    parts: Mapping[str, int]
    """Likewise."""
    dataset: Dataset


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan that is not on disk yet."""

    loaded: LoadedRecipe
    """The recipe of this cell."""
    label: str
    """Name among the runs of a sweep; empty where there is one run."""
    folder: RunFolder
    plan: Plan
    frozen: Mapping[str, bytes]


def recipe_folder(loaded: LoadedRecipe) -> Path:
    """Where a recipe's run lies, or all its runs."""
    recipe = loaded.recipe
    return (Path(recipe.output.dir).expanduser() / (recipe.output.name or recipe.name)).absolute()


def run_folder(loaded: LoadedRecipe, model: str) -> RunFolder:
    """Where a model's run lies: the recipe's folder, or a cell of a sweep below it."""
    return RunFolder(recipe_folder(loaded) / loaded.label(model))


def run_folders(loaded: LoadedRecipe) -> list[RunFolder]:
    """Where all runs of a recipe lie."""
    return [run_folder(cell, model) for cell in loaded.cells for model in cell.recipe.models]


def plan_runs(loaded: LoadedRecipe, on_progress: Callable[[str], None]) -> list[Planned]:
    """The plans of all runs of a recipe: loads and renders data, writes nothing.

    Raises RecipeError, DataError, PlanError.
    """
    _refuse_empty(loaded)
    return [planned for cell in loaded.cells for planned in _plan_cell(cell, on_progress)]


def _plan_cell(loaded: LoadedRecipe, on_progress: Callable[[str], None]) -> list[Planned]:
    """A plan for each model. Of a family, folders that are no whole checkpoint are named and left out."""
    for name in loaded.recipe.tasks:
        _check_task(loaded, name)
    data = {
        name: _load(loaded, name, task, on_progress) for name, task in loaded.recipe.tasks.items()
    }
    plans: list[Planned] = []
    left_out: list[IncompleteCheckpointError] = []
    for model in loaded.recipe.models:
        try:
            plans.append(_plan_model(loaded, model, data, on_progress))
        except IncompleteCheckpointError as error:
            if model not in loaded.families:
                raise
            left_out.append(error)
    if not plans:
        raise left_out[0]
    for each in left_out:
        on_progress(f"left out: {each.message}")
    return plans


def _refuse_empty(loaded: LoadedRecipe) -> None:
    if not loaded.recipe.tasks:
        raise PlanError(
            f"{loaded.path}: nothing can be run, for none of its tasks is available here\n"
            + "\n".join(f"  {name}: {why}" for name, why in loaded.recipe.unavailable.items())
        )


def _check_task(loaded: LoadedRecipe, name: str) -> None:
    """What is wrong with a task without its data, which may take minutes: its parameters, its settings with each
    model, its judge. Raises RecipeError, PlanError."""
    task = loaded.recipe.tasks[name]
    with _named(name):
        benchmark = task_benchmark(loaded, name)
        DataAccess(name, task.data, loaded.base).refuse_useless(benchmark.source)
        benchmark.check(loaded.base)
        for model in loaded.recipe.models:
            task_settings(loaded, model, name, benchmark)
        if benchmark.grader == "judge":
            judge_generation(benchmark, *resolve_judge(loaded.recipe, name, benchmark.name))


@contextmanager
def _named(task: str) -> Iterator[None]:
    """Errors say which task they are of."""
    try:
        yield
    except EvalkitError as error:
        if not error.message.startswith("tasks."):
            error.message = f"tasks.{task}: {error.message}"
        raise


def _load(loaded: LoadedRecipe, name: str, task: Task, on_progress: Callable[[str], None]) -> _Data:
    on_progress(f"loading {name}")
    with _named(name):
        benchmark = task_benchmark(loaded, name)
        dataset = benchmark.load(DataAccess(name, task.data, loaded.base, task.limit))
    samples = list(dataset.samples[: None if benchmark.counts_itself else task.limit])
    if not samples:
        raise DataError(f"tasks.{name}: the data set has no samples")
    ids = {sample.id for sample in samples}
    if len(ids) != len(samples):
        raise DataError(f"tasks.{name}: the data set has {len(samples) - len(ids)} repeated ids")
    try:
        frozen = freeze(samples)
    except TypeError as error:
        raise PlanError(
            f"tasks.{name}: {benchmark.name} made a sample that is not JSON: {error}"
        ) from error
    calls = [benchmark.n_calls(sample) for sample in samples]
    known = [each for each in calls if each is not None]
    n_calls = sum(known) if len(known) == len(calls) else None
    parts: Counter[str] = Counter()
    for sample in samples:
        parts.update(benchmark.parts(sample))
    return _Data(benchmark, samples, frozen, n_calls, parts, dataset)


def _plan_model(
    loaded: LoadedRecipe,
    model: str,
    data: Mapping[str, _Data],
    on_progress: Callable[[str], None],
) -> Planned:
    recipe, folder = loaded.recipe, run_folder(loaded, model)
    name = recipe.output.name or recipe.name
    source = recipe.models[model]
    folder_plan = load_plan(folder) if is_run(folder) else None
    tasks = [
        _prepare_task(
            loaded,
            model,
            name,
            data[name],
            _judge(loaded, name, data[name].benchmark, folder_plan, on_progress),
        )
        for name in recipe.tasks
    ]
    if source.hub is None:
        identity = _checkpoint(loaded, model, tasks)
    else:
        existing = None if folder_plan is None else folder_plan.model
        identity = hub_identity(model, source, existing, on_progress)
    inputs = RunInputs(
        run="-".join(filter(None, (name, loaded.label(model)))),
        recipe=recipe.name,
        model=identity,
        model_source=model_source(source, loaded.base),
        model_name=model,
        revision=identity.revision if source.hub else None,
        client=recipe.client,
        is_hub=source.hub is not None,
        scoring=_scoring(loaded),
        unavailable=recipe.unavailable,
    )
    frozen = {name: item.frozen for name, item in data.items()}
    plan = build_plan(inputs, tasks)
    for task in plan.tasks:
        try:
            found = data[task.name]
            found.benchmark.meet(served_model(plan.deployments[task.deployment]), found.samples)
        except EvalkitError as error:
            error.message = f"tasks.{task.name}, models.{model}: {error.message}"
            raise
    return Planned(loaded, loaded.label(model), folder, plan, frozen)


def model_source(source: Source, base: Path) -> str:
    """What a server loads: an absolute path, a hub id or a model id."""
    if source.path is None:
        return source.source
    return str((base / Path(source.path).expanduser()).resolve())


def _scoring(loaded: LoadedRecipe) -> Scoring:
    """As the recipe says, with the image where every node finds it."""
    scoring = loaded.recipe.scoring
    if scoring.image is None:
        return scoring
    image = (loaded.base / Path(scoring.image).expanduser()).resolve()
    return scoring.model_copy(update={"image": str(image)})


def _checkpoint(loaded: LoadedRecipe, model: str, tasks: Sequence[PreparedTask]) -> ModelIdentity:
    dummy = all(
        isinstance(t.serving, VllmServing) and t.serving.load_format == "dummy" for t in tasks
    )
    source = loaded.recipe.models[model]
    return checkpoint_identity(model, source, loaded.base, need_weights=not dummy)


def _judge(
    loaded: LoadedRecipe,
    task: str,
    benchmark: Benchmark[Any],
    before: Plan | None,
    on_progress: Callable[[str], None],
) -> JudgePlan | None:
    """Who judges a task, where its benchmark needs that. A hub model keeps the commit that an earlier
    plan of the run found."""
    if benchmark.grader != "judge":
        return None
    name, judge = resolve_judge(loaded.recipe, task, benchmark.name)
    if judge.hub is None:
        dummy = isinstance(judge.serving, VllmServing) and judge.serving.load_format == "dummy"
        identity = checkpoint_identity(
            name, judge, loaded.base, need_weights=not dummy, section="judges"
        )
    else:
        known = None if before is None else before.find_judge(name)
        identity = hub_identity(name, judge, known, on_progress, "judges")
    return plan_judge(
        identity,
        plan_deployment(
            judge.serving,
            name,
            model_source(judge, loaded.base),
            revision=identity.revision if judge.hub else None,
        ),
        judge_generation(benchmark, name, judge),
        parallelism=judge.parallelism,
        is_hub=judge.hub is not None,
        adapters=Adapters(judge.request, judge.reasoning),
    )


def _prepare_task(
    loaded: LoadedRecipe, model: str, name: str, data: _Data, judge: JudgePlan | None
) -> PreparedTask:
    benchmark = data.benchmark
    settings = task_settings(loaded, model, name, benchmark)
    return PreparedTask(
        name=name,
        benchmark=benchmark.name,
        benchmark_version=benchmark.version,
        profile=benchmark.profile,
        params=benchmark.params.model_dump(mode="json"),
        metric=benchmark.metric,
        generation=settings.generation,
        request=settings.request,
        reasoning=settings.reasoning,
        repeats=settings.repeats,
        n_samples=len(data.samples),
        expected_tokens=benchmark.expected_tokens,
        serving=settings.serving,
        data=data.dataset.provenance,
        requests_sha256=checksum(data.frozen),
        prompts=data.dataset.prompts,
        n_calls=data.n_calls,
        parts=data.parts,
        limit=loaded.recipe.tasks[name].limit if benchmark.counts_itself else None,
        judge=judge,
        loose_params=_loose_params(benchmark),
        unit_is_work=benchmark.drives,
    )


def _loose_params(benchmark: Benchmark[Any]) -> frozenset[str]:
    """Parameters that a run goes on with when they change: those of grading, and of reading what was
    found."""
    reading = benchmark.scoring_params if benchmark.grader is not None else ()
    return frozenset((*benchmark.grading_params, *benchmark.local_params, *reading))
