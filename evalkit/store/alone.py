"""One evalkit at a time at something in a run's folder that two would spoil for each other."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from filelock import SoftFileLock, Timeout

from evalkit.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def alone(lock_file: Path, doing: str, wait_s: float) -> Iterator[None]:
    """Hold a lock, after waiting for it as long as `wait_s`.

    Raises StoreError, also where another one has it: `doing` says with what, as in `prepares runs/a`.
    """
    lock = SoftFileLock(lock_file, timeout=wait_s)
    try:
        lock.acquire()
    except Timeout as error:
        raise StoreError(
            f"another evalkit {doing}",
            hint=f"Wait for it; when none runs any more, remove {lock.lock_file}.",
        ) from error
    except OSError as error:
        raise StoreError(
            f"cannot write {lock.lock_file}: {error.strerror or error}",
            hint="Check free space, quota and permissions of the output folder; nothing was changed.",
        ) from error
    try:
        yield
    finally:
        lock.release()
