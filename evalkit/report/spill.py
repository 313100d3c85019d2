"""Lines that come in any order and are wanted in one: kept in a file, not in memory.

Shards interleave samples, and artifacts are in sample order whatever the shards were. 16 bytes of
memory per line; the file has no name, so it is gone however the process ends. It lies in the folder
of the artifacts, the one place known to have room for what the journals hold.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from array import array
from typing import TYPE_CHECKING, Self

from evalkit.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

_BUFFER = 1 << 20


class Spill:
    """Lines by position; use it as a context manager."""

    def __init__(self, folder: Path, size: int) -> None:
        """Room for `size` positions. Raises StoreError when the folder cannot be written."""
        self._folder = folder
        self._starts = array("Q", bytes(8 * size))
        self._lengths = array("Q", bytes(8 * size))
        self._end = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder, buffering=_BUFFER)  # noqa: SIM115
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # a full disk was reported by `put` already
            self._file.close()

    def put(self, position: int, line: bytes) -> None:
        """Keep one line that is not empty, once per position. Raises StoreError on a full disk."""
        try:
            self._file.write(line)
        except OSError as error:
            raise self._failed(error) from error
        self._starts[position] = self._end
        self._lengths[position] = len(line)
        self._end += len(line)

    def lines(self) -> Iterator[bytes]:
        """All lines by ascending position; positions without a line are left out."""
        try:
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from error
        descriptor = self._file.fileno()
        for start, length in zip(self._starts, self._lengths, strict=True):
            if length:
                yield os.pread(descriptor, length, start)

    def _failed(self, error: OSError) -> StoreError:
        return StoreError(
            f"cannot write temporary data to {self._folder}: {error.strerror or error}",
            hint="Free space or quota of the output folder, then `evalkit gather` again; "
            "the journals are as they were.",
        )
