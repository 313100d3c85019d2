"""The samples artifact for analysis: an iterator, an Arrow table, a pandas frame.

pyarrow and pandas are extras and imported only when asked for. Columns are flat: scores become
`score.<name>`, and what has no fixed shape (targets, tool calls, messages) becomes JSON text.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson
import zstandard

from evalkit.errors import StoreError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pandas as pd
    import pyarrow as pa

    from evalkit.store.layout import RunFolder

CHUNK = 1 << 18
"""Compressed bytes read at a time."""
BATCH = 10_000
"""Samples turned into columns at a time: bounds the Python objects alive at once."""

TEXTS = (
    "id",
    "subset",
    "cluster",
    "outcome",
    "answer",
    "detail",
    "content",
    "reasoning",
    "finish_reason",
)
NUMBERS = ("sample", "repeat", "calls")
TOKENS = ("prompt_tokens", "completion_tokens", "reasoning_tokens")
AS_JSON = ("target", "data", "grading", "tool_calls", "steps", "messages")


def iter_samples(folder: RunFolder, task: str) -> Iterator[dict[str, Any]]:
    """The lines of samples.jsonl.zst in order. Raises StoreError where it is missing or damaged."""
    for line, _ in read_samples(folder.samples(task)):
        yield line


def read_samples(path: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Each line of a samples artifact, parsed and as it is (without its end). Raises StoreError."""
    for line in read_lines(path):
        try:
            yield orjson.loads(line), line
        except orjson.JSONDecodeError as error:
            raise _damaged(path, error) from error


def iter_lines(folder: RunFolder, task: str) -> Iterator[bytes]:
    """The lines of samples.jsonl.zst without their ends. Raises StoreError."""
    return read_lines(folder.samples(task))


def read_lines(path: Path) -> Iterator[bytes]:
    """The same of any samples artifact."""
    try:
        with path.open("rb") as file:
            yield from _lines(file)
    except FileNotFoundError as error:
        raise StoreError(
            f"there is no {path}", hint="`evalkit gather` makes it; check the task's name."
        ) from error
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    except zstandard.ZstdError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> StoreError:
    return StoreError(f"{path} is damaged: {error}", hint="`evalkit gather` makes it again.")


def samples_table(folder: RunFolder, task: str) -> pa.Table:
    """All samples of a task as an Arrow table.

    Raises UsageError without pyarrow, StoreError where the artifact is missing or damaged.
    """
    schema, batches = sample_batches(folder, task)
    return _pyarrow().Table.from_batches(list(batches), schema=schema)


def sample_batches(folder: RunFolder, task: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The columns of a task's samples, and the samples, some at a time. Raises as `samples_table`."""
    arrow = _pyarrow()
    schema = _schema(arrow, _score_names(iter_samples(folder, task)))
    return schema, _batches(arrow, schema, flat_samples(folder, task)[1])


def flat_samples(folder: RunFolder, task: str) -> tuple[list[str], Iterator[dict[str, Any]]]:
    """Names of the columns, and the samples as flat rows. Raises StoreError."""
    scores = _score_names(iter_samples(folder, task))
    names = [*TEXTS, *NUMBERS, *TOKENS, *(f"score.{name}" for name in scores)]
    rows = (_flatten(line) for line in iter_samples(folder, task))
    return [*names, *AS_JSON, "messages_sha256"], rows


def _batches(
    arrow: Any, schema: pa.Schema, rows: Iterator[dict[str, Any]]
) -> Iterator[pa.RecordBatch]:
    while batch := list(itertools.islice(rows, BATCH)):
        yield arrow.RecordBatch.from_pylist(batch, schema=schema)


def _pyarrow() -> Any:
    try:
        import pyarrow as pa
    except ImportError as error:
        raise UsageError(
            "an Arrow table needs pyarrow, which is not installed",
            hint="pip install 'evalkit[arrow]'",
        ) from error
    return pa


def samples_frame(folder: RunFolder, task: str) -> pd.DataFrame:
    """All samples of a task as a pandas frame. Raises as `samples_table`, also without pandas."""
    try:
        import pandas  # noqa: F401  (pyarrow imports it, and would not name the extra)
    except ImportError as error:
        raise UsageError(
            "a data frame needs pandas, which is not installed",
            hint="pip install 'evalkit[pandas]'",
        ) from error
    frame: pd.DataFrame = samples_table(folder, task).to_pandas()
    return frame


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines of a compressed file. Raises ZstdError where it is damaged or ends too early."""
    decoder = zstandard.ZstdDecompressor().decompressobj()
    rest = b""
    while chunk := file.read(CHUNK):
        *lines, rest = (rest + decoder.decompress(chunk)).split(b"\n")
        yield from lines
    if not decoder.eof or rest:  # a stream reader would take a cut file for a shorter one
        raise zstandard.ZstdError("the file ends too early")


def _score_names(lines: Iterator[dict[str, Any]]) -> list[str]:
    """Names of the scores: those of the first scored line, since all have the same."""
    return next((list(line["scores"]) for line in lines if line["scores"] is not None), [])


def _schema(pa: Any, scores: list[str]) -> Any:
    return pa.schema(
        [
            *((name, pa.string()) for name in TEXTS),
            *((name, pa.int64()) for name in (*NUMBERS, *TOKENS)),
            *((f"score.{name}", pa.float64()) for name in scores),
            *((name, pa.string()) for name in (*AS_JSON, "messages_sha256")),
        ]
    )


def _flatten(line: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {name: line.get(name) for name in (*TEXTS, *NUMBERS)} | line["usage"]
    row |= {f"score.{name}": value for name, value in (line["scores"] or {}).items()}
    row |= {
        name: orjson.dumps(line[name]).decode() for name in AS_JSON if line.get(name) is not None
    }
    row["messages_sha256"] = line.get("messages_sha256")
    return row
