"""A file that says who is asked, laid over a recipe that says what is asked.

So one methodology meets any number of models and endpoints, and nothing else of it can change: a key
that is not about the target is refused, and models and serving of the recipe are replaced, not joined.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from evalkit.errors import RecipeError
from evalkit.recipe.document import Document
from evalkit.recipe.files import find_file, moved, read_file
from evalkit.recipe.values import as_name

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.recipe.files import Kind

KEYS = ("models", "serving", "request", "reasoning", "client", "cluster", "output")
SHORT = ("model", "description", "extends")


def lay_target(document: Document, file: str | Path, kind: Kind, base: Path) -> Document:
    """The recipe `document`, whose paths start at `base`, with the target of a file.

    The run is named after recipe and file where neither names it. Raises RecipeError for a file that
    says anything else.
    """
    kind = replace(kind, noun="file for --serving", shipped={})
    read = read_file(find_file(file, kind), kind)
    target = read.document
    for key in target.data:
        if key not in (*KEYS, *SHORT):
            place = target.where((key,)) or str(read.path)
            raise RecipeError(
                f"{place} {key}: a file of --serving says who is asked and how, not what",
                hint=f"It may hold {', '.join(KEYS)}; put {key} into the recipe.",
            )
    data = {key: value for key, value in target.data.items() if key != "description"}
    layer = moved(Document(data, target.sources), read.path.parent, base)
    own = (document.data.get("output") or {}).get("name") or document.data["name"]
    # A model of the same name is another one here, and a key of the recipe's server would go to this one.
    replaced = {"models", "serving"} & data.keys()
    kept = {key: value for key, value in document.data.items() if key not in replaced}
    result = layer.over(Document(kept, document.sources, document.selects))
    name = f"{own}-{as_name(read.path.stem, 'target')}"
    named = Document({"output": {"name": name}}, {("output", "name"): f"--serving {file}"})
    return result if (data.get("output") or {}).get("name") else named.over(result)
