"""Merged data -> `Recipe`, with every problem of the recipe and of its partial sections at once.

A partial section is only complete on top of others, so it is checked as it will be merged, for every
pair of a model and a task. A problem is shown where the offending key was written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from evalkit.recipe.document import Document, Path, get, merge
from evalkit.recipe.problems import Problem, found_value, nearest, problems_of, recipe_error
from evalkit.recipe.request import Reasoning, RequestSettings
from evalkit.recipe.schema import Cluster, Generation, Recipe
from evalkit.recipe.secret_text import keys_held
from evalkit.recipe.serving import SERVING_SECTIONS
from evalkit.recipe.shape import drop_nulls, kind_of, recipe_shape, section_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SERVINGS: Mapping[str, type[BaseModel]] = {kind_of(each): each for each in SERVING_SECTIONS}
DEFAULT_KIND = kind_of(SERVING_SECTIONS[0])


def check_recipe(document: Document, origin: str) -> Recipe:
    """The valid recipe. Raises one RecipeError that lists all problems with their lines."""
    data = drop_nulls(document.data, recipe_shape())
    problems: list[Problem] = []
    recipe: Recipe | None = None
    if isinstance(data, dict):
        data = _each_serving(data, _with_kind)
    try:
        recipe = Recipe.model_validate(_without_bad_kinds(data, problems))
    except ValidationError as error:
        problems += problems_of(error, data, recipe_shape())
    problems += _partial_problems(data)
    told = {problem.path for problem in problems}
    problems += [each for each in secret_problems(document.data) if each.path not in told]
    if problems or recipe is None:
        raise recipe_error(_by_place(problems, document), document, origin)
    return recipe


def _each_serving(
    data: dict[str, Any], change: Callable[[dict[str, Any], Path], dict[str, Any]]
) -> dict[str, Any]:
    """The data with every section that has a whole serving changed: the recipe itself, each judge."""
    data = change(data, ())
    judges = data.get("judges")
    if not isinstance(judges, dict):
        return data
    changed = {
        name: change(judge, ("judges", name)) if isinstance(judge, dict) else judge
        for name, judge in judges.items()
    }
    return data | {"judges": changed}


def _with_kind(section: dict[str, Any], _path: Path) -> dict[str, Any]:
    if not isinstance(serving := section.get("serving"), dict):
        return section
    return section | {"serving": {"kind": DEFAULT_KIND, **serving}}


def _without_bad_kinds(data: dict[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """The data, without servings whose kind does not exist: that is told here, once."""

    def change(section: dict[str, Any], path: Path) -> dict[str, Any]:
        serving = section.get("serving")
        problem = kind_problem(serving) if isinstance(serving, dict) else None
        if problem is None:
            return section
        problems.append(Problem((*path, "serving", "kind"), problem.text))
        return {key: value for key, value in section.items() if key != "serving"}

    return _each_serving(data, change)


def kind_problem(serving: Mapping[str, Any]) -> Problem | None:
    """The problem of a `kind` that does not exist."""
    kind = serving["kind"]
    if isinstance(kind, str) and kind in SERVINGS:
        return None
    kinds = ", ".join(SERVINGS)
    return Problem(("kind",), f"expected one of {kinds}, found {found_value(kind)}")


def secret_problems(data: Any) -> list[Problem]:
    """The problem of each text that looks like a key: a recipe is recorded, wherever the key stands."""
    return [
        Problem(
            path,
            "this looks like a secret, and it would be recorded. Give the name of its variable: "
            "serving.secrets for a server, api_key_env for an endpoint",
        )
        for path in keys_held(data)
    ]


def serving_problems(serving: Mapping[str, Any]) -> list[Problem]:
    """The problems of one merged serving."""
    problem = kind_problem(serving)
    if problem is not None:
        return [problem]
    return section_problems(SERVINGS[serving["kind"]], serving)


def section_problems(section: type[BaseModel], data: Mapping[str, Any]) -> list[Problem]:
    """The problems of one merged section."""
    shape = section_shape(*SERVING_SECTIONS) if "kind" in section.model_fields else None
    try:
        section.model_validate(data)
    except ValidationError as error:
        return problems_of(error, data, shape or section_shape(section))
    return []


def merged_serving(base: Mapping[str, Any] | None, *partials: Mapping[str, Any]) -> dict[str, Any]:
    """Servings laid over each other; nulls that mean a default are gone."""
    result: dict[str, Any] = {"kind": DEFAULT_KIND, **(base or {})}
    for partial in partials:
        result = merge(result, partial, ("serving",))
    cleaned: dict[str, Any] = drop_nulls(result, section_shape(*SERVING_SECTIONS))
    return {"kind": DEFAULT_KIND, **cleaned}


def _by_place(problems: list[Problem], document: Document) -> list[Problem]:
    """In the order of the lines, as a person will mend them."""

    def key(problem: Problem) -> tuple[str, int]:
        name, _, line = (document.where(problem.path) or "").rpartition(":")
        return (name, int(line)) if line.isdigit() else (line, 0)

    return sorted(problems, key=key)


def _partial_problems(data: Any) -> Iterator[Problem]:
    yield from _cluster_problems(data)
    for section in ("models", "judges", "tasks"):
        yield from _layer_problems(data, section, "generation", Generation)
    for section in ("models", "tasks"):
        yield from _layer_problems(data, section, "request", RequestSettings)
        yield from _layer_problems(data, section, "reasoning", Reasoning)
    yield from _serving_problems(data)
    yield from _judge_problems(data)


def _layer_problems(data: Any, section: str, name: str, kind: type[BaseModel]) -> Iterator[Problem]:
    """Problems of the partial sections `<section>.*.<name>`, each by itself."""
    for path in _entries(data, section):
        layer = get(data, (*path, name))
        if isinstance(layer, dict):
            own = drop_nulls(layer, section_shape(kind))
            yield from _at((*path, name), section_problems(kind, own))


def _judge_problems(data: Any) -> Iterator[Problem]:
    """Tasks that name a judge the recipe does not have."""
    names = [str(path[-1]) for path in _entries(data, "judges")]
    for path in _entries(data, "tasks"):
        name = get(data, (*path, "judge"))
        if isinstance(name, str) and name not in names:
            known = ", ".join(names) or "none; add it under judges"
            yield Problem(
                (*path, "judge"),
                f"the recipe has no judge {name!r}. {nearest(name, names)}Judges: {known}",
            )


def _cluster_problems(data: Any) -> Iterator[Problem]:
    cluster = get(data, ("cluster",))
    if not isinstance(cluster, dict):
        return
    template = cluster.get("template")
    if not isinstance(template, str | None):
        yield Problem(("cluster", "template"), "expected the name or the file of a template")
    own = {key: value for key, value in cluster.items() if key != "template"}
    yield from _at(("cluster",), section_problems(Cluster, drop_nulls(own, section_shape(Cluster))))


def _serving_problems(data: Any) -> Iterator[Problem]:
    """Problems that partial servings add to those of the recipe's own, which are told already."""
    base = get(data, ("serving",))
    if not isinstance(base, dict | None):
        return
    told = serving_problems(merged_serving(base))
    if any(problem.path == ("kind",) for problem in told):
        return  # Nobody can say what belongs on top of it.
    for model in _entries(data, "models"):
        for task in _entries(data, "tasks"):
            layers = [(*model, "serving"), (*task, "serving")]
            given = [layer for layer in layers if isinstance(get(data, layer), dict)]
            partials = [get(data, layer) for layer in given]
            for problem in serving_problems(merged_serving(base, *partials)):
                if problem not in told:
                    owner = _owner(problem.path, given, data)
                    yield Problem(owner + problem.path, problem.text, _shown(owner, problem))


def _owner(path: Path, layers: list[Path], data: Any) -> Path:
    """The partial that gave the key, or the last one where a key is missing."""
    for length in (len(path), 1):
        for layer in reversed(layers):
            if get(data, layer + path[:length]) is not None:
                return layer
    return layers[-1]


def _shown(owner: Path, problem: Problem) -> Path | None:
    return None if problem.shown is None else owner + problem.shown


def _at(root: Path, problems: list[Problem]) -> list[Problem]:
    return [Problem(root + p.path, p.text, _shown(root, p)) for p in problems]


def _entries(data: Any, section: str) -> list[Path]:
    entries = get(data, (section,))
    return [(section, name) for name in entries] if isinstance(entries, dict) else []


def raise_problems(problems: list[Problem], root: Path) -> None:
    """Raise the problems of a section that has no lines. Does nothing where there are none."""
    if problems:
        raise recipe_error(_at(root, problems), Document({}), ".".join(map(str, root)))
