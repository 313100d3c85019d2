"""Benchmarks by name, found through the entry-point group `evalkit.benchmarks`.

The built-in ones come through the same door as anybody else's. Only the module of the benchmark that
is asked for is imported.
"""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from evalkit.benchmarks.contract import Benchmark, BenchmarkParams
from evalkit.errors import PlanError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.plan.model import TaskPlan
    from evalkit.recipe.schema import Profile

GROUP = "evalkit.benchmarks"


def benchmark_names() -> list[str]:
    """Names of all installed benchmarks, sorted."""
    return sorted(_entry_points())


def benchmark_class(name: str) -> type[Benchmark[Any]]:
    """The class of a benchmark. Raises RecipeError for an unknown name, PlanError for a broken plug-in."""
    known = _entry_points()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise RecipeError(
            f"unknown benchmark {name!r}.{guess}",
            hint=f"Installed benchmarks: {', '.join(sorted(known))}.",
        )
    try:
        loaded = known[name].load()
    except (ImportError, AttributeError) as error:
        raise PlanError(
            f"benchmark {name!r} ({known[name].value}) cannot be imported: {error}"
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Benchmark)):
        raise PlanError(f"benchmark {name!r} ({known[name].value}) is not a Benchmark class")
    return loaded


def make_benchmark(name: str, params: Mapping[str, Any], profile: Profile) -> Benchmark[Any]:
    """A benchmark with its parameters: the profile's knobs, and `params` over them.

    Raises RecipeError naming the parameter that is not valid, and those there are.
    """
    cls = benchmark_class(name)
    merged = {**cls.knobs.get(profile, {}), **params}
    try:
        return cls(cls.params_type.model_validate(merged), profile)
    except ValidationError as error:
        raise RecipeError(
            "; ".join(_describe(problem, cls.params_type) for problem in error.errors()),
            hint=f"Parameters of {name}: {', '.join(cls.params_type.model_fields) or 'none'}.",
        ) from error


def benchmark_for(task: TaskPlan) -> Benchmark[Any]:
    """The benchmark of a planned task, as it was planned. Raises PlanError for another version."""
    benchmark = make_benchmark(task.benchmark, task.params, task.profile)
    if benchmark.version != task.benchmark_version:
        raise PlanError(
            f"task {task.name!r} was planned with {task.benchmark} version {task.benchmark_version}, "
            f"installed is {benchmark.version}",
            hint="Install the evalkit that made the run (provenance.json), or start a new run.",
        )
    return benchmark


def _entry_points() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise PlanError(
                f"two packages register the benchmark {point.name!r}: {_package(other)} "
                f"({other.value}) and {_package(point)} ({point.value})",
                hint="Uninstall one of them.",
            )
    return found


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown package"


def _describe(problem: Any, params: type[BenchmarkParams]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, params.model_fields, n=1)
        return f"params.{key}: unknown key" + (f", did you mean {near[0]!r}?" if near else "")
    return f"params.{key}: {problem['msg']}, found {problem['input']!r}"
