"""Secrets in files that programs wrote: taken out of a log once it is whole, and on the way into artifacts.

As `evalkit.redaction` does in text: exact values only. Files may be large, so they are read piece by piece.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from evalkit.errors import StoreError
from evalkit.redaction import HIDDEN
from evalkit.store.publish import publishing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PIECE = 2**20
PROBE = 2**13
"""Bytes at a file's beginning in which a zero means that it is no text, as for `git`."""


def redact_file(path: Path, secrets: Sequence[str]) -> None:
    """Replace every secret in a log that nobody writes any more; nothing where it is not there.

    Raises StoreError; then the log is as it was.
    """
    try:
        with path.open("rb") as file:
            if not any(found for _, found in _pieces(file, secrets)):
                return
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    copy_redacted(path, path, secrets)


def copy_redacted(source: Path, target: Path, secrets: Sequence[str]) -> None:
    """Copy a file, a text without the secrets in it; other formats would be damaged, and are copied as
    they are. Raises StoreError."""
    try:
        with source.open("rb") as file, publishing(target) as copy:
            hidden = () if b"\0" in file.read(PROBE) else secrets
            file.seek(0)
            copy.writelines(piece for piece, _ in _pieces(file, hidden))
    except OSError as error:
        raise StoreError(f"cannot read {source}: {error.strerror or error}") from error


def _pieces(file: BinaryIO, secrets: Sequence[str]) -> Iterator[tuple[bytes, bool]]:
    """The content with every secret replaced, and whether one was in the piece, or in the one before it."""
    encoded = [secret.encode() for secret in secrets if secret]
    overlap = max(map(len, encoded), default=1) - 1
    rest = b""
    while piece := file.read(PIECE):
        text = rest + piece
        hidden = text
        for secret in encoded:
            hidden = hidden.replace(secret, HIDDEN.encode())
        cut = max(len(hidden) - overlap, 0)
        yield hidden[:cut], hidden != text
        rest = hidden[cut:]  # a secret may begin here
    yield rest, False
