"""Damage to the files of a run, as disks, file systems and people do it. Journals stay append-only
for their writers: only what is already written is damaged."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from evalkit.store.layout import RunFolder


def journals(folder: RunFolder) -> list[Path]:
    """All journals that have a record."""
    found = sorted((folder.root / "journal").glob("*/*/*.jsonl"))
    return [path for path in found if path.read_bytes().count(b"\n") > 1]


def tear_tail(folder: RunFolder, rng: random.Random) -> str | None:
    """Cut the last record of the journal that was written last: nobody has read it since."""
    if not (found := journals(folder)):
        return None
    path = max(found, key=lambda path: path.stat().st_mtime_ns)
    content = path.read_bytes()
    last = len(content.rstrip(b"\n").rpartition(b"\n")[2])
    os.truncate(path, len(content) - rng.randrange(2, max(3, last)))
    return str(path)


def corrupt_line(folder: RunFolder, rng: random.Random) -> str | None:
    """Change one byte of a record in the middle of a journal."""
    if not (found := journals(folder)):
        return None
    path = rng.choice(found)
    with path.open("r+b") as file:
        content = file.read()
        begin = content.index(b"\n") + 1
        at = rng.randrange(begin, len(content.rstrip(b"\n")))
        while content[at : at + 1] == b"\n":
            at -= 1
        file.seek(at)
        file.write(b"~" if content[at : at + 1] != b"~" else b"#")
    return str(path)


def delete_one(folder: RunFolder, rng: random.Random, suffix: str) -> str | None:
    """Remove a marker (`.done`) or a lease (`.lock`)."""
    found = sorted(folder.leases.glob(f"*/*{suffix}"))
    if not found:
        return None
    path = rng.choice(found)
    path.unlink(missing_ok=True)
    return str(path)
