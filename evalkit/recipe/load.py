"""A recipe file, overrides and an environment -> one valid `Recipe`.

Layers are laid over each other (what the file extends, the file, a target, each `-o`), then references to the
environment are filled in, then everything is validated at once. Reads files and nothing else: the
environment is an argument, and no network or data set is touched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.recipe.check import check_recipe
from evalkit.recipe.document import Document, dotted
from evalkit.recipe.files import Kind, find_file, moved, read_file
from evalkit.recipe.overrides import delete, limits, parse_override, select_tasks, with_limits
from evalkit.recipe.problems import recipe_error
from evalkit.recipe.references import Substitution
from evalkit.recipe.shorthand import expand
from evalkit.recipe.target import lay_target
from evalkit.shipped import shipped_recipes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.recipe.schema import Recipe


@dataclass(frozen=True)
class LoadedRecipe:
    """A valid recipe and how it came to be."""

    recipe: Recipe
    path: Path
    """The file, as it was found."""
    base: Path
    """Folder that relative paths of the recipe start at."""
    given: str
    """The file's text as written."""
    raw: dict[str, Any]
    """All layers merged, references to the environment still by name: what may be recorded."""
    sources: Mapping[str, str]
    """Place of each dotted key: `recipes/nano.yaml:12`, `-o KEY` or `--limit`."""


def load_recipe(
    source: str | Path,
    *,
    serving: str | Path | None = None,
    overrides: Sequence[str] = (),
    tasks: Sequence[str] = (),
    limit: int | None = None,
    env: Mapping[str, str],
) -> LoadedRecipe:
    """Load a recipe by path or by the name of a shipped one.

    `serving` is a file that says who is asked (`evalkit.recipe.target`). `overrides` are texts of `-o`, `tasks` names to keep, `limit` the most samples of each task.
    Raises RecipeError, with every problem that was found.
    """
    kind = Kind("recipe", shipped_recipes(), lambda document, base: expand(document, base, env))
    read = read_file(find_file(source, kind), kind)
    base = read.path.parent
    document = _named(read.document, read.path)
    if serving is not None:
        document = lay_target(document, serving, kind, base)
    for text in overrides:
        if text.startswith("~"):
            document = delete(text, document)
        else:
            # A path that is typed is relative to where it is typed.
            layer = expand(parse_override(text, document), Path(), env)
            document = moved(layer, Path(), base).over(document)
    document = select_tasks(document, tasks)
    substitution = Substitution(env)
    resolved = substitution.document(document)
    if substitution.problems:
        raise recipe_error(substitution.problems, document, str(read.path))
    smaller = limits(resolved.data, limit)
    raw, resolved = with_limits(document, smaller), with_limits(resolved, smaller)
    return LoadedRecipe(
        recipe=check_recipe(resolved, str(read.path)),
        path=read.path,
        base=base,
        given=read.text,
        raw=raw.data,
        sources={dotted(path): place for path, place in resolved.sources.items()},
    )


def _named(document: Document, path: Path) -> Document:
    """With a name; by default the file's, without what a name may not hold."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("._-")[:100] or "recipe"
    return document.over(Document({"name": name})) if not document.data.get("name") else document
