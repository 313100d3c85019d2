"""Which runs this user has made, wherever they lie: one line per run in a file that is only appended to.

A hint, like a lease: what a line says is checked by looking at the folder, a line that is none is
skipped, and a run that could not be noted is a run all the same. The file usually lies in a home folder
on NFS, where appending is not atomic: writers wait for each other behind a soft lock, and a line is one
`write`. A writer that was killed leaves a lock that nobody waits longer for than `LOCK_WAIT_S`.
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from filelock import SoftFileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from evalkit.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from evalkit.plan.model import Plan
    from evalkit.store.layout import RunFolder

SETTING = "EVALKIT_REGISTRY"
OFF = "off"
LOCK_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One run, as it was when it was noted."""

    run_id: str
    run: str
    model: str
    recipe: str
    folder: str
    """Absolute path, on `host`."""
    host: str
    noted: float
    """Unix time (s)."""
    version: Literal[1] = 1

    @property
    def root(self) -> Path:
        """The run's folder."""
        return Path(self.folder)


_ADAPTER = TypeAdapter(Entry)


def registry_path(env: Mapping[str, str]) -> Path | None:
    """The file: `EVALKIT_REGISTRY`, else below `XDG_DATA_HOME`, else below the home folder; null where
    it is switched off, and where no home folder is known."""
    setting = env.get(SETTING)
    if setting:
        return None if setting.lower() == OFF else Path(setting).expanduser()
    data = env.get("XDG_DATA_HOME")
    if not data and env.get("HOME"):
        data = f"{env['HOME']}/.local/share"
    return Path(data) / "evalkit" / "runs.jsonl" if data else None


def read_registry(path: Path | None) -> list[Entry]:
    """The last entry of each folder, in the order in which they were noted. Raises StoreError for a file
    that is there and cannot be read."""
    if path is None:
        return []
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(
            f"cannot read the list of runs {path}: {error.strerror or error}",
            hint=f"Mend its permissions, or set {SETTING} to another file, or to {OFF}.",
        ) from error
    entries: dict[str, Entry] = {}
    for line in lines:
        with contextlib.suppress(ValidationError):  # cut off, or of a later evalkit
            entry = _ADAPTER.validate_json(line)
            entries.pop(entry.folder, None)
            entries[entry.folder] = entry
    return list(entries.values())


def note_runs(path: Path | None, runs: Iterable[tuple[RunFolder, Plan]], now: float) -> None:
    """Add runs that are not noted yet; `now` is a Unix time (s). Raises StoreError."""
    if path is None:
        return
    entries = [_entry(folder, plan, now) for folder, plan in runs]
    lock = SoftFileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_WAIT_S)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock:
            known = {(each.run_id, each.folder) for each in read_registry(path)}
            new = [entry for entry in entries if (entry.run_id, entry.folder) not in known]
            if new:
                _append(path, new)
    except Timeout as error:
        raise StoreError(
            f"cannot note runs in {path}: another evalkit writes there",
            hint=f"When none does any more, remove {lock.lock_file}.",
        ) from error
    except OSError as error:
        raise StoreError(
            f"cannot note runs in {path}: {error.strerror or error}",
            hint=f"Set {SETTING} to another file, or to {OFF}.",
        ) from error


def _append(path: Path, entries: Iterable[Entry]) -> None:
    """All lines in one write, each on a line of its own even where the last one was cut off."""
    content = b"".join(_ADAPTER.dump_json(entry) + b"\n" for entry in entries)
    with path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                content = b"\n" + content
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _entry(folder: RunFolder, plan: Plan, now: float) -> Entry:
    return Entry(
        run_id=plan.run_id,
        run=plan.run,
        model=plan.model.name,
        recipe=plan.recipe,
        folder=str(folder.root),
        host=socket.gethostname(),
        noted=now,
    )
