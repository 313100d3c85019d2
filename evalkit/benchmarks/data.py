"""Where benchmark data comes from: the hub at a pinned revision, or a file or folder the user names.

Runs only where a plan is made. Every byte that is used is hashed; data whose checksum is not one the
benchmark knows is refused unless the recipe gives the checksum itself or says `allow_altered`, and
then the result says so. Nothing is downloaded on a node that generates.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from evalkit.errors import DataError, RecipeError
from evalkit.plan.model import DataProvenance

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.recipe.schema import DataOverride

GENERATED = "generated"


@dataclass(frozen=True, slots=True)
class DataSource:
    """The pinned source of a benchmark's data."""

    hub: str | None = None
    """Hub repository of kind dataset."""
    revision: str | None = None
    """Commit in that repository."""
    file: str | None = None
    """File in that repository, or the name of the file at `url`."""
    url: str | None = None
    """Pinned address of the file, for data that is on no hub; its checksum must be in `known`."""
    known: Mapping[str, str] = field(default_factory=dict)
    """sha256 (of the uncompressed bytes) -> which state of the data that is."""
    gated: bool = False
    """The hub asks for an account that accepted terms."""
    formats: str = "JSON Lines, CSV or Parquet"
    """What a local file may be, in words."""
    generated: bool = False
    """The benchmark makes its samples itself: there is no file to name."""
    reader: str | None = None
    """Who reads the data in place of evalkit, from where its tasks say: there is no file to name either."""


@dataclass(frozen=True, slots=True)
class Located:
    """The files of a data set in order, and what to call where they came from."""

    paths: tuple[Path, ...]
    origin: str
    """Hub repository, package or file name."""
    revision: str | None = None
    is_pinned: bool = False
    """It came from the hub at the commit that the benchmark names."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows as read, with what is known about the bytes they came from."""

    rows: list[dict[str, Any]]
    provenance: DataProvenance


class DataAccess:
    """Reads a task's data set by its source and the recipe's override."""

    def __init__(
        self, task: str, override: DataOverride, base: Path, limit: int | None = None
    ) -> None:
        """`base` is the folder a relative `data.path` starts from; `limit` is the recipe's, for
        benchmarks that apply it themselves."""
        self._task = task
        self._override = override
        self.base = base
        self.limit = limit

    def refuse_useless(self, source: DataSource) -> None:
        """Raise RecipeError for a key of `data` that has no effect on this source."""
        where = f"tasks.{self._task}.data"
        given = self._override.model_dump(exclude_defaults=True)
        if source.generated and given:
            raise RecipeError(
                f"{where}.{next(iter(given))}: this benchmark makes its own questions and reads no "
                "data set",
                hint=f"Delete {where}; what is asked is set in tasks.{self._task}.params.",
            )
        if source.reader is not None and given:
            raise RecipeError(
                f"{where}.{next(iter(given))}: the data of this task is read by {source.reader}, from "
                "where its task says",
                hint=f"Delete {where}; a task with other data is a file of its own (params.include_path).",
            )
        if self._override.revision is not None and self._override.path is not None:
            raise RecipeError(
                f"{where}.revision: has no effect beside {where}.path", hint="Keep one of them."
            )
        if self._override.revision is not None and source.hub is None:
            raise RecipeError(
                f"{where}.revision: this benchmark's data is in no hub repository",
                hint=f"Delete it, or set {where}.path to a file of another version.",
            )

    @property
    def path(self) -> Path | None:
        """The file or folder that the recipe names; it need not exist."""
        if self._override.path is None:
            return None
        return self.base / Path(self._override.path).expanduser()

    @property
    def revision(self) -> str | None:
        """The revision of the hub repository that the recipe names."""
        return self._override.revision

    def rows(self, source: DataSource, licence: str) -> Rows:
        """All rows of the data set, checked against its checksum.

        Raises DataError when it is missing, gated, altered or has a broken line.
        """
        return self.read(self._locate(source), source, licence)

    def read(self, found: Located, source: DataSource, licence: str) -> Rows:
        """All rows of several files in order; the checksum is over all their bytes. Raises DataError."""
        contents = [_read(path, self._task) for path in found.paths]
        digest = hashlib.sha256(b"".join(contents)).hexdigest()
        altered = not found.is_pinned and self._is_altered(source, digest, found.origin)
        rows = []
        for path, content in zip(found.paths, contents, strict=True):
            rows += parse_rows(content, path.name.removesuffix(".gz"))
        if not rows:
            raise DataError(f"tasks.{self._task}: {found.paths[0]} has no rows")
        provenance = DataProvenance(
            source=found.origin,
            revision=found.revision,
            sha256=digest,
            n_rows=len(rows),
            licence=licence,
            altered=altered,
        )
        return Rows(rows, provenance)

    def from_hub(self, source: DataSource, files: Sequence[str]) -> Located:
        """Files of the source's hub repository. Raises DataError where they cannot be fetched."""
        from evalkit.benchmarks.hub import download

        revision = self._override.revision or source.revision
        paths = tuple(download(replace(source, file=file), revision, self._task) for file in files)
        return Located(
            paths,
            str(source.hub),
            _commit_of(paths[0]) or revision,
            # A commit names the content as surely as a checksum of ours would.
            is_pinned=revision == source.revision and self._override.sha256 is None,
        )

    def locate_all(self, source: DataSource, names: Sequence[str]) -> list[Located]:
        """The files of a data set that is too large for `rows`, in the order of their names.

        A local folder must hold all of them; a local file stands for itself alone. Raises DataError.
        """
        path = self.path
        if path is None:
            return [self._locate(replace(source, file=name)) for name in names]
        if not path.is_dir():
            return [Located((_local_file(path, source, self._task),), path.name)]
        found = {name: _plain_or_packed(path / name) for name in names}
        missing = [name for name, file in found.items() if file is None]
        if missing:
            raise DataError(
                f"tasks.{self._task}.data.path: {path} lacks {', '.join(missing)}",
                hint=f"It must hold {', '.join(names)}, plain or as .gz; or name one file.",
            )
        return [Located((file,), name) for name, file in found.items() if file is not None]

    def check_all(
        self, source: DataSource, files: Sequence[Located], digests: Sequence[str], licence: str
    ) -> DataProvenance:
        """Where files that `locate_all` gave come from, once they were read; `n_rows` is 0.

        The checksum of several is that of their checksums, one a line. Raises DataError for a file
        that is not known, unless the recipe accepts it.
        """
        several = "".join(f"{digest}\n" for digest in digests)
        digest = digests[0] if len(digests) == 1 else hashlib.sha256(several.encode()).hexdigest()
        if self._override.sha256 is not None:
            altered = self._is_altered(replace(source, known={}), digest, files[0].origin)
            altered = altered or any(each not in source.known for each in digests)
        else:
            altered = any(
                not file.is_pinned and self._is_altered(source, each, file.origin)
                for file, each in zip(files, digests, strict=True)
            )
        names = [file.origin for file in files]
        return DataProvenance(
            source=names[0] if len(set(names)) == 1 else " ".join(names),
            revision=files[0].revision,
            sha256=digest,
            n_rows=0,
            licence=licence,
            altered=altered,
        )

    @property
    def accepts_altered(self) -> bool:
        """The recipe says that data other than the benchmark's own is meant."""
        return self._override.allow_altered

    def _locate(self, source: DataSource) -> Located:
        if self.path is not None:
            return Located((_local_file(self.path, source, self._task),), self.path.name)
        if source.hub is not None and source.file is not None:
            return self.from_hub(source, [source.file])
        if source.url is not None and source.file is not None:
            from evalkit.benchmarks.web import fetch

            return Located((fetch(source.url, source.file, source.known, self._task),), source.url)
        raise DataError(
            f"tasks.{self._task}: this benchmark has no public source that can be fetched",
            hint=f"Set tasks.{self._task}.data.path to a local file ({source.formats}).",
        )

    def _is_altered(self, source: DataSource, digest: str, origin: str) -> bool:
        """Whether the data is other than what the benchmark knows; raises where that is refused."""
        wanted = self._override.sha256
        if wanted is not None and wanted != digest:
            raise DataError(
                f"tasks.{self._task}.data: {origin} has sha256 {digest}, the recipe wants {wanted}",
                hint="The file changed: restore it, or change data.sha256 if the new one is meant.",
            )
        if not source.known or digest in source.known:
            return False
        if wanted is None and not self._override.allow_altered:
            known = "\n".join(f"  {sha}  {what}" for sha, what in source.known.items())
            raise DataError(
                f"tasks.{self._task}.data: {origin} has sha256 {digest}, which is none of\n{known}",
                hint=f"If this data is meant, set tasks.{self._task}.data.sha256 to its checksum or "
                "data.allow_altered: true; the result will say that the data is altered.",
            )
        return True


def _commit_of(path: Path) -> str | None:
    """The commit that a file in the hub's cache is of, whatever was asked for; null elsewhere."""
    parts = path.parts
    if "snapshots" not in parts[:-1]:
        return None
    name = parts[len(parts) - 1 - parts[::-1].index("snapshots") + 1]
    return name if re.fullmatch(r"[0-9a-f]{40}", name) else None


def parse_rows(content: bytes, name: str) -> list[dict[str, Any]]:
    """Rows of JSON Lines, CSV or Parquet bytes, by the ending of `name`. Raises DataError."""
    if name.endswith((".jsonl", ".json", ".txt")):
        return _parse_jsonl(content, name)
    if name.endswith(".csv"):
        return _parse_csv(content, name)
    if name.endswith(".parquet"):
        return _parse_parquet(content, name)
    raise DataError(f"{name}: unknown kind of data file; allowed: .jsonl, .csv, .parquet (or .gz)")


def _parse_jsonl(content: bytes, name: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise DataError(f"{name}:{number}: not a JSON object: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{name}:{number}: expected a JSON object, found {type(row).__name__}")
        rows.append(row)
    return rows


def _parse_csv(content: bytes, name: str) -> list[dict[str, Any]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8: {error}") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DataError(f"{name}:{reader.line_num}: wrong number of columns")
            rows.append(dict(row))
    except csv.Error as error:
        raise DataError(f"{name}:{reader.reader.line_num}: {error}") from error
    return rows


def _parse_parquet(content: bytes, name: str) -> list[dict[str, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(
            f"{name}: reading Parquet needs pyarrow", hint="pip install 'evalkit[hub]'"
        ) from error
    try:
        rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(content)).to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{name}: not a readable Parquet file: {error}") from error
    return rows


def _local_file(path: Path, source: DataSource, task: str) -> Path:
    """The file itself, or the one data file of a folder."""
    if path.is_dir():
        wanted = Path(source.file).name if source.file else None
        files = sorted(p for p in path.iterdir() if _is_data(p))
        chosen = [p for p in files if p.name == wanted] or files
        if len(chosen) != 1:
            names = ", ".join(p.name for p in files) or "none"
            raise DataError(
                f"tasks.{task}.data.path: {path} holds no single data file (found: {names})",
                hint="Name the file itself.",
            )
        return chosen[0]
    if not path.is_file():
        raise DataError(
            f"tasks.{task}.data.path: there is no file {path}",
            hint="A relative path starts at the recipe's folder.",
        )
    return path


def _plain_or_packed(path: Path) -> Path | None:
    packed = path.with_name(f"{path.name}.gz")
    return next((each for each in (path, packed) if each.is_file()), None)


def _is_data(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith((".jsonl", ".csv", ".parquet"))


def _read(path: Path, task: str) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.name.endswith(".gz") else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"tasks.{task}: cannot read {path}: {error}") from error
