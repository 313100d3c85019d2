"""A recipe file, overrides and an environment -> one valid `Recipe`.

Layers are laid over each other (what the file extends, the file, a target, each `-o`), then references to the
environment are filled in, then everything is validated at once. Reads files and nothing else: the
environment is an argument, and no network or data set is touched.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import RecipeError
from evalkit.recipe.check import check_recipe
from evalkit.recipe.document import Document, dotted
from evalkit.recipe.files import Kind, find_file, moved, read_file
from evalkit.recipe.nemo.compose import SECTIONS, is_nemo, refuse_group, refuse_rewrite
from evalkit.recipe.nemo.overrides import first_key
from evalkit.recipe.nemo.read import NemoOptions, read_nemo, run_folder
from evalkit.recipe.overrides import delete, limits, parse_override, select_tasks, with_limits
from evalkit.recipe.problems import nearest, recipe_error
from evalkit.recipe.references import Substitution
from evalkit.recipe.shape import recipe_shape
from evalkit.recipe.shorthand import expand
from evalkit.recipe.sweep import expand_patterns, find_variants, without_sweep
from evalkit.recipe.target import lay_target
from evalkit.recipe.values import as_name
from evalkit.shipped import shipped_recipes

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from evalkit.recipe.files import ReadFile
    from evalkit.recipe.nemo.read import NemoRecipe
    from evalkit.recipe.nemo.source import Note
    from evalkit.recipe.schema import Recipe

NEMO_KEYS = (*SECTIONS, "env_vars")


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
    notes: tuple[Note, ...] | None = None
    """Of a file of the NeMo Evaluator launcher: keys without effect or with another meaning. Null for a
    recipe."""

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


def load_recipe(  # noqa: PLR0913 - each is an argument of the command line
    source: str | Path,
    *,
    serving: str | Path | None = None,
    overrides: Sequence[str] = (),
    tasks: Sequence[str] = (),
    limit: int | None = None,
    env: Mapping[str, str],
    nemo: NemoOptions | None = None,
) -> LoadedRecipe:
    """Load a recipe by path or by the name of a shipped one, or a file of the NeMo Evaluator launcher.

    `serving` is a file that says who is asked (`evalkit.recipe.target`). `overrides` are texts of `-o`,
    `tasks` names to keep, `limit` the most samples of each task; for a launcher file `nemo` says how it
    is read, and a recipe takes none. Raises RecipeError, with every problem that was found.
    """
    kind = Kind("recipe", shipped_recipes(), lambda document, base: expand(document, base, env))
    read = read_file(find_file(source, kind), kind)
    base = read.path.parent
    refuse_rewrite(read.document.data, str(read.path))
    refuse_group(read.document.data, str(read.path))
    found = None
    if is_nemo(read.document.data):
        theirs, overrides = _whose(overrides)
        found = _read_nemo(read, theirs, tasks, nemo or NemoOptions(), env)
        document = moved(found.document, Path(), base)
    else:
        _refuse_options(nemo, read.path)
        document = read.document
    document = _named(document, read.path)
    if serving is not None:
        document = lay_target(document, serving, kind, base)
    for text in overrides:
        if text.startswith("~"):
            document = delete(text, document)
        else:
            # A path that is typed is relative to where it is typed.
            layer = expand(parse_override(text, document), Path(), env)
            document = moved(layer, Path(), base).over(document)
    if found is None:
        document = select_tasks(document, tasks)
    whole = _load(document, read, limit, env)
    variants = [
        _load(variant.layer.over(without_sweep(document)), read, limit, env, variant.label)
        for variant in find_variants(document)
    ]
    notes = None if found is None else found.notes
    loaded = replace(whole, variants=tuple(variants), notes=notes)
    _refuse_same_labels(loaded)
    return loaded


def _refuse_same_labels(loaded: LoadedRecipe) -> None:
    labels = Counter(cell.label(model) for cell in loaded.cells for model in cell.recipe.models)
    twice = next((label for label, count in labels.items() if count > 1), None)
    if twice is not None:
        raise RecipeError(
            f"{loaded.path}: two runs of the sweep would be called {twice}",
            hint="Rename a model or a variant: a run is called MODEL-VARIANT.",
        )


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


def is_nemo_file(source: str | Path) -> bool:
    """Whether the name leads to a file of the NeMo Evaluator launcher. Raises RecipeError."""
    return is_nemo(_read_as_written(source).document.data)


def nemo_run_folder(source: str | Path, env: Mapping[str, str]) -> Path | None:
    """The run folder that a launcher file names, null for a recipe. Raises RecipeError."""
    read = _read_as_written(source)
    return run_folder(read.document, str(read.path), env) if is_nemo(read.document.data) else None


def _read_as_written(source: str | Path) -> ReadFile:
    kind = Kind("recipe", shipped_recipes(), lambda document, base: document)
    return read_file(find_file(source, kind), kind)


def _read_nemo(
    read: ReadFile,
    overrides: Sequence[str],
    tasks: Sequence[str],
    options: NemoOptions,
    env: Mapping[str, str],
) -> NemoRecipe:
    origin = str(read.path)
    return read_nemo(
        read.document, origin, overrides=overrides, tasks=tasks, options=options, env=env
    )


def _whose(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides of a launcher file's own keys, and those of the recipe that it becomes."""
    theirs: list[str] = []
    ours: list[str] = []
    for text in overrides:
        first = first_key(text)
        is_slip = first not in (recipe_shape().keys or {}) and bool(nearest(first, NEMO_KEYS))
        is_theirs = first in NEMO_KEYS or text.startswith("+") or is_slip
        (theirs if is_theirs else ours).append(text)
    return theirs, ours


def _refuse_options(nemo: NemoOptions | None, path: Path) -> None:
    for flag in ("skip_unsupported", "lenient"):
        if nemo is not None and getattr(nemo, flag):
            raise RecipeError(
                f"--{flag.replace('_', '-')}: {path} is a recipe, and this is for files of the NeMo "
                "Evaluator launcher",
                hint="A recipe names tasks that cannot be run under `unavailable: {NAME: REASON}`.",
            )


def _named(document: Document, path: Path) -> Document:
    """With a name; by default the file's, without what a name may not hold."""
    name = as_name(path.stem, "recipe")
    return document.over(Document({"name": name})) if not document.data.get("name") else document
