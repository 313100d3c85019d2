"""Write a file so that it is complete or absent, whatever dies in between.

The temporary file lies in the target's own folder (a rename must not cross file systems) and names
its writer, so that two writers of one target never share it.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING, BinaryIO

from evalkit.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def publishing(target: Path) -> Iterator[BinaryIO]:
    """Binary file that becomes `target` when the block ends well, and is removed when it does not.

    Raises StoreError, naming the target, when the disk is full or the folder cannot be written.
    """
    temporary = target.with_name(f".{target.name}.tmp.{socket.gethostname()}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise StoreError(
            f"cannot write {target}: {error.strerror or error}",
            hint="Check free space and permissions of the output folder; nothing was overwritten.",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def publish(target: Path, content: bytes) -> None:
    """Replace `target` by `content` in one step."""
    with publishing(target) as file:
        file.write(content)


def publish_once(target: Path, content: bytes) -> bool:
    """Create `target` with `content`; False, and nothing changed, when it exists already."""
    temporary = target.with_name(f".{target.name}.new.{socket.gethostname()}.{os.getpid()}")
    try:
        publish(temporary, content)
        os.link(temporary, target)
    except FileExistsError:
        return False
    except OSError as error:
        raise StoreError(f"cannot create {target}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return True
