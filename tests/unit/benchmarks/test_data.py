"""Data sets from files: read whole and checked, or refused by the line that is wrong."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import logging
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.benchmarks import hub
from evalkit.benchmarks.data import DataAccess, DataSource, parse_rows
from evalkit.errors import DataError
from evalkit.recipe.schema import DataOverride
from tests.unit.store.strategies import json_objects, texts

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [{"q": "1 + 1?", "a": "2"}, {"q": "é\u2028", "a": "x"}]
JSONL = b"".join(orjson.dumps(row) + b"\n" for row in ROWS)
KNOWN = hashlib.sha256(JSONL).hexdigest()


def access(folder: Path, **override: Any) -> DataAccess:
    """Access of task `t` with an override of its data."""
    return DataAccess("t", DataOverride(**override), folder)


def parquet(rows: list[dict[str, Any]]) -> bytes:
    """Rows as Parquet."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def table(rows: list[dict[str, Any]]) -> bytes:
    """Rows as CSV."""
    sink = io.StringIO(newline="")
    writer = csv.DictWriter(sink, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue().encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.jsonl", JSONL),
        ("d.jsonl", JSONL.rstrip(b"\n")),
        ("d.jsonl", b"\n" + JSONL.replace(b"\n", b"\r\n")),
        ("d.jsonl.gz", gzip.compress(JSONL)),
        ("d.csv", table(ROWS)),
        ("d.csv", b"\xef\xbb\xbf" + table(ROWS)),
        ("d.parquet", parquet(ROWS)),
    ],
    ids=["jsonl", "no newline", "crlf", "gz", "csv", "bom", "parquet"],
)
def test_kinds_of_files(tmp_path: Path, name: str, content: bytes) -> None:
    """Every kind of file gives the same rows, and says which bytes they came from."""
    (tmp_path / name).write_bytes(content)
    found = access(tmp_path, path=name).rows(DataSource(), "CC0")
    assert found.rows == ROWS
    plain = JSONL if name.endswith(".gz") else content
    assert found.provenance.sha256 == hashlib.sha256(plain).hexdigest()
    assert (found.provenance.source, found.provenance.n_rows) == (name, 2)
    assert (found.provenance.licence, found.provenance.altered) == ("CC0", False)


@given(st.lists(json_objects, max_size=5))
def test_any_json_lines(rows: list[dict[str, Any]]) -> None:
    """Whatever JSON objects hold, they are read back line by line."""
    assert parse_rows(b"".join(orjson.dumps(row) + b"\n" for row in rows), "d.jsonl") == rows


@given(st.lists(st.fixed_dictionaries({"q": texts, "a": texts}), min_size=1, max_size=5))
def test_any_csv(rows: list[dict[str, Any]]) -> None:
    """Commas, quotes and newlines in fields survive."""
    rows = [{k: v.replace("\x00", "") for k, v in row.items()} for row in rows]
    assert parse_rows(table(rows), "d.csv") == rows


@given(st.binary(max_size=60), st.sampled_from(["d.jsonl", "d.csv", "d.parquet"]))
def test_noise(noise: bytes, name: str) -> None:
    """Bytes that are no data are rows of dictionaries or a DataError, never another exception."""
    try:
        rows = parse_rows(noise, name)
    except DataError:
        return
    assert all(isinstance(row, dict) for row in rows)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.jsonl", b'{"a": 1}\n{"a": \n', "d.jsonl:2: not a JSON object: "),
        ("d.jsonl", b'{"a": 1}\n\n[1]\n', "d.jsonl:3: expected a JSON object, found list"),
        ("d.jsonl", b'{"a": "\xff"}\n', "d.jsonl:1: not a JSON object: "),
        ("d.csv", b"a,b\n1,2\n3\n", "d.csv:3: wrong number of columns"),
        ("d.csv", b"a,b\n1,2,3\n", "d.csv:2: wrong number of columns"),
        ("d.csv", b'a,b\n1,"2\n', "d.csv:2: unexpected end of data"),
        ("d.csv", b"a,b\n1,\xff\n", "d.csv: not UTF-8: "),
        ("d.parquet", b"PAR1", "d.parquet: not a readable Parquet file: "),
        ("d.xlsx", b"", "d.xlsx: unknown kind of data file; allowed: .jsonl, .csv, .parquet"),
    ],
)
def test_broken_files(name: str, content: bytes, message: str) -> None:
    """The line that is wrong is named; nothing is guessed or left out."""
    with pytest.raises(DataError) as caught:
        parse_rows(content, name)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(JSONL)[:-9], gzip.compress(JSONL)[:12] + b"\x00" * 40],
    ids=["none", "cut off", "broken"],
)
def test_broken_archive(tmp_path: Path, content: bytes) -> None:
    """A gzip file that is cut or damaged is named."""
    (tmp_path / "d.jsonl.gz").write_bytes(content)
    with pytest.raises(DataError, match=f"tasks.t: cannot read {tmp_path}/d.jsonl.gz: "):
        access(tmp_path, path="d.jsonl.gz").rows(DataSource(), "x")


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is named, with where relative paths start."""
    with pytest.raises(DataError) as caught:
        access(tmp_path, path="d.jsonl").rows(DataSource(), "x")
    assert str(caught.value) == (
        f"tasks.t.data.path: there is no file {tmp_path}/d.jsonl\n"
        "A relative path starts at the recipe's folder."
    )


def test_file_without_rows(tmp_path: Path) -> None:
    """An empty data set is an error, not a perfect score over nothing."""
    (tmp_path / "d.jsonl").write_bytes(b"\n\n")
    with pytest.raises(DataError, match=f"tasks.t: {tmp_path}/d.jsonl has no rows"):
        access(tmp_path, path="d.jsonl").rows(DataSource(), "x")


def test_folder(tmp_path: Path) -> None:
    """In a folder the benchmark's own file name wins; else there must be one data file."""
    (tmp_path / "d.jsonl").write_bytes(JSONL)
    (tmp_path / "README.md").touch()
    assert len(access(tmp_path, path=".").rows(DataSource(), "x").rows) == 2
    (tmp_path / "e.csv").write_bytes(table(ROWS[:1]))
    source = DataSource(hub="o/d", file="data/e.csv")
    assert len(access(tmp_path, path=".").rows(source, "x").rows) == 1
    with pytest.raises(DataError, match=r"holds no single data file \(found: d\.jsonl, e\.csv\)"):
        access(tmp_path, path=".").rows(DataSource(), "x")


def test_altered_data(tmp_path: Path) -> None:
    """Data the benchmark does not know is refused, unless the recipe says so; then it is marked."""
    (tmp_path / "d.jsonl").write_bytes(JSONL)
    source = DataSource(known={"0" * 64: "as published"})
    with pytest.raises(DataError) as caught:
        access(tmp_path, path="d.jsonl").rows(source, "x")
    assert str(caught.value) == (
        f"tasks.t.data: d.jsonl has sha256 {KNOWN}, which is none of\n  {'0' * 64}  as published\n"
        "If this data is meant, set tasks.t.data.sha256 to its checksum or data.allow_altered: "
        "true; the result will say that the data is altered."
    )
    for allowed in ({"sha256": KNOWN}, {"allow_altered": True}):
        assert access(tmp_path, path="d.jsonl", **allowed).rows(source, "x").provenance.altered
    known = DataSource(known={KNOWN: "as published"})
    assert not access(tmp_path, path="d.jsonl").rows(known, "x").provenance.altered


def test_checksum_of_the_recipe(tmp_path: Path) -> None:
    """A checksum in the recipe is kept, whatever the benchmark knows."""
    (tmp_path / "d.jsonl").write_bytes(JSONL)
    for source in (DataSource(), DataSource(known={KNOWN: "as published"})):
        with pytest.raises(DataError, match=f"has sha256 {KNOWN}, the recipe wants {'1' * 64}"):
            access(tmp_path, path="d.jsonl", sha256="1" * 64).rows(source, "x")


def test_no_source(tmp_path: Path) -> None:
    """Data that can be fetched from nowhere asks for a file."""
    with pytest.raises(DataError, match=r"Set tasks\.t\.data\.path to a local file"):
        access(tmp_path).rows(DataSource(), "x")


def test_pinned_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is asked for the benchmark's commit, or the recipe's; only the first is known good."""
    asked: list[str | None] = []

    def download(source: DataSource, revision: str | None, task: str) -> Path:
        asked.append(revision)
        return tmp_path / "d.jsonl"

    (tmp_path / "d.jsonl").write_bytes(JSONL)
    monkeypatch.setattr(hub, "download", download)
    source = DataSource(hub="o/d", revision="c0ffee", file="d.jsonl", known={"0" * 64: "old"})
    found = access(tmp_path).rows(source, "x").provenance
    assert (found.source, found.revision, found.altered) == ("o/d", "c0ffee", False)
    with pytest.raises(DataError, match="which is none of"):
        access(tmp_path, revision="main").rows(source, "x")
    assert asked == ["c0ffee", "main"]


def test_an_unreachable_hub_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's lines about its tries are not shown, and its logger is left as it was."""
    import huggingface_hub

    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]

    def unreachable(**_: Any) -> str:
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.addHandler(handler)
    try:
        with pytest.raises(DataError, match=r"the hub cannot be reached .*\(no connection\)"):
            hub.download(DataSource(hub="o/d", file="d.jsonl"), "c0ffee", "t")
    finally:
        logger.removeHandler(handler)
    assert (lines, logger.level) == ([], level)
