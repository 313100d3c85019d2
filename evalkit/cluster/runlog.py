"""Logs of evalkit's own: a file per attempt, and one line per event in the run's `stdout.log`."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING

from evalkit.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from evalkit.clock import Clock
    from evalkit.store.layout import RunFolder

FORMAT = "%(asctime)s %(levelname)s %(message)s"


@contextlib.contextmanager
def attempt_logging(path: Path) -> Iterator[None]:
    """Send evalkit's log records to a file for the time of the block. Raises StoreError."""
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error
    handler.setFormatter(logging.Formatter(FORMAT))
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
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(clock.wall()))
    try:
        folder.stdout.parent.mkdir(parents=True, exist_ok=True)
        with folder.stdout.open("a", encoding="utf-8") as file:
            file.write(f"{stamp} {text}\n")
    except OSError as error:
        raise StoreError(f"cannot write {folder.stdout}: {error.strerror or error}") from error
