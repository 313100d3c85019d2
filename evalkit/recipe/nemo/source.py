"""A composed launcher file as what reads it sees it: values by path, and what was not read.

Every key that is read is marked. What the file (or the command line) gave and nobody read has no
effect, and `unread` names it, so that nothing of a file is dropped without a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from evalkit.recipe.document import Document, Path, dotted, merge, walk
from evalkit.recipe.nemo.compose import is_default
from evalkit.recipe.nemo.interpolation import MISSING, Interpolation
from evalkit.recipe.problems import Problem, found_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ABSENT: Final = object()


@dataclass(frozen=True)
class Note:
    """A key of a launcher file that has no effect in evalkit, or another meaning."""

    path: Path
    place: str
    """`file:line`, `-o KEY` or the launcher's group."""
    text: str
    """What it means here; why it has no effect, where it has none."""
    has_effect: bool = True
    important: bool = False
    """A person must know it before the numbers are used."""
    is_missing: bool = False
    """The file leaves its value to its user."""

    @property
    def key(self) -> str:
        """The dotted key."""
        return dotted(self.path)

    def sentence(self) -> str:
        """`nano.yaml:31 execution.mounts: ...`"""
        text = self.text if self.has_effect or self.is_missing else f"no effect: {self.text}"
        return f"{self.place} {self.key}: {text}"


class Source:
    """One composed configuration; collects problems and notes while it is read."""

    def __init__(
        self, document: Document, env: Mapping[str, str], *, only_shows: bool = False
    ) -> None:
        self.document = document
        self.env = env
        self.only_shows = only_shows
        """Nothing is run: what the file leaves to its user is a note, and no problem."""
        self.problems: list[Problem] = []
        self.notes: list[Note] = []
        self._used: set[Path] = set()
        self._references = Interpolation(
            document.data, env, self.problems, self.missing if only_shows else None
        )

    def get(self, *path: str | int, default: Any = None) -> Any:
        """The value at a path with its references resolved, and the key marked as read.

        A `???` is a problem, told once (where the file is only shown, a note), and read as null.
        """
        value = self._raw(path)
        if value is ABSENT:
            return default
        self._used.add(path)
        return self._without_missing(self._references.value(value, path), path)

    def peek(self, *path: str | int) -> Any:
        """The value as written, null where there is none; not marked."""
        value = self._raw(path)
        return None if value is ABSENT else value

    def use(self, *path: str | int) -> None:
        """Mark a key with all that is below it."""
        self._used.add(path)

    def is_given(self, *path: str | int) -> bool:
        """Whether the file or the command line has the key; the groups do not count."""
        return self._raw(path) is not ABSENT and not is_default(self.document.where(path))

    def note(self, path: Path, text: str, *, important: bool = False) -> None:
        """Say that a key means something else here; it counts as read."""
        self._add(Note(path, self._place(path), text, important=important))

    def ignore(self, path: Path, reason: str, *, important: bool = False) -> None:
        """Say that a key has no effect here, and why; it counts as read."""
        note = Note(path, self._place(path), reason, has_effect=False, important=important)
        self._add(note)

    def missing(self, path: Path, text: str) -> None:
        """Say that the key's value is left to the file's user; only where the file is shown."""
        place = self._place(path)
        self._add(Note(path, place, text, has_effect=False, important=True, is_missing=True))

    def is_missing(self, *path: str | int) -> bool:
        """Whether the key's value is left to the file's user."""
        return bool(self._raw(path) == MISSING)

    def problem(self, path: Path, text: str) -> None:
        """A problem of a key; the same one is told once."""
        self._references.problem(path, text)

    def unread(self, is_ours: Callable[[Path], bool]) -> Iterator[Path]:
        """Keys with values that the file gave and nobody read; `is_ours` chooses among them."""
        for path in walk(self.document.data):
            value = self._raw(path)
            if isinstance(value, dict | list) and value:
                continue
            if value in ({}, [], "", None) or is_default(self.document.where(path)):
                continue
            if not self._is_used(path) and is_ours(path):
                yield path

    def fork(self, data: Any) -> Source:
        """The same configuration with other values; problems and marks are shared."""
        other = Source(Document(data, self.document.sources), self.env, only_shows=self.only_shows)
        other.problems, other.notes, other._used = self.problems, self.notes, self._used
        other._references.problems = self.problems
        return other

    def _add(self, note: Note) -> None:
        self._used.add(note.path)
        if note not in self.notes:
            self.notes.append(note)

    def _place(self, path: Path) -> str:
        return self.document.where(path) or "the file"

    def _is_used(self, path: Path) -> bool:
        return any(path[:length] in self._used for length in range(1, len(path) + 1))

    def _raw(self, path: Path) -> Any:
        value = self.document.data
        for key in path:
            is_item = isinstance(value, list) and isinstance(key, int) and key < len(value)
            if not (is_item or (isinstance(value, dict) and key in value)):
                return ABSENT
            value = value[key]
        return value

    def _without_missing(self, value: Any, path: Path) -> Any:
        if isinstance(value, dict):
            return {k: self._without_missing(each, (*path, k)) for k, each in value.items()}
        if isinstance(value, list):
            return [self._without_missing(each, (*path, i)) for i, each in enumerate(value)]
        if value == MISSING:
            tell = self.missing if self.only_shows else self.problem
            tell(
                path,
                f"a value is required. Set it in the file, or with -o {dotted(path)}=VALUE",
            )
            return None
        return value


class Layers:
    """The same section at several places, the later ones winning: a task's over all tasks'."""

    def __init__(self, source: Source, roots: tuple[Path, ...]) -> None:
        self._source = source
        self._roots = roots

    def get(self, *keys: str) -> Any:
        """The merged value: mappings merge, anything else replaces. Marks the key everywhere."""
        result: Any = None
        for root in self._roots:
            value = self._source.get(*root, *keys, default=ABSENT)
            if value is not ABSENT:
                result = merge(result, value)
        return result

    def path(self, *keys: str) -> Path:
        """Where the value is from: the last place that has the key, else the last place."""
        given = [(*root, *keys) for root in self._roots if self._has((*root, *keys))]
        return given[-1] if given else (*self._roots[-1], *keys)

    def is_own(self, *keys: str) -> bool:
        """Whether the last place has the key."""
        return self._has((*self._roots[-1], *keys))

    def whole(self, *keys: str) -> int | None:
        """A whole number. Text or a fraction is a problem, and read as null."""
        value = self.get(*keys)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        self.problem(keys, f"expected a whole number, found {found_value(value)}")
        return None

    def text(self, *keys: str) -> str | None:
        """Text, null where it is empty."""
        value = self.get(*keys)
        return None if value in (None, "") else str(value)

    def note(self, keys: tuple[str, ...], text: str, *, important: bool = False) -> None:
        """Say that the key means something else here; see `Source.note`."""
        self._source.note(self.path(*keys), text, important=important)

    def ignore(self, keys: tuple[str, ...], reason: str, *, important: bool = False) -> None:
        """Say that the key has no effect here, and why."""
        self._source.ignore(self.path(*keys), reason, important=important)

    def problem(self, keys: tuple[str, ...], text: str) -> None:
        """A problem of the key where it is from."""
        self._source.problem(self.path(*keys), text)

    def use(self, *keys: str) -> None:
        """Mark the key everywhere."""
        for root in self._roots:
            self._source.use(*root, *keys)

    def _has(self, path: Path) -> bool:
        section = self._source.peek(*path[:-1])
        return isinstance(section, dict) and path[-1] in section
