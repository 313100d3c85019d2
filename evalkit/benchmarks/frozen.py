"""Frozen samples: a task's rendered requests as they lie in the run folder.

Written once where the data set is; read where the model is, with nothing but this file. The checksum
in the plan is over the uncompressed lines.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import orjson
import zstandard

from evalkit.benchmarks.contract import Sample
from evalkit.errors import StoreError
from evalkit.store.publish import publish

if TYPE_CHECKING:
    from collections.abc import Sequence
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


def load_frozen(folder: RunFolder, task: TaskPlan) -> list[Sample]:
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
    return [_sample(orjson.loads(line)) for line in content.splitlines()]


def _sample(row: dict[str, Any]) -> Sample:
    row["messages"] = tuple(row["messages"])
    return Sample(**row)
