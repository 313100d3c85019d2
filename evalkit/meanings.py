"""What the fields of a value mean: the string below each field, read when somebody asks.

Pydantic can do this itself (`use_attribute_docstrings`), but it reads and parses the source of each
class as it is made. That was a fifth of the time in which a worker starts, for texts that only the
reference pages, the JSON Schema and `evalkit ls task` show.
"""

from __future__ import annotations

import ast
import inspect
import sys
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterator


def field_meanings(cls: type) -> dict[str, str]:
    """What each field of a model or data class means: its `description`, else the string below it.

    Fields that have neither are left out. Inherited fields have theirs from the class that wrote them
    down. Classes inside others, and those whose source cannot be read, say nothing.
    """
    below = dict(pair for each in reversed(cls.__mro__) for pair in _strings_below(each))
    if not issubclass(cls, BaseModel):
        return below
    given = {name: field.description for name, field in cls.model_fields.items()}
    told = {name: text or below.get(name, "") for name, text in given.items()}
    return {name: text for name, text in told.items() if text}


def _strings_below(cls: type) -> Iterator[tuple[str, str]]:
    for field, text in pairwise(_bodies(cls.__module__).get(cls.__qualname__, [])):
        match field, text:
            case (
                ast.AnnAssign(target=ast.Name(name)),
                ast.Expr(value=ast.Constant(value=str(words))),
            ):
                yield name, inspect.cleandoc(words)
            case _:
                pass


@cache
def _bodies(module: str) -> dict[str, list[ast.stmt]]:
    """What stands in each class of a module that other classes are not in."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (KeyError, OSError, TypeError):
        return {}
    return {each.name: each.body for each in tree.body if isinstance(each, ast.ClassDef)}
