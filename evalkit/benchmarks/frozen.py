"""Frozen samples: a task's rendered requests as they lie in the run folder.

Written once where the data set is; read where the model is, with nothing but this file. The checksum
in the plan is over the uncompressed lines.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, overload

import orjson
import zstandard

from evalkit.benchmarks.contract import Sample
from evalkit.errors import StoreError
from evalkit.store.publish import publish

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.plan.model import TaskPlan
    from evalkit.store.layout import RunFolder

LEVEL = 9
"""zstandard level: prompts compress about 5:1, at 50 MB/s, once a run."""


def freeze(samples: Sequence[Sample]) -> bytes:
    """The samples as JSON lines. Raises TypeError where a field is not JSON."""
    return b"".join(
        orjson.dumps(asdict(sample), option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SORT_KEYS)
        for sample in samples
    )


def checksum(frozen: bytes) -> str:
    """sha256 of frozen samples."""
    return hashlib.sha256(frozen).hexdigest()


def write_frozen(path: Path, frozen: bytes) -> None:
    """Publish frozen samples, compressed. Raises StoreError."""
    publish(path, zstandard.ZstdCompressor(level=LEVEL).compress(frozen))


class FrozenSamples(Sequence[Sample]):
    """Samples read from their frozen lines when they are asked for.

    A million parsed samples take gigabytes; their text and an array of positions do not.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._starts = array("q", [0])
        position = content.find(b"\n")
        while position >= 0:
            self._starts.append(position + 1)
            position = content.find(b"\n", position + 1)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """Parse one sample, or several."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        row = orjson.loads(self._content[self._starts[number] : self._starts[number + 1]])
        row["messages"] = tuple(row["messages"])
        return Sample(**row)


def load_frozen(folder: RunFolder, task: TaskPlan) -> FrozenSamples:
    """The task's samples in order. Raises StoreError when the file is missing or was changed."""
    path = folder.requests(task.name)
    again = "Restore the file, or start a new run."
    try:
        content = zstandard.ZstdDecompressor().decompress(path.read_bytes())
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}", hint=again) from error
    except zstandard.ZstdError as error:
        raise StoreError(f"{path} is damaged: {error}", hint=again) from error
    if checksum(content) != task.requests_sha256:
        raise StoreError(
            f"{path} is not the file that was planned: its checksum differs", hint=again
        )
    return FrozenSamples(content)
