"""LiveCodeBench's rows: hidden tests unpacked without trust, files read by line, windows by date."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import pickle
import zlib
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.benchmarks import hub, lcb_data
from evalkit.benchmarks.data import DataAccess, DataSource
from evalkit.benchmarks.lcb_data import FILES, Problems, Window, contest_day, read_tests
from evalkit.errors import DataError
from evalkit.recipe.schema import DataOverride

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ALL = Window("v6", date(2024, 8, 1), date(2025, 5, 31))


def pack(content: Any, protocol: int = 4) -> str:
    """As the data set packs private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(content, protocol))).decode()


def text_of(*pairs: tuple[str, str]) -> str:
    """Tests as JSON."""
    return json.dumps([{"input": i, "output": o, "testtype": "stdin"} for i, o in pairs])


class Evil:
    """What nobody may call."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("the pickle was run",))


@given(
    st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=5),
    st.integers(0, 5),
    st.booleans(),
)
def test_tests_come_back_in_order(
    pairs: list[tuple[str, str]], protocol: int, packed: bool
) -> None:
    """Public tests first, then private ones, in either of their forms."""
    private = text_of(*pairs)
    found = read_tests(text_of(("a", "b")), pack(private, protocol) if packed else private, "x")
    assert list(zip(found.inputs, found.outputs, strict=True)) == [("a", "b"), *pairs]


@pytest.mark.parametrize(
    ("private", "reason"),
    [
        (pack(Evil()), "cannot be unpacked: it asks for"),
        (pack(print), "it asks for builtins.print"),
        (pack(["x"]), "holds no text: list"),
        (pack("{}"), "must be a list, found dict"),
        (pack("[1]"), "test 1 has no input and output"),
        (pack('[{"input": "1", "output": 2}]'), "test 1 has no input and output"),
        (pack("nonsense"), "not JSON"),
        ("!!!", "cannot be unpacked"),
        ("", "cut off"),
        (base64.b64encode(b"no zlib").decode(), "cannot be unpacked"),
        (base64.b64encode(zlib.compress(b"no pickle")).decode(), "cannot be unpacked"),
        (base64.b64encode(zlib.compress(pickle.dumps("[]"))[:-6]).decode(), "cut off"),
        (base64.b64encode(zlib.compress(b"Pos.system\n.")).decode(), "outside"),
    ],
)
def test_broken_tests_are_refused(private: str, reason: str) -> None:
    """Each with the row and the reason; nothing of a pickle is called."""
    with pytest.raises(DataError, match=f"row 7.*{reason}"):
        read_tests("[]", private, "row 7")


def test_tests_of_any_size_are_refused_above_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small text that unpacks to a large one ends at the limit."""
    monkeypatch.setattr(lcb_data, "_MOST_UNPACKED", 10_000)
    with pytest.raises(DataError, match="larger than any known"):
        read_tests("[]", pack(text_of(("0" * 100_000, ""))), "x")


def test_a_problem_without_tests_is_refused() -> None:
    """Every program would pass it."""
    with pytest.raises(DataError, match="no tests"):
        read_tests("[]", "[]", "x")


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2024-08-01T00:00:00", date(2024, 8, 1)),
        ("2025-05-31T23:59:59.999999", date(2025, 5, 31)),
        ("2024-08-01", date(2024, 8, 1)),
        ("2024-08-01T20:00:00+00:00", date(2024, 8, 1)),
    ],
)
def test_dates(text: str, day: date) -> None:
    """With and without fractions of a second."""
    assert contest_day({"contest_date": text}, "x") == day


def test_a_date_that_is_none_is_named() -> None:
    """With its row."""
    with pytest.raises(DataError, match=r"test\.jsonl:3: 'contest_date' is no date: 'soon'"):
        contest_day({"contest_date": "soon"}, "test.jsonl:3")


def test_sizes_of_the_windows() -> None:
    """The published counts of releases and windows."""
    whole = [Window(f"v{n}", None, None).size for n in range(1, 7)]
    assert whole == [400, 511, 612, 713, 880, 1055]
    assert ALL.size == 454
    assert Window("v5", date(2024, 7, 1), date(2024, 12, 31)).size == 315
    assert Window("v6", date(2024, 8, 2), date(2025, 5, 31)).size is None


def test_a_window_without_a_known_number_is_labelled() -> None:
    """What is stated of it is said, and that nobody checked it; known windows need no label."""
    assert ALL.unchecked(454) is None
    assert Window("v6", None, None).unchecked(1055) is None
    stated = Window("v6", date(2024, 8, 1), date(2025, 2, 28))
    assert stated.size is None
    assert stated.unchecked(375) == (
        "375 problems of v6 from 2024-08-01 to 2025-02-28: their number is not checked "
        "(374 are stated, unverified)"
    )
    other = Window("v6", date(2024, 8, 2), date(2025, 5, 31)).unchecked(450)
    assert other is not None
    assert other.endswith("(no number is published)")
    assert Window("v4", None, None).files == [
        "test.jsonl",
        "test2.jsonl",
        "test3.jsonl",
        "test4.jsonl",
    ]
    assert ALL.holds(date(2024, 8, 1))
    assert ALL.holds(date(2025, 5, 31))
    assert not ALL.holds(date(2024, 7, 31))
    assert not ALL.holds(date(2025, 6, 1))


def write(folder: Path, name: str, days: Sequence[str]) -> str:
    """A file with one row for each day; its checksum."""
    rows = [{"contest_date": f"{day}T00:00:00", "n": f"{name} {n}"} for n, day in enumerate(days)]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / name).write_bytes(content)
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six files of two rows, one of them in the window, which are the known ones."""
    days = ["2024-09-01", "2023-09-01"]
    known = {name: (2, write(tmp_path, name, days)) for name in FILES}
    monkeypatch.setattr(lcb_data, "FILES", known)
    monkeypatch.setattr(lcb_data, "WINDOWS", {("v6", "2024-08-01", "2025-05-31"): 6})
    digests = {digest: name for name, (_, digest) in known.items()}
    monkeypatch.setattr(lcb_data, "SOURCE", replace(lcb_data.SOURCE, known=digests))
    return tmp_path


def read(path: Path, window: Window = ALL, **override: Any) -> tuple[list[str], Problems]:
    """What the chosen rows are called, and the problems after the last."""
    access = DataAccess("lcb", DataOverride(path=str(path), **override), path.parent)
    problems = Problems(access, window, "CC")
    return [row["n"] for _, row in problems], problems


def test_all_files_in_order(folder: Path) -> None:
    """One row of each, with the checksum of the six checksums."""
    rows, problems = read(folder)
    assert rows == [f"{name} 0" for name in FILES]
    found = problems.provenance
    assert found is not None
    lines = "".join(
        hashlib.sha256((folder / name).read_bytes()).hexdigest() + "\n" for name in FILES
    )
    assert found.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    assert (found.n_rows, found.altered) == (12, False)
    assert found.source == " ".join(FILES)


def test_a_release_is_its_first_files(folder: Path) -> None:
    """Other files are not looked at."""
    (folder / "test3.jsonl").unlink()
    assert read(folder, Window("v2", None, None))[0] == [
        f"test{n}.jsonl {row}" for n in ("", 2) for row in (0, 1)
    ]


def test_packed_files(folder: Path) -> None:
    """A checksum is that of the uncompressed bytes."""
    plain = folder / "test2.jsonl"
    (folder / "test2.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    rows, problems = read(folder)
    assert len(rows) == 6
    assert problems.provenance is not None
    assert not problems.provenance.altered


def test_files_of_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is fetched at the pinned commit, which names the content."""
    asked: list[tuple[Any, ...]] = []

    def download(source: DataSource, revision: str | None, task: str) -> Path:
        asked.append((source.hub, revision, source.file, task))
        return folder / str(source.file)

    monkeypatch.setattr(hub, "download", download)
    problems = Problems(DataAccess("lcb", DataOverride(), folder), ALL, "CC")
    assert len(list(problems)) == 6
    at = ("livecodebench/code_generation_lite", "0fe84c3912ea0c4d4a78037083943e8f0c4dd505")
    assert asked == [(*at, name, "lcb") for name in FILES]
    found = problems.provenance
    assert found is not None
    assert (found.source, found.revision, found.altered) == (*at, False)


def test_a_missing_file_is_named(folder: Path) -> None:
    """And nothing else takes its place."""
    (folder / "test4.jsonl").unlink()
    with pytest.raises(DataError, match=r"lacks test4\.jsonl"):
        read(folder)


def test_one_file_is_not_the_release(folder: Path) -> None:
    """It is taken where the recipe says so, and then the result does."""
    with pytest.raises(DataError, match=r"release v6 is 6 files, found only test6\.jsonl"):
        read(folder / "test6.jsonl")
    rows, problems = read(folder / "test6.jsonl", allow_altered=True)
    assert rows == ["test6.jsonl 0"]
    assert problems.provenance is not None
    assert problems.provenance.altered


def test_changed_bytes_are_refused(folder: Path) -> None:
    """By checksum, though the counts are right."""
    path = folder / "test5.jsonl"
    path.write_bytes(path.read_bytes().replace(b"2023", b"2022"))
    with pytest.raises(DataError, match=r"test5\.jsonl has sha256 .* which is none of"):
        read(folder)


def test_a_checksum_of_all_can_be_given(folder: Path) -> None:
    """Data that the recipe names by checksum is taken, as altered; another is not."""
    path = folder / "test5.jsonl"
    path.write_bytes(path.read_bytes().replace(b"2023", b"2022"))
    _, problems = read(folder, allow_altered=True)
    assert problems.provenance is not None
    digest = problems.provenance.sha256
    _, again = read(folder, sha256=digest)
    assert again.provenance is not None
    assert again.provenance.altered
    with pytest.raises(DataError, match="the recipe wants"):
        read(folder, sha256="0" * 64)


def test_counts_are_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a file, and problems of a window that everybody knows."""
    monkeypatch.setitem(lcb_data.FILES, "test2.jsonl", (3, lcb_data.FILES["test2.jsonl"][1]))
    with pytest.raises(DataError, match=r"test2\.jsonl has 2 rows, it must have 3"):
        read(folder)
    monkeypatch.setitem(lcb_data.FILES, "test2.jsonl", (2, lcb_data.FILES["test2.jsonl"][1]))
    monkeypatch.setattr(lcb_data, "WINDOWS", {("v6", "2024-08-01", "2025-05-31"): 454})
    with pytest.raises(DataError, match="the window has 6 problems, it must have 454"):
        read(folder)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"{}\nnonsense\n", ":1: there is no field"), (b"[1]\n", "object")]
)
def test_broken_lines_are_named(tmp_path: Path, content: bytes, reason: str) -> None:
    """By file and number."""
    path = tmp_path / "mine.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"mine\.jsonl:1.*" + reason.removeprefix(":1")):
        read(path, allow_altered=True)


def test_a_broken_archive_is_a_data_error(tmp_path: Path) -> None:
    """Not an exception of the library's."""
    path = tmp_path / "mine.jsonl.gz"
    path.write_bytes(gzip.compress(b"{}" * 9999)[:-12])
    with pytest.raises(DataError, match="cannot read"):
        read(path, allow_altered=True)
