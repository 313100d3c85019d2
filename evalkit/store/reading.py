"""Reading a journal back: a torn last line is skipped, a corrupt line in the middle is named, a journal
of another plan is refused. `evalkit.store.journal` writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.errors import StoreError
from evalkit.store.codec import CorruptLineError, header, unseal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from evalkit.plan.model import Plan, Shard


@dataclass(frozen=True, slots=True)
class JournalProblem:
    """A line that was skipped, and why."""

    path: Path
    line: int
    reason: str
    torn: bool = False
    """The last line of a file, cut off: normal after a kill."""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}"


def read_journal(
    path: Path, plan: Plan, shard: Shard, problems: list[JournalProblem]
) -> Iterator[dict[str, Any]]:
    """Payloads of a journal's records, in order; skipped lines are added to `problems`.

    A journal of another plan, task or shard, or that does not say whose it is, yields nothing and is
    a problem. A file that vanished is empty. Raises StoreError when it cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    lines = content.split(b"\n")
    if tail := lines.pop():
        problems.append(
            JournalProblem(path, len(lines) + 1, f"torn line of {len(tail)} bytes", True)
        )
    if lines and (reason := _refuse_header(lines[0], plan, shard)) is not None:
        problems.append(JournalProblem(path, 1, reason))
        return
    for number, line in enumerate(lines[1:], start=2):
        try:
            yield unseal(line)
        except CorruptLineError as error:
            problems.append(JournalProblem(path, number, str(error)))


def _refuse_header(line: bytes, plan: Plan, shard: Shard) -> str | None:
    """Why a journal that begins with this line is not one of the shard's; null when it is."""
    try:
        found = unseal(line)
    except CorruptLineError as error:
        return f"no header that says which plan this is of ({error})"
    wanted = header(plan.fingerprint, shard.task, shard.index, str(found.get("attempt")))
    if found.get("version") != wanted["version"]:
        return f"written by another version of evalkit ({found.get('version')})"
    keys = ("kind", "plan", "task", "shard")
    return None if all(found.get(k) == wanted[k] for k in keys) else "of another plan or shard"
