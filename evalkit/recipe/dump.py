"""A `Recipe` as YAML that loads again to an equal one: what a run keeps beside its results.

Every default is written, so the file does not change its meaning with a later version. Only
`generation` is written as it was set, because a key that is set there wins over a benchmark's default.
Values from the environment are in it as values; a recipe's `raw` form keeps them by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.recipe.references import escape
from evalkit.recipe.yaml_text import render_yaml

if TYPE_CHECKING:
    from evalkit.recipe.schema import Recipe


def dump_recipe(recipe: Recipe) -> str:
    """The fully resolved recipe as YAML."""
    data: dict[str, Any] = recipe.model_dump()
    data["generation"] = recipe.generation.model_dump(exclude_unset=True)
    return render_yaml(escape(data))
