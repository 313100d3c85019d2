"""Samples as rows, an Arrow table and a data frame."""

import sys
from pathlib import Path

import orjson
import pytest

from evalkit.errors import StoreError, UsageError
from evalkit.report import frames
from evalkit.report.frames import iter_samples, samples_frame, samples_table
from tests.unit.report.run_builder import PrivateEcho, TestRun, echo, make_run


@pytest.fixture
def run(tmp_path: Path) -> TestRun:
    """A gathered run: 8 units, the first with a failing grader."""
    run = make_run(tmp_path)
    first, *others = run.units()
    run.write([run.answer(first, "raise"), *(run.answer(key) for key in others)])
    run.gather()
    return run


def test_the_table_has_a_column_per_score(run: TestRun) -> None:
    """Scores are numbers, null where the grader failed; what has no fixed shape is JSON."""
    table = samples_table(run.folder, "echo")
    assert table.num_rows == 8
    assert table["score.correct"].to_pylist() == [None, *[1.0] * 7]
    assert table["sample"].to_pylist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert table["prompt_tokens"].to_pylist() == [10] * 8
    assert orjson.loads(table["messages"][0].as_py()) == [{"role": "user", "content": "say t0"}]
    assert table["reasoning_tokens"].null_count == 8


def test_batches_join_to_one_table(run: TestRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """More samples than one batch give the same table."""
    whole = samples_table(run.folder, "echo")
    monkeypatch.setattr(frames, "BATCH", 3)
    assert samples_table(run.folder, "echo").combine_chunks() == whole.combine_chunks()


def test_private_samples_have_a_checksum_for_messages(tmp_path: Path) -> None:
    """The column of messages is null and that of checksums is not."""
    run = make_run(tmp_path)
    run.write_all()
    run.gather(echo(PrivateEcho))
    table = samples_table(run.folder, "echo")
    assert table["messages"].null_count == table["target"].null_count == 8
    assert table["messages_sha256"].null_count == 0


def test_no_samples_are_an_empty_table(tmp_path: Path) -> None:
    """A run without answers has the columns and no rows."""
    run = make_run(tmp_path)
    run.gather()
    assert samples_table(run.folder, "echo").num_rows == 0
    assert list(iter_samples(run.folder, "echo")) == []


def test_the_frame_is_the_table(run: TestRun) -> None:
    """pandas sees the same columns and rows."""
    frame = samples_frame(run.folder, "echo")
    assert list(frame.columns) == samples_table(run.folder, "echo").column_names
    assert frame["score.correct"].sum() == 7


@pytest.mark.parametrize(
    ("module", "extra", "function"),
    [("pyarrow", "evalkit[arrow]", samples_table), ("pandas", "evalkit[pandas]", samples_frame)],
)
def test_a_missing_package_is_named_with_its_extra(
    run: TestRun, monkeypatch: pytest.MonkeyPatch, module: str, extra: str, function: object
) -> None:
    """The error is the command that installs it."""
    monkeypatch.setitem(sys.modules, module, None)
    assert callable(function)
    with pytest.raises(UsageError) as caught:
        function(run.folder, "echo")
    assert extra in str(caught.value)


def test_missing_samples_say_what_makes_them(tmp_path: Path) -> None:
    """Before a gather there is no artifact."""
    with pytest.raises(StoreError, match="evalkit gather"):
        list(iter_samples(make_run(tmp_path).folder, "echo"))


def test_damaged_samples_are_a_store_error(run: TestRun) -> None:
    """A file that was cut or overwritten is not read as a shorter one."""
    path = run.folder.samples("echo")
    content = path.read_bytes()
    for damaged in (b"garbage", content[:-12]):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match="damaged"):
            list(iter_samples(run.folder, "echo"))
