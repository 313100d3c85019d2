"""A launcher file and the groups it builds on, laid over each other as its `defaults` list says.

    default.yaml  <-  the listed groups in their order  <-  the file (`_self_`)

Mappings merge, lists replace. A file without a `defaults` list is one that was composed already.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from evalkit.errors import RecipeError
from evalkit.recipe.document import Document, Path, get, nested, walk
from evalkit.recipe.problems import nearest
from evalkit.recipe.yaml_text import parse_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

SECTIONS = ("execution", "deployment", "auxiliary_deployments", "target", "evaluation", "export")
"""Top-level keys of a launcher file that no recipe has."""
RECIPE_KEYS = ("models", "model", "tasks", "serving", "extends")
REWRITE_KEYS = ("services", "benchmarks")
"""Top-level keys of the launcher's rewrite (0.3 and later)."""
DEFAULTS = "the launcher's "
"""How the place of a key begins that a group gave."""
SELF = "_self_"
ENTRY = re.compile(
    r"(?:(?:override|optional) )?(?P<group>[\w/-]+?)(?:@(?P<package>[\w.]+))?(?:=(?P<option>.+))?"
)


def is_nemo(data: Any) -> bool:
    """Whether a YAML file is one of the launcher's, by its top-level keys."""
    if not isinstance(data, dict) or any(key in data for key in RECIPE_KEYS):
        return False
    return any(key in data for key in SECTIONS)


def refuse_rewrite(data: Any, origin: str) -> None:
    """Raise RecipeError for a configuration of the launcher's rewrite."""
    if isinstance(data, dict) and all(
        isinstance(data.get(key), dict | list) for key in REWRITE_KEYS
    ):
        raise RecipeError(
            f"{origin}: a configuration of NeMo Evaluator 0.3 or later (services, benchmarks)",
            hint="evalkit reads those of the 0.2 launcher (execution, deployment, target, evaluation). "
            "`evalkit ls recipes` shows recipes to start from.",
        )


def refuse_group(data: Any, origin: str) -> None:
    """Raise RecipeError for a file that a launcher's `defaults` list names: a part, told by its `type` or by
    its own `defaults` beside no section of a whole configuration."""
    if not isinstance(data, dict) or any(key in data for key in (*RECIPE_KEYS, "evaluation")):
        return
    if isinstance(data.get("type"), str) or ("defaults" in data and not is_nemo(data)):
        raise RecipeError(
            f"{origin}: a part of launcher configurations, which names no task",
            hint="A configuration names it in its `defaults` list (- deployment: vllm, - execution: local); "
            "evalkit has the launcher's parts by these names.",
        )


def is_default(place: str | None) -> bool:
    """Whether a key was given by a group, not by the file or the command line."""
    return place is None or place.startswith(DEFAULTS)


def compose(own: Document) -> Document:
    """The file over its groups. Raises RecipeError for a group that does not exist."""
    file = Document({k: v for k, v in own.data.items() if k != "defaults"}, own.sources)
    if "defaults" not in own.data:
        return file
    layers = [_group("default", ())]
    is_placed = False
    for layer in _layers(own):
        is_placed = is_placed or layer is None
        layers.append(file if layer is None else layer)
    if not is_placed:
        layers.append(file)
    result = Document({})
    for layer in layers:
        result = layer.over(result)
    return _without_target(result)


def _layers(own: Document) -> Iterator[Document | None]:
    """The listed groups; null where the file itself belongs."""
    defaults = own.data["defaults"]
    where = own.where(("defaults",))
    if not isinstance(defaults, list):
        raise RecipeError(f"{where} defaults: expected a list of groups, as in - execution: local")
    for index, entry in enumerate(defaults):
        if entry == SELF:
            yield None
            continue
        place = own.where(("defaults", index))
        if isinstance(entry, dict) and len(entry) == 1:
            [(key, option)] = entry.items()
            entry = f"{key}={option}"
        match = ENTRY.fullmatch(entry) if isinstance(entry, str) else None
        if match is None:
            raise RecipeError(f"{place} defaults: expected GROUP: OPTION, found {entry!r}")
        yield _chosen(match, str(place))


def _chosen(match: re.Match[str], place: str) -> Document:
    name, option, package = match["group"], match["option"], match["package"]
    path = f"{name}/{option}" if option is not None else name
    if path not in _groups().data:
        known = ", ".join(each for each in _groups().data if each != "default")
        guess = nearest(path, [*_groups().data])
        raise RecipeError(f"{place} defaults: there is no group {path}. {guess}Groups: {known}")
    if package is None:
        package = name if option is not None else name.rpartition("/")[0].replace("/", ".")
    return _group(path, tuple(package.split(".")))


def _group(name: str, package: Path) -> Document:
    data = nested(package, _groups().data[name])
    return Document(data, dict.fromkeys(walk(data), f"{DEFAULTS}{name}"))


@cache
def _groups() -> Document:
    text = resources.files("evalkit.recipe.nemo").joinpath("groups.yaml").read_text("utf-8")
    return parse_yaml(text, "groups.yaml")


def _without_target(document: Document) -> Document:
    """Where a server is started, the group's required address of somebody else's is void."""
    if get(document.data, ("deployment", "type")) in (None, "none"):
        return document
    data = dict(document.data)
    endpoint = dict(get(data, ("target", "api_endpoint")) or {})
    for key in ("url", "model_id"):
        if is_default(document.where(("target", "api_endpoint", key))):
            endpoint.pop(key, None)
    data["target"] = {**data["target"], "api_endpoint": endpoint}
    return Document(data, document.sources)
