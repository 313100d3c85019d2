"""The rows of LiveCodeBench: six files of up to 1.25 GB, read line by line, with hidden tests unpacked.

Most of a row is its private tests: base64 of zlib of a pickled text of JSON. A pickle can run anything
when it is loaded, so this one may hold a text and nothing else. Problems are taken from the files of a
release by the date of their contest, which decides whether a model may have seen them.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import io
import pickle
import zlib
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Literal, Self

import orjson

from evalkit.benchmarks.data import DataSource
from evalkit.benchmarks.fields import field, text_field
from evalkit.errors import DataError
from evalkit.scoring.lcb import Cases

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from evalkit.benchmarks.data import DataAccess, Located
    from evalkit.plan.model import DataProvenance

Release = Literal["v1", "v2", "v3", "v4", "v5", "v6"]

FILES: Mapping[str, tuple[int, str]] = {
    "test.jsonl": (400, "2bd02b38beb48e8c46b5b9987095d999ff38cd8efc255ea5d58974317c48f63f"),
    "test2.jsonl": (111, "095df7c5daf15f882c51a9deb84085cff1e073495a5dbcf95015a564d485f3a3"),
    "test3.jsonl": (101, "28ed26cc83363ce3f1fe2d5fad9f8393077beb1907b167a31bd3b32f80801b79"),
    "test4.jsonl": (101, "d711138ddaebfcf5f8ec6a4283ee677298c0f5c5d374a235af92aaf0584510da"),
    "test5.jsonl": (167, "7f77571c2a6df0c2a72a3277650309f67e01e0008e18117e624633df53f81214"),
    "test6.jsonl": (175, "bb4c364f71921c4495a6ad15abe1a927350b720009f4933e2e71f8af0f6fd1f5"),
}
"""Rows and sha256 of each file at the pinned revision; release vN is the first N of them."""
WINDOWS: Mapping[tuple[str, str, str], int] = {
    ("v6", "2024-08-01", "2025-05-31"): 454,
    ("v5", "2024-07-01", "2024-12-31"): 315,
    ("v5", "2024-08-01", "2025-02-28"): 279,
    ("v5", "2024-10-01", "2025-02-28"): 166,
}
"""Problems of well-known windows: release, first day, last day. Others are refused as altered."""
STATED: Mapping[tuple[str, str, str], int] = {
    ("v6", "2024-08-01", "2025-02-28"): 374,
    ("v6", "2024-10-01", "2025-04-30"): 341,
}
"""Numbers that are told of windows and that nobody here could verify: a result says what it found."""
SOURCE = DataSource(
    hub="livecodebench/code_generation_lite",
    revision="0fe84c3912ea0c4d4a78037083943e8f0c4dd505",
    known={digest: f"{name}, {rows} rows" for name, (rows, digest) in FILES.items()},
    formats="a folder with test.jsonl to test6.jsonl, or one of these files",
)
_MOST_UNPACKED = 2**30
"""Bytes of one problem's tests; the largest known have about a tenth of that."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which problems are asked."""

    release: Release
    first: date | None
    last: date | None
    """Both days belong to it."""

    @classmethod
    def of(cls, release: Release, first: str | None, last: str | None) -> Self:
        """With days as YYYY-MM-DD."""
        days = [None if day is None else date.fromisoformat(day) for day in (first, last)]
        return cls(release, *days)

    @property
    def files(self) -> list[str]:
        """Names of the files it is taken from."""
        return list(FILES)[: int(self.release[1:])]

    @property
    def size(self) -> int | None:
        """How many problems it has, where that is known."""
        days = (str(self.first), str(self.last))
        if (self.first, self.last) == (None, None):
            return sum(FILES[name][0] for name in self.files)
        return WINDOWS.get((self.release, *days))

    def unchecked(self, n_found: int) -> str | None:
        """What a result says of its number of problems, where that is not compared with a known one."""
        if self.size is not None:
            return None
        stated = STATED.get((self.release, str(self.first), str(self.last)))
        told = "no number is published" if stated is None else f"{stated} are stated, unverified"
        return (
            f"{n_found} problems of {self.release} from {self.first} to {self.last}: their number "
            f"is not checked ({told})"
        )

    def holds(self, day: date) -> bool:
        """Whether a contest of that day is in it."""
        return (self.first or day) <= day <= (self.last or day)


class Problems:
    """The rows in a window, one at a time; complete, counted and checked when the last was given."""

    def __init__(self, access: DataAccess, window: Window, licence: str) -> None:
        self._access = access
        self._window = window
        self._licence = licence
        self.provenance: DataProvenance | None = None
        """Known at the end; `n_rows` counts all rows that were read."""

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Where a row is, and the row. Raises DataError."""
        files = self._access.locate_all(SOURCE, self._window.files)
        digests: list[str] = []
        counts: list[int] = []
        n_chosen = 0
        for file in files:
            reader = _Reader(file)
            for where, row in reader:
                if self._window.holds(contest_day(row, where)):
                    n_chosen += 1
                    yield where, row
            digests.append(reader.sha256)
            counts.append(reader.n_rows)
        found = self._access.check_all(SOURCE, files, digests, self._licence)
        complaint = self._complaint(files, counts, n_chosen)
        if complaint is not None and not self._access.accepts_altered:
            raise DataError(
                complaint,
                hint="Restore the files, or accept them with data.allow_altered: true; the result "
                "will say that the data is altered.",
            )
        altered = found.altered or complaint is not None
        unchecked = self._window.unchecked(n_chosen)
        changes = {"n_rows": sum(counts), "altered": altered, "unchecked": unchecked}
        self.provenance = found.model_copy(update=changes)

    def _complaint(
        self, files: Sequence[Located], counts: Sequence[int], n_chosen: int
    ) -> str | None:
        """Why this is not the window as everybody else has it."""
        names = self._window.files
        if len(files) != len(names):
            return f"release {self._window.release} is {len(names)} files, found only {files[0].origin}"
        for name, count in zip(names, counts, strict=True):
            if count != FILES[name][0]:
                return f"{name} has {count} rows, it must have {FILES[name][0]}"
        if self._window.size not in (None, n_chosen):
            return f"the window has {n_chosen} problems, it must have {self._window.size}"
        return None


class _Reader:
    """Rows of one file, hashed on the way: the file is never in memory as a whole."""

    def __init__(self, file: Located) -> None:
        self._path = file.paths[0]
        self._digest = hashlib.sha256()
        self.n_rows = 0

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        name = self._path.name
        try:
            with closing(_open(self._path)) as lines:
                for number, line in enumerate(lines, start=1):
                    self._digest.update(line)
                    if line.strip():
                        self.n_rows += 1
                        yield f"{name}:{number}", _parse(line, f"{name}:{number}")
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"cannot read {self._path}: {error}") from error

    @property
    def sha256(self) -> str:
        """Of the uncompressed bytes that have been read."""
        return self._digest.hexdigest()


def _open(path: Path) -> io.BufferedIOBase:
    return gzip.open(path) if path.name.endswith(".gz") else path.open("rb")


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{where}: not a JSON object: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row


def contest_day(row: Mapping[str, Any], where: str) -> date:
    """The day of its contest; times are given with and without fractions of seconds."""
    text = text_field(row, "contest_date", where)
    try:
        return datetime.fromisoformat(text).date()
    except ValueError as error:
        raise DataError(f"{where}: 'contest_date' is no date: {text!r}") from error


def function_name(row: Mapping[str, Any], where: str) -> str | None:
    """The function to call, or None for a program that reads and writes."""
    metadata = _json(text_field(row, "metadata", where), f"{where}: 'metadata'")
    name = metadata.get("func_name") if isinstance(metadata, dict) else metadata
    if name is not None and not (isinstance(name, str) and name.isidentifier()):
        raise DataError(f"{where}: 'metadata' names no function: {name!r}")
    return name


def read_tests(public: str, private: str, where: str) -> Cases:
    """All tests of a problem, public ones first. Raises DataError."""
    tests = [
        *_tests(_json(public, f"{where}: 'public_test_cases'"), where),
        *_tests(_private(private, where), where),
    ]
    if not tests:
        raise DataError(f"{where}: there are no tests")
    return Cases([given for given, _ in tests], [expected for _, expected in tests])


def texts_of_tests(row: Mapping[str, Any], where: str) -> tuple[str, str]:
    """The two texts that `read_tests` takes."""
    texts = field(row, "public_test_cases", where), field(row, "private_test_cases", where)
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: the tests must be texts")
    return texts


def _private(text: str, where: str) -> Any:
    if text.lstrip().startswith("["):
        return _json(text, f"{where}: 'private_test_cases'")
    try:
        packed = base64.b64decode(text, validate=True)
        unpacker = zlib.decompressobj()
        pickled = unpacker.decompress(packed, _MOST_UNPACKED)
        if not unpacker.eof:
            raise DataError(f"{where}: 'private_test_cases' is cut off, or larger than any known")
        content = TextUnpickler(io.BytesIO(pickled)).load()
    except (binascii.Error, zlib.error, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(f"{where}: 'private_test_cases' cannot be unpacked: {error}") from error
    if not isinstance(content, str):
        raise DataError(f"{where}: 'private_test_cases' holds no text: {type(content).__name__}")
    return _json(content, f"{where}: 'private_test_cases'")


class TextUnpickler(pickle.Unpickler):
    """Loads no class and calls no function: what is left are plain values."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse."""
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        """Refuse."""
        raise pickle.UnpicklingError("it refers to something outside")


def _json(text: str, where: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON: {error}") from error


def _tests(found: Any, where: str) -> Iterator[tuple[str, str]]:
    if not isinstance(found, list):
        raise DataError(f"{where}: tests must be a list, found {type(found).__name__}")
    for number, test in enumerate(found, start=1):
        given, expected = (
            test.get(key) if isinstance(test, dict) else None for key in ("input", "output")
        )
        if not isinstance(given, str) or not isinstance(expected, str):
            raise DataError(f"{where}: test {number} has no input and output as texts")
        yield given, expected
