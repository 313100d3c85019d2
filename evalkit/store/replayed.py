"""Output of a program that was lost and written again: what its unit's record says of it then.

A journal is not changed by a replay, and the first record of a unit counts. A program may give its files other
names each time, so what it said of them when it ran again lies beside them.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import orjson

from evalkit.errors import StoreError
from evalkit.store.publish import publish

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "folder"
"""Of a unit's data: where its program wrote, below the run's folder."""
NAME = ".evalkit-replayed"
"""JSON. No pattern for a program's own files is to match it."""


def output_of(data: Any) -> str | None:
    """The folder of a unit's program, below the run's; null where its data name none."""
    name = data.get(FOLDER) if isinstance(data, dict) else None
    return name if isinstance(name, str) else None


def is_lost(folder: Path) -> bool:
    """Whether a program's folder is gone, or what was in it: who purges a file system may leave folders."""
    return not any(path.is_file() for path in folder.rglob("*"))


def put_replayed(made: Path, data: dict[str, Any], root: Path, name: str) -> None:
    """Put what a program wrote again into the place of what was lost: the folder `name` below the run's.

    Raises StoreError, also where it is there by now.
    """
    publish(made / NAME, orjson.dumps({**data, FOLDER: name}))
    try:
        if is_lost(root / name):
            shutil.rmtree(root / name, ignore_errors=True)  # folders alone
        made.replace(root / name)
    except OSError as error:
        raise StoreError(f"cannot move {made} to {root / name}: {error.strerror}") from error


def data_now(root: Path, data: Any) -> Any:
    """A unit's data as they hold for what is in its folder now."""
    name = output_of(data)
    if name is None:
        return data
    try:
        return orjson.loads((root / name / NAME).read_bytes())
    except FileNotFoundError:
        return data
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {root / name / NAME}: {error}") from error


def is_replayed(root: Path, data: Any) -> bool:
    """Whether what is in a unit's folder now was written again."""
    name = output_of(data)
    return name is not None and (root / name / NAME).is_file()
