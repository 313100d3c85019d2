"""Write a file, or a folder of files, so that it is complete or absent, whatever dies in between.

The temporary file lies in the target's own folder (a rename must not cross file systems) and names
its writer, so that two writers of one target never share it, and that what a killed one leaves can be
told from what is being written.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from evalkit.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@contextlib.contextmanager
def publishing(target: Path) -> Iterator[BinaryIO]:
    """Binary file that becomes `target` when the block ends well, and is removed when it does not.

    Raises StoreError: naming the target, when the disk is full or the folder cannot be written, and the
    other file, where the block could not read one.
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
        raise _unwritten(target, temporary, error, "nothing was overwritten") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def publishing_folder(target: Path) -> Iterator[Path]:
    """Empty folder that becomes `target`, in place of one that is there, when the block ends well; it is
    removed when it does not.

    No file system exchanges two folders everywhere: between two renames there may be none, and the one
    before comes back in `remove_abandoned` where the writer dies there. Raises StoreError.
    """
    writer = f"tmp.{socket.gethostname()}.{os.getpid()}"
    temporary = target.with_name(f".{target.name}.{writer}")
    before = target.with_name(f".{target.name}{BEFORE}.{writer}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a process before that had our number
        temporary.mkdir(parents=True)
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file() and not path.is_symlink():
                _sync(path)
        with contextlib.suppress(FileNotFoundError):
            target.replace(before)
        temporary.replace(target)
    except OSError as error:
        raise _unwritten(target, temporary, error, "what was there is kept") from error
    finally:
        _put_back(before, target)
        for path in (temporary, before):
            shutil.rmtree(path, ignore_errors=True)


def _unwritten(target: Path, temporary: Path, error: OSError, kept: str) -> StoreError:
    """Why the target is not there: itself, or another file that the block has to do with."""
    if (other := named_elsewhere(error, temporary, target)) is not None:
        return StoreError(f"{target} is not written: {other}: {error.strerror or error}")
    return StoreError(
        f"cannot write {target}: {error.strerror or error}",
        hint=f"Check free space and permissions of the output folder; {kept}.",
    )


def named_elsewhere(error: OSError, *own: Path) -> str | None:
    """The file that an error names, where that is none of `own`, above or below them."""
    if error.filename is None or isinstance(error.filename, int):
        return None
    path = Path(os.fsdecode(error.filename))
    is_own = any(path.is_relative_to(each) or each.is_relative_to(path) for each in own)
    return None if is_own else str(path)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _put_back(before: Path, target: Path) -> None:
    """The folder that was to be replaced, where nothing has come into its place."""
    if not target.exists():
        with contextlib.suppress(OSError):
            before.replace(target)


BEFORE = ".before"
WRITER = re.compile(r"\.(?P<target>.+)\.(?:tmp|new)\.(?P<host>.+?)\.(?P<pid>\d+)(?:\.tmp\..+)?")


def remove_abandoned(folders: Iterable[Path]) -> None:
    """Remove what writers of this machine left below these folders when they were killed.

    A folder that one of them had moved out of its place, and put nothing there, goes back. Of another
    machine's writers nobody here can say whether they live.
    """
    here = socket.gethostname()
    for folder in folders:
        with contextlib.suppress(OSError):  # others write and remove there at the same time
            for path in list(folder.rglob(".*")):
                writer = WRITER.fullmatch(path.name)
                if writer and writer["host"] == here and not _lives(int(writer["pid"])):
                    _remove_abandoned(path, writer["target"])


def _remove_abandoned(path: Path, target: str) -> None:
    if target.endswith(BEFORE):
        _put_back(path, path.with_name(target.removesuffix(BEFORE)))
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


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
