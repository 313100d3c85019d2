"""The keys of the schema as plain values: which are valid where, what they take, in words.

Error messages, `-o` paths and the reference page all need this, and pydantic answers none of it in
words a reader of YAML would use. Derived from the schema's annotations; it validates nothing.
"""

from __future__ import annotations

import types
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel

from evalkit.recipe.schema import Cluster, Recipe
from evalkit.recipe.values import Partial, Words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.fields import FieldInfo

    from evalkit.recipe.document import Path

PLAIN: Mapping[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Any: "anything",
}


@dataclass(frozen=True)
class Shape:
    """What may stand at one place of a recipe."""

    words: str
    """What it takes, as in `a number above 0, or null`."""
    nullable: bool = False
    """Whether null is a value; else it means the default."""
    keys: Mapping[str, Shape] | None = None
    """The keys of a section."""
    values: Shape | None = None
    """What a mapping with free keys holds."""
    items: Shape | None = None
    """What a list holds."""
    open: bool = False
    """Anything may be below."""
    partial: bool = False
    """A partial section: its nulls are settled when it is merged."""

    def child(self, key: str | int) -> Shape | None:
        """The shape below a key, null where the key is not valid."""
        if self.open:
            return self
        if self.keys is not None:
            return self.keys.get(str(key))
        return self.items if isinstance(key, int) else self.values


@cache
def section_shape(*sections: type[BaseModel], more: tuple[str, ...] = ()) -> Shape:
    """The shape of one section, or of several that stand at one place (kinds of serving)."""
    keys = {name: _text_shape() for name in more}
    for section in reversed(sections):
        keys |= {name: field_shape(field) for name, field in section.model_fields.items()}
    if len(sections) > 1:
        keys["kind"] = Shape("one of " + ", ".join(kind_of(section) for section in sections))
    return Shape("a mapping", keys=keys)


def kind_of(section: type[BaseModel]) -> str:
    """The `kind` that chooses a section among several."""
    return str(get_args(section.model_fields["kind"].annotation)[0])


def recipe_shape() -> Shape:
    """The shape of a whole recipe."""
    return section_shape(Recipe)


def template_shape() -> Shape:
    """The shape of a template file."""
    return section_shape(Cluster, more=("description",))


def shape_at(path: Path, shape: Shape) -> Shape | None:
    """The shape at a path, null where the path is not valid."""
    found: Shape | None = shape
    for key in path:
        if found is None:
            return None
        found = found.child(key)
    return found


def field_shape(field: FieldInfo) -> Shape:
    """The shape of one field."""
    annotation: Any = field.annotation
    if field.metadata:
        annotation = Annotated[(annotation, *field.metadata)]
    return _shape(annotation)


def drop_nulls(data: Any, shape: Shape) -> Any:
    """Without the nulls that stand for a default; those that are values stay."""
    if not isinstance(data, dict) or shape.open or shape.partial:
        return data
    result: dict[str, Any] = {}
    for key, value in data.items():
        below = shape.child(key)
        if value is None and below is not None and not (below.nullable or below.open):
            if shape.values is not None and below.keys is not None:
                result[key] = {}
        else:
            result[key] = value if below is None else drop_nulls(value, below)
    return result


def _text_shape() -> Shape:
    return Shape(PLAIN[str], nullable=True)


def _shape(annotation: Any) -> Shape:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _annotated_shape(args[0], args[1:])
    if origin in (Union, types.UnionType):
        return _union_shape(args)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return section_shape(annotation)
    if origin is dict:
        return Shape("a mapping", values=_shape(args[1]))
    items = _shape(args[0]) if origin in (tuple, list) else None
    return Shape(_words(annotation, origin, args), items=items, open=annotation is Any)


def _words(annotation: Any, origin: Any, args: tuple[Any, ...]) -> str:
    if origin in (tuple, list):
        return _list_words(args)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args)) if len(args) > 1 else str(args[0])
    return PLAIN[annotation]


def _annotated_shape(inner: Any, metadata: tuple[Any, ...]) -> Shape:
    for mark in metadata:
        if isinstance(mark, Partial):
            keys = section_shape(*mark.sections, more=mark.more).keys
            return Shape("a mapping", keys=keys, partial=True)
    shape = _shape(inner)
    words = next((mark.text for mark in metadata if isinstance(mark, Words)), None)
    if words is None:
        words = _bounded(shape.words, metadata)
    return replace(shape, words=words)


def _union_shape(args: tuple[Any, ...]) -> Shape:
    kinds = [each for each in args if each is not type(None)]
    nullable = len(kinds) < len(args)
    if all(isinstance(each, type) and issubclass(each, BaseModel) for each in kinds):
        return section_shape(*kinds)
    shapes = [_shape(each) for each in kinds]
    words = " or ".join(shape.words for shape in shapes) + (", or null" if nullable else "")
    items = next((shape.items for shape in shapes if shape.items is not None), None)
    return Shape(words, nullable, items=items)


def _list_words(args: tuple[Any, ...]) -> str:
    plural = {"text": "texts", "the name of an environment variable": "names of variables"}
    inner = _shape(args[0]).words
    number = "" if len(args) == 1 or args[1] is Ellipsis else f"{len(args)} "
    return f"a list of {number}{plural.get(inner, 'values')}"


def _bounded(words: str, metadata: tuple[Any, ...]) -> str:
    """`a number` with its bounds: `a number above 0 and at most 1`."""
    bounds = []
    for mark in metadata:
        match mark:
            case annotated_types.Ge(ge=bound):
                bounds.append(f"of at least {bound}")
            case annotated_types.Gt(gt=bound):
                bounds.append(f"above {bound}")
            case annotated_types.Le(le=bound):
                bounds.append(f"at most {bound}")
            case annotated_types.MinLen(min_length=bound):
                bounds.append(f"with at least {bound} entry")
            case _:
                pass
    head, comma, tail = words.partition(", or null")
    return f"{head} {' and '.join(bounds)}{comma}{tail}" if bounds else words
