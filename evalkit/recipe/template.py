"""Template files: the settings of a site, a container or a way to run, under `slurm_templates/`.

A template has the keys of a recipe's `cluster`, a `description`, and may extend other templates.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from evalkit.recipe.check import secret_problems, section_problems
from evalkit.recipe.files import Kind, find_file, read_file
from evalkit.recipe.problems import Problem, recipe_error, unknown_key
from evalkit.recipe.references import Substitution
from evalkit.recipe.schema import Cluster
from evalkit.recipe.shape import drop_nulls, template_shape
from evalkit.shipped import shipped_templates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.recipe.document import Document

EMPTY: Mapping[str, str] = MappingProxyType({})


def load_template(
    source: str | Path, *, base: Path = Path(), env: Mapping[str, str] = EMPTY
) -> Mapping[str, Any]:
    """The keys of a template: a shipped name, or a file relative to `base`.

    Valid on its own; `description` is kept. Raises RecipeError, for an unknown name with the shipped
    ones.
    """
    kind = Kind("template", shipped_templates(), lambda document, folder: document)
    path = find_file(source, kind, base)
    substitution = Substitution(env)
    document = substitution.document(read_file(path, kind).document)
    problems = substitution.problems or _problems(document)
    if problems:
        raise recipe_error(problems, document, str(path))
    result: Mapping[str, Any] = document.data
    return result


def _problems(document: Document) -> list[Problem]:
    data = drop_nulls(document.data, template_shape())
    own = {key: value for key, value in data.items() if key != "description"}
    found = [*section_problems(Cluster, own), *secret_problems(document.data)]
    if not isinstance(data.get("description", ""), str):
        found.append(Problem(("description",), "expected text"))
    return [
        unknown_key(each.path, template_shape()) if each.text.startswith("unknown key") else each
        for each in found
    ]
