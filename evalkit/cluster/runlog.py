"""Logs of evalkit's own: a file per attempt, and one line per event in the run's `stdout.log`."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING

from evalkit.errors import StoreError
from evalkit.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from evalkit.clock import Clock
    from evalkit.store.layout import RunFolder

STAMP = "%Y-%m-%d %H:%M:%S"
FORMAT = "%(asctime)s %(levelname)s %(message)s"


class RedactingFormatter(logging.Formatter):
    """Replaces secrets in all of a record, tracebacks of others' errors included."""

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__(FORMAT)
        self._secrets = secrets

    def formatTime(  # noqa: N802
        self, record: logging.LogRecord, datefmt: str | None = None
    ) -> str:
        """`2026-01-31 23:59:59,123+0100`: who reads it may be in another zone than the node."""
        written = time.localtime(record.created)
        return f"{time.strftime(STAMP, written)},{record.msecs:03.0f}{time.strftime('%z', written)}"

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return redact(super().format(record), self._secrets)


@contextlib.contextmanager
def attempt_logging(path: Path, secrets: Sequence[str] = ()) -> Iterator[None]:
    """Send evalkit's log records to a file for the time of the block, without `secrets`.

    Raises StoreError.
    """
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error
    handler.setFormatter(RedactingFormatter(secrets))
    logger = logging.getLogger("evalkit")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


def note(folder: RunFolder, clock: Clock, text: str) -> None:
    """Append a line to the run's log. Raises StoreError."""
    stamp = time.strftime(STAMP, time.localtime(clock.wall()))
    try:
        folder.stdout.parent.mkdir(parents=True, exist_ok=True)
        with folder.stdout.open("a", encoding="utf-8") as file:
            file.write(f"{stamp} {text}\n")
    except OSError as error:
        raise StoreError(f"cannot write {folder.stdout}: {error.strerror or error}") from error
