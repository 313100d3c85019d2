"""Where things are within a sandbox: one writable folder, and everything in it.

`/tmp` is the scratch: a tmpfs of limited size that is a program's own. The working folder, which is
also its home, and POSIX shared memory lie in it, so that one limit holds for all that is written.
The unsafe backend has no `/tmp` of its own and puts the same things into a folder it removes later.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from . import kernel

NOBODY = 65534
"""User and group within a sandbox: what most systems call nobody, and never root."""
SCRATCH = "/tmp"
WORK = f"{SCRATCH}/box"
SHARED_MEMORY = f"{SCRATCH}/shm"
CODE = "/evalkit"
"""The folder that holds this package inside."""
MAIN = "main.py"
"""The name of the source that runs in the warm interpreter."""
_BYTES_PER_INODE = 4096
_FEWEST_INODES = 1024
_NO_DESCRIPTOR = 4096
"""Above any that the zygote or a keeper has, which are a dozen; the kernel gives the lowest."""


def scratch_options(scratch_bytes: int) -> str:
    """tmpfs options. Empty files cost memory too, so their number is limited like their bytes."""
    inodes = max(_FEWEST_INODES, scratch_bytes // _BYTES_PER_INODE)
    return f"size={scratch_bytes},nr_inodes={inodes},mode=700,uid={NOBODY},gid={NOBODY}"


def make_scratch() -> None:
    """The folders in a fresh scratch; shared memory of others is covered by our own."""
    for folder in (WORK, SHARED_MEMORY):
        Path(folder).mkdir(mode=0o700)
    shared = Path("/dev/shm")
    if shared.is_dir() and not shared.is_symlink():
        kernel.mount(SHARED_MEMORY, str(shared), "", kernel.MS_BIND)


def mount_scratch(scratch_bytes: int, shown: list[str]) -> None:
    """A fresh scratch over the sandbox's `/tmp`; what that shows of the host's is shown again in it."""
    covered = os.open(SCRATCH, os.O_PATH | os.O_DIRECTORY)
    options = scratch_options(scratch_bytes)
    kernel.mount("tmpfs", SCRATCH, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
    for target in shown:
        source = Path(f"/proc/self/fd/{covered}", target.removeprefix(f"{SCRATCH}/"))
        if source.is_dir():
            Path(target).mkdir(parents=True)
        else:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            Path(target).touch()
        kernel.mount(str(source), target, "", kernel.MS_BIND | kernel.MS_REC)
    os.close(covered)


def make_unsafe_scratch() -> str:
    """A folder of the machine's own temporary space, with a working folder in it; not limited."""
    scratch = tempfile.mkdtemp(prefix="evalkit-unsafe-")
    (Path(scratch) / "box").mkdir()
    return scratch


def remove_unsafe_scratch(scratch: str) -> None:
    """Best effort: what a surviving process still writes there cannot be held back without a sandbox."""
    shutil.rmtree(scratch, ignore_errors=True)


def write_files(work: str, files: dict[str, bytes]) -> None:
    """Place a job's files. Raises OSError, with ENOSPC where they exceed the scratch.

    Their names were checked by whoever sent them, and this runs within the enclosure.
    """
    for name, content in files.items():
        path = Path(work) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def close_all_but(keep: set[int]) -> None:
    """Close every file descriptor except those."""
    first = 0
    for number in [*sorted(keep), _NO_DESCRIPTOR]:
        if first < number:  # os.closerange(0, 0) would close all there are
            os.closerange(first, number)
        first = number + 1
