"""Storage that lies or runs out, for real where root can make it so, and `evalkit` under a stale listing.

python tests/faults/storage_faults.py HIDE_S EVALKIT_ARGUMENTS...

runs `evalkit` on a file system that lists a journal only HIDE_S seconds after it was first looked for,
as NFS does with its attribute caches, though it opens it by name at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = 4096
"""What a file on the small disk takes at least."""


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A disk of so many bytes at `path`, for the time of the block. Needs root."""
    path.mkdir(parents=True, exist_ok=True)
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path))
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """A folder in which nothing can be made or changed, not even by root. Needs root.

    Files that are open already can still be written, as on a real remount.
    """
    mount("--bind", str(path), str(path))
    while (said := try_mount("-o", "remount,bind,ro", str(path))) is not None:
        # somebody has opened a file for writing in between, and keeps it open
        assert "busy" in said, said
        subprocess.run(["umount", "--lazy", str(path)], check=True)
        mount("--bind", str(path), str(path))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def mount(*arguments: str) -> None:
    """Run mount(8), which must succeed."""
    said = try_mount(*arguments)
    assert said is None, f"mount {' '.join(arguments)} (needs root): {said}"


def try_mount(*arguments: str) -> str | None:
    """What mount(8) says when it does not succeed."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr


def fill(disk: Path, room: int) -> Path:
    """A file that leaves so many bytes on a disk."""
    ballast = disk / "ballast"
    state = os.statvfs(disk)
    ballast.write_bytes(bytes(max(0, state.f_bavail * state.f_frsize - room)))
    return ballast


def hide_journals(seconds: float) -> None:
    """List no journal before it has been there for so long, as this process sees it."""
    listed = os.listdir
    seen: dict[tuple[str, str], float] = {}

    def late(path: Any = ".") -> list[Any]:
        now, names = time.monotonic(), listed(path)
        return [
            name
            for name in names
            if not str(name).endswith(".jsonl")
            or now - seen.setdefault((os.fspath(path), name), now) > seconds
        ]

    os.listdir = late


def main() -> int:
    """The exit code of `evalkit`."""
    from evalkit.cli.main import main as evalkit

    hide_journals(float(sys.argv[1]))
    return evalkit(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
