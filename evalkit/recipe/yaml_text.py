"""YAML as a recipe means it, read with line numbers and written back.

PyYAML follows YAML 1.1, where `10:00:00` is 36000, `on` and `no` are booleans, `012` is ten and the
second of two equal keys wins in silence. Here:

- only `true` and `false` (and `True`, `TRUE`, ...) are booleans; `on`, `off`, `yes` and `no` are text;
- numbers are decimal integers without leading zeros or a plus, and floats (`1e-5` included); times,
  dates, `0x1f`, `1_000` and `012` stay text;
- a key given twice is an error that names both lines, and keys are always text;
- anchors, aliases and `<<` work; tags, several documents and endless aliases are errors.

Nothing here knows what a recipe is, and nothing constructs an object from a tag.
"""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

from evalkit.errors import RecipeError
from evalkit.recipe.document import Document, Path
from evalkit.recipe.secret_text import mask

PREFIX: Final = "tag:yaml.org,2002:"
# Python refuses to read integers of more than 4300 digits.
INT = re.compile(r"^(?:0|-?[1-9][0-9]{0,3999})$")
FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
# A recipe has a few hundred values; aliases of aliases reach millions.
MOST_VALUES = 100_000

RESOLVERS: Final = (
    ("bool", BOOL, "tTfF"),
    ("int", INT, "-0123456789"),
    ("float", FLOAT, "-+.0123456789"),
    ("null", NULL, ["~", "n", "N", ""]),
    ("merge", re.compile(r"^<<$"), "<"),
)


class _Loader(yaml.SafeLoader):
    """Composes nodes with the resolvers above; its constructors are not used."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


class _Dumper(yaml.SafeDumper):
    """Quotes exactly what the loader would not read back as text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal values twice instead of naming them."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """PyYAML writes these line breaks unescaped and reads them back as spaces or newlines."""
    style = '"' if re.search("[\r\x85\u2028\u2029\ufeff]", text) else None
    return dumper.represent_scalar(PREFIX + "str", text, style)


_Dumper.add_representer(str, _represent_text)
for _tag, _pattern, _first in RESOLVERS:
    _Loader.add_implicit_resolver(PREFIX + _tag, _pattern, list(_first))
    _Dumper.add_implicit_resolver(PREFIX + _tag, _pattern, list(_first))


def parse_yaml(text: str, origin: str) -> Document:
    """Data and the line of every key. Raises RecipeError; `origin` names the text in it."""
    try:
        node = _Loader(text).get_single_node()
        return _Reader(origin).document(node)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text, origin) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(f"{origin}:{line}: not valid YAML: a control character") from None
    except RecursionError:
        raise RecipeError(f"{origin}: not valid YAML: nested too deeply") from None


def parse_scalar(text: str) -> Any:
    """The value an unquoted scalar with this text would have: null, boolean, number or text."""
    for tag, pattern, _ in RESOLVERS[:-1]:
        if pattern.match(text):
            return _scalar(tag, text)
    return text


def render_yaml(data: Any) -> str:
    """YAML that `parse_yaml` reads back as equal data; keys keep their order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _scalar(tag: str, text: str) -> Any:
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() == "true"
    if tag == "int":
        return int(text)
    return float(re.sub(r"\.(?=[infaNIFA])", "", text))


class _Reader:
    """One walk over the nodes of a text."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.sources: dict[Path, str] = {}
        self.open: set[int] = set()
        self.count = 0

    def document(self, node: yaml.Node | None) -> Document:
        data = None if node is None else self.value(node, ())
        return Document(data, self.sources)

    def value(self, node: yaml.Node, path: Path) -> Any:
        self.count += 1
        if self.count > MOST_VALUES or id(node) in self.open:
            raise self.error(node, "aliases repeat without end")
        if not node.tag.startswith(PREFIX):
            raise self.error(node, f"the tag {node.tag} is not allowed")
        self.open.add(id(node))
        try:
            return self.convert(node, path)
        finally:
            self.open.discard(id(node))

    def convert(self, node: yaml.Node, path: Path) -> Any:
        tag = node.tag.removeprefix(PREFIX)
        if isinstance(node, yaml.MappingNode) and tag == "map":
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and tag == "seq":
            return [self.item(each, (*path, i)) for i, each in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and tag in ("str", "merge"):
            return node.value
        patterns = {name: pattern for name, pattern, _ in RESOLVERS}
        if (
            isinstance(node, yaml.ScalarNode)
            and tag in patterns
            and patterns[tag].match(node.value)
        ):
            return _scalar(tag, node.value)
        raise self.error(node, f"the tag !!{tag} is not allowed here")

    def item(self, node: yaml.Node, path: Path) -> Any:
        self.sources[path] = self.place(node)
        return self.value(node, path)

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        own: dict[str, Any] = {}
        lines: dict[str, int] = {}
        inherited: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == PREFIX + "merge":
                inherited = {**self.merged(value_node, path), **inherited}
                continue
            key = self.key(key_node, path, lines)
            # Below an inherited key of the same name: its lines are not of this text any more.
            for old in [p for p in self.sources if p[: len(path) + 1] == (*path, key)]:
                del self.sources[old]
            self.sources[(*path, key)] = self.place(key_node)
            own[key] = self.value(value_node, (*path, key))
        return {**inherited, **own}

    def key(self, node: yaml.Node, path: Path, lines: dict[str, int]) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self.error(node, "a key must be plain text")
        line = node.start_mark.line + 1
        if node.value in lines:
            name = ".".join(map(str, (*path, node.value)))
            first = lines[node.value]
            raise RecipeError(
                f"{self.place(node)} {name}: the key is given twice, first in line {first}",
                hint="Keep one of them.",
            )
        lines[node.value] = line
        return str(node.value)

    def merged(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        """What `<<` brings in: one mapping or several, the first winning."""
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        result: dict[str, Any] = {}
        for each in nodes:
            value = self.value(each, path)
            if not isinstance(value, dict):
                raise self.error(each, "<< takes a mapping or a list of mappings")
            result = {**value, **result}
        return result

    def place(self, node: yaml.Node) -> str:
        return f"{self.origin}:{node.start_mark.line + 1}"

    def error(self, node: yaml.Node, text: str) -> RecipeError:
        return RecipeError(f"{self.place(node)}: {text}")


def _syntax_error(error: yaml.MarkedYAMLError, text: str, origin: str) -> RecipeError:
    mark = error.problem_mark
    number = 0 if mark is None else mark.line
    lines = text.splitlines() or [""]
    offending = mask(lines[min(number, len(lines) - 1)])
    tab = "\t" in offending
    return RecipeError(
        f"{origin}:{number + 1}: not valid YAML: {error.problem or error.context}\n  {offending}",
        hint="YAML is indented with spaces, not tabs." if tab else None,
    )
