"""Benchmarks and harnesses by name, found through the entry-point groups `evalkit.benchmarks` and
`evalkit.harnesses`.

The built-in ones come through the same door as anybody else's. Only the module of what is asked for is
imported. A name with a slash is a task of a harness: `lm-eval/hellaswag`.
"""

from __future__ import annotations

import difflib
import sys
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from evalkit.benchmarks.contract import Benchmark, BenchmarkParams
from evalkit.benchmarks.harness import Harness
from evalkit.errors import PlanError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from evalkit.plan.model import TaskPlan
    from evalkit.recipe.schema import Profile

GROUP = "evalkit.benchmarks"
HARNESSES = "evalkit.harnesses"
SOURCES = "evalkit.harness_sources"
"""Functions that give harnesses by name which no package registers: wheels that the user installed."""


def benchmark_names() -> list[str]:
    """Names of all installed benchmarks, sorted; tasks of harnesses are not among them."""
    return sorted(_entry_points(GROUP))


def harness_names() -> list[str]:
    """Names of all harnesses that evalkit can run, installed or not, sorted."""
    return sorted({*_entry_points(HARNESSES), *_sourced()})


def harness(name: str) -> Harness:
    """A harness. Raises RecipeError for an unknown name, PlanError for a broken plug-in."""
    if name not in _entry_points(HARNESSES) and (sourced := _sourced().get(name)):
        return sourced
    made: Harness = _load(HARNESSES, Harness, name)()
    return made


def is_harness_task(name: str) -> bool:
    """Whether a benchmark's name means a task of a harness."""
    return "/" in name or (name in _entry_points(HARNESSES) and name not in _entry_points(GROUP))


def benchmark_class(name: str) -> type[Benchmark[Any]]:
    """The class of a benchmark. Raises RecipeError for an unknown name, PlanError for a broken plug-in."""
    if is_harness_task(name):
        return _harness_task(name)[0].benchmark_type
    return _load(GROUP, Benchmark, name)


def installed_class(name: str) -> type[Benchmark[Any]] | None:
    """The class of a benchmark; null for a task of a harness that is not there, or not any more: what such
    tasks left can be read all the same. Raises as `benchmark_class` for all else."""
    first, slash, _ = name.partition("/")
    return None if slash and first not in harness_names() else benchmark_class(name)


def _harness_task(name: str) -> tuple[Harness, Mapping[str, Any]]:
    """The harness of `HARNESS/TASK`, and the parameters that choose the task."""
    first, slash, task = name.partition("/")
    found = harness(first)
    if found.needs_task and not task:
        raise RecipeError(
            f"benchmark {name!r}: the harness {first} has many tasks, and none is named",
            hint=f"Write {first}/TASK; `evalkit ls tasks --harness {first}` lists them.",
        )
    if slash and not found.needs_task:
        raise RecipeError(
            f"benchmark {name!r}: the harness {first} has no tasks of its own",
            hint=f"Write benchmark: {first}",
        )
    return found, found.task_params(task)


def _sourced() -> dict[str, Harness]:
    """Harnesses that no package registers, by name."""
    found: dict[str, Harness] = {}
    for point in _entry_points(SOURCES).values():
        found |= point.load()()
    return found


def _load(group: str, wanted: type[Any], name: str) -> type[Any]:
    """The class that an entry point names. Raises RecipeError for an unknown one, PlanError for a broken
    one."""
    known, kind = _entry_points(group), wanted.__name__.lower()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        several = "Installed benchmarks" if wanted is Benchmark else "Harnesses"
        more = " Tasks of harnesses are written HARNESS/TASK." if wanted is Benchmark else ""
        names = benchmark_names() if wanted is Benchmark else harness_names()
        raise RecipeError(
            f"unknown {kind} {name!r}.{guess}", hint=f"{several}: {', '.join(names)}.{more}"
        )
    where = f"{kind} {name!r} ({known[name].value})"
    try:
        loaded = known[name].load()
    except (ImportError, AttributeError) as error:
        raise PlanError(f"{where} cannot be imported: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, wanted)):
        raise PlanError(f"{where} is not a {wanted.__name__} class")
    return loaded


def make_benchmark(name: str, params: Mapping[str, Any], profile: Profile) -> Benchmark[Any]:
    """A benchmark with its parameters: the profile's knobs, and `params` over them.

    Raises RecipeError naming the parameter that is not valid, and those there are.
    """
    cls = benchmark_class(name)
    chosen = _harness_task(name)[1] if is_harness_task(name) else {}
    for key, value in chosen.items():
        if params.get(key, value) != value:
            raise RecipeError(
                f"params.{key}: {params[key]!r} is not the task of benchmark {name!r}",
                hint=f"Leave params.{key} out; the benchmark's name chooses the task.",
            )
    merged = {**cls.knobs.get(profile, {}), **params, **chosen}
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


def registered(group: str) -> Iterable[EntryPoint]:
    """What installed packages register in a group."""
    return _registered(group, tuple(sys.path))


@cache
def _registered(group: str, path: tuple[str, ...]) -> EntryPoints:
    """Of all packages on the path. Kept, for it reads a file of each: 25 ms where 300 are installed, and
    a benchmark is looked up several times for each task."""
    return entry_points(group=group)


def _entry_points(group: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in registered(group):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            kind = group.removeprefix("evalkit.").removesuffix("es" if group == HARNESSES else "s")
            raise PlanError(
                f"two packages register the {kind} {point.name!r}: {_package(other)} "
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
