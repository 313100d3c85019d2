"""Secrets in files that programs wrote: taken out of a log once it is whole, and on the way into artifacts.

As `evalkit.redaction` does in text: exact values only. Files may be large, so they are read piece by piece.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, BinaryIO

from evalkit.errors import StoreError
from evalkit.redaction import HIDDEN
from evalkit.store.publish import named_elsewhere, publishing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PIECE = 2**20
PROBE = 2**13
"""Bytes at a file's beginning in which a zero means that it is no text, as for `git`."""


def redact_file(path: Path, secrets: Sequence[str]) -> None:
    """Replace every secret in a log that nobody writes any more; nothing where it is not there.

    A log is no other format because of a zero in it. Raises StoreError; then the log is as it was.
    """
    try:
        with path.open("rb") as file:
            if not any(found for _, found in _pieces(file, secrets)):
                return
            file.seek(0)
            with publishing(path) as copy:
                copy.writelines(piece for piece, _ in _pieces(file, secrets))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error


def copy_redacted(source: Path, target: Path, secrets: Sequence[str]) -> None:
    """Copy a file, a text without the secrets in it; other formats would be damaged, and are copied as
    they are.

    `target` is in a folder that is not yet published. Raises OSError, which names it, where `source` cannot
    be read, StoreError where `target` cannot be written.
    """
    with source.open("rb") as file:
        hidden = () if b"\0" in _read(file, PROBE) else secrets
        file.seek(0)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as copy:
                copy.writelines(piece for piece, _ in _pieces(file, hidden))
        except OSError as error:
            if named_elsewhere(error, target) is not None:
                raise
            raise StoreError(
                f"cannot write {target}: {error.strerror or error}",
                hint="Check free space and permissions of the output folder.",
            ) from error


def _pieces(file: BinaryIO, secrets: Sequence[str]) -> Iterator[tuple[bytes, bool]]:
    """The content with every secret replaced, and whether one was in the piece.

    What begins so near to the end of what was read that the longest secret would not fit stays for the
    next piece: a shorter secret there may be the beginning of a longer one.
    """
    encoded = sorted({os.fsencode(secret) for secret in secrets if secret}, key=len, reverse=True)
    pattern = re.compile(b"|".join(map(re.escape, encoded)))
    overlap = len(encoded[0]) - 1 if encoded else 0
    rest, ends = b"", False
    while not ends:
        piece = _read(file, PIECE)
        ends = not piece
        text = rest + piece
        known = len(text) if ends else len(text) - overlap
        parts, at = [], 0
        is_there = any(secret in text for secret in encoded)  # much faster, and seldom so
        for found in pattern.finditer(text) if is_there else ():
            if found.start() >= known:
                break
            parts += [text[at : found.start()], HIDDEN.encode()]
            at = found.end()
        until = max(at, known)
        yield b"".join([*parts, text[at:until]]), bool(parts)
        rest = text[until:]


def _read(file: BinaryIO, size: int) -> bytes:
    """Raises OSError that names the file: where a copy is written meanwhile, it is no error of that."""
    try:
        return file.read(size)
    except OSError as error:
        error.filename = file.name
        raise
