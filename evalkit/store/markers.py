"""Done markers: hints that every unit of a shard is finished, with its counters.

A marker names the journals that say so and their sizes. It is believed only while those files are at
least that large, so a deleted or truncated journal makes the shard owed again; a missing marker only
costs reading the journals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from evalkit.errors import StoreError
from evalkit.store.layout import JOURNAL_SUFFIX
from evalkit.store.publish import publish

if TYPE_CHECKING:
    from evalkit.plan.model import Shard
    from evalkit.store.layout import RunFolder


def write_marker(folder: RunFolder, shard: Shard, counters: dict[str, Any]) -> None:
    """Mark a shard as done. `counters` are units, outcomes, scored, score_sum,
    score_weight. Raises StoreError."""
    try:
        sizes = {
            path.name: path.stat().st_size
            for path in folder.journals(shard).iterdir()
            if path.name.endswith(JOURNAL_SUFFIX)
        }
    except OSError as error:
        raise StoreError(f"cannot list {folder.journals(shard)}: {error.strerror}") from error
    publish(folder.marker(shard), orjson.dumps({**counters, "journals": sizes}))


def read_marker(folder: RunFolder, shard: Shard) -> dict[str, Any] | None:
    """The marker's counters, or null when there is none that can be believed."""
    try:
        marker: dict[str, Any] = orjson.loads(folder.marker(shard).read_bytes())
        journals = marker["journals"]
        for name, size in journals.items():
            if (folder.journals(shard) / name).stat().st_size < size:
                return None
    except (OSError, orjson.JSONDecodeError, KeyError, AttributeError, TypeError):
        return None
    return marker if journals else None


def marked_journals(folder: RunFolder, shard: Shard) -> list[str]:
    """Names of the journals that the shard's marker tells of, believed or not."""
    try:
        return [str(name) for name in orjson.loads(folder.marker(shard).read_bytes())["journals"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def doubt_marker(folder: RunFolder, shard: Shard) -> str | None:
    """Why the shard's marker is not believed, naming the file; null when it is, or when there is none."""
    path = folder.marker(shard)
    try:
        journals = orjson.loads(path.read_bytes())["journals"]
        for name, size in journals.items():
            journal = folder.journal(shard, name.removesuffix(JOURNAL_SUFFIX))
            found = journal.stat().st_size if journal.exists() else None
            if found is None:
                return f"{journal}: gone, with {size:,} bytes that {path.name} tells of"
            if found < size:
                return f"{journal}: {found:,} bytes, of {size:,} that {path.name} tells of"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        return f"{path}: not a marker ({error})"
    return None if journals else f"{path}: names no journal"


def remove_marker(folder: RunFolder, shard: Shard) -> None:
    """Forget a marker that the journals contradict. Raises StoreError."""
    try:
        folder.marker(shard).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot remove {folder.marker(shard)}: {error.strerror}") from error
