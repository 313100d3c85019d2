"""A recipe file, overrides and an environment -> one valid `Recipe`.

Layers are laid over each other (what the file extends, the file, each `-o`), then references to the
environment are filled in, then everything is validated at once. Reads files and nothing else: the
environment is an argument, and no network or data set is touched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.recipe.check import check_recipe
from evalkit.recipe.document import Document, dotted
from evalkit.recipe.files import Kind, ReadFile, find_file, moved, read_file
from evalkit.recipe.overrides import delete, limits, parse_override, select_tasks, with_limits
from evalkit.recipe.problems import recipe_error
from evalkit.recipe.references import Substitution
from evalkit.recipe.shorthand import expand
from evalkit.recipe.sweep import expand_patterns, find_variants, without_sweep
from evalkit.shipped import shipped_recipes

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

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
    families: frozenset[str] = frozenset()
    """Models that a path with a wildcard stands for."""
    variant: str = ""
    """Which of a sweep's variants this is; empty for none."""
    variants: tuple[LoadedRecipe, ...] = ()
    """What `sweep` makes of the recipe, one for each variant; () without."""

    @property
    def cells(self) -> tuple[LoadedRecipe, ...]:
        """The recipes that are run: those of the variants, or this one."""
        return self.variants or (self,)

    def keep_models(self, names: Collection[str]) -> LoadedRecipe:
        """The recipe for some of its models only; each keeps the name of its run."""
        models = {name: model for name, model in self.recipe.models.items() if name in names}
        raw = {name: model for name, model in self.raw["models"].items() if name in names}
        return replace(
            self,
            recipe=self.recipe.model_copy(update={"models": models}),
            raw={**self.raw, "models": raw},
            variants=tuple(variant.keep_models(names) for variant in self.variants),
        )

    def label(self, model: str) -> str:
        """Name of a model's run among those of the sweep; empty where there is one run."""
        has_models = len(self.recipe.models) > 1 or self.families
        return "-".join(filter(None, (model if has_models else "", self.variant)))


def load_recipe(
    source: str | Path,
    *,
    overrides: Sequence[str] = (),
    tasks: Sequence[str] = (),
    limit: int | None = None,
    env: Mapping[str, str],
) -> LoadedRecipe:
    """Load a recipe by path or by the name of a shipped one.

    `overrides` are texts of `-o`, `tasks` names to keep, `limit` the most samples of each task.
    Raises RecipeError, with every problem that was found.
    """
    kind = Kind("recipe", shipped_recipes(), lambda document, base: expand(document, base, env))
    read = read_file(find_file(source, kind), kind)
    base = read.path.parent
    document = read.document
    for text in overrides:
        if text.startswith("~"):
            document = delete(text, document)
        else:
            # A path that is typed is relative to where it is typed.
            layer = expand(parse_override(text, document), Path(), env)
            document = moved(layer, Path(), base).over(document)
    document = select_tasks(_named(document, read.path), tasks)
    whole = _load(document, read, limit, env)
    variants = [
        _load(variant.layer.over(without_sweep(document)), read, limit, env, variant.label)
        for variant in find_variants(document)
    ]
    return replace(whole, variants=tuple(variants))


def _load(
    document: Document,
    read: ReadFile,
    limit: int | None,
    env: Mapping[str, str],
    variant: str = "",
) -> LoadedRecipe:
    base = read.path.parent
    substitution = Substitution(env)
    resolved = substitution.document(document)
    if substitution.problems:
        raise recipe_error(substitution.problems, document, str(read.path))
    raw, expanded = expand_patterns(document, resolved, base)
    smaller = limits(expanded.document.data, limit)
    raw, resolved = with_limits(raw, smaller), with_limits(expanded.document, smaller)
    return LoadedRecipe(
        recipe=check_recipe(resolved, str(read.path)),
        path=read.path,
        base=base,
        given=read.text,
        raw=raw.data,
        sources={dotted(path): place for path, place in resolved.sources.items()},
        families=expanded.families,
        variant=variant,
    )


def _named(document: Document, path: Path) -> Document:
    """With a name; by default the file's, without what a name may not hold."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("._-")[:100] or "recipe"
    return document.over(Document({"name": name})) if not document.data.get("name") else document
