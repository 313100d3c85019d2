"""What a run's folder says about how it was made: provenance, servers, GPU time.

Read only, and tolerant: these files explain a score, none of them moves it. What cannot be read is
named as a problem, not guessed.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from evalkit.report.results import ServerFacts

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.store.layout import RunFolder

_ATTEMPT = re.compile(r"attempt-(\d+)")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """How a run was made."""

    made_by: dict[str, Any] | None
    servers: tuple[ServerFacts, ...]
    problems: tuple[str, ...] = ()

    @property
    def gpu_seconds(self) -> float | None:
        """Sum over all servers of GPUs times seconds; null when one did not say, or had no GPU."""
        return sum_gpu_seconds(self.servers)


def read_run_facts(folder: RunFolder) -> RunFacts:
    """The facts of all attempts, by replica, then attempt."""
    problems: list[str] = []
    made_by = _read_object(folder.provenance, problems)
    servers = read_servers(folder, problems)
    return RunFacts(made_by, servers, tuple(_within(folder, problem) for problem in problems))


def read_servers(folder: RunFolder, problems: list[str]) -> tuple[ServerFacts, ...]:
    """What all attempts below a folder's logs recorded about servers, by replica, then attempt."""
    logs = folder.stdout.parent
    found = [
        (path.parent.parent.name, int(match[1]), path)
        for path in logs.glob("*/attempt-*/server.json")
        if (match := _ATTEMPT.fullmatch(path.parent.name))
    ]
    return tuple(
        ServerFacts(replica=replica, attempt=attempt, facts=row)
        for replica, attempt, path in sorted(found, key=lambda x: (len(x[0]), x[0], x[1]))
        for row in _read_rows(path, problems)
    )


def _within(folder: RunFolder, problem: str) -> str:
    return problem.removeprefix(f"{folder.root}/")


def sum_gpu_seconds(servers: tuple[ServerFacts, ...]) -> float | None:
    """Number of `gpus` x (`ended` - `started`) over all servers that used GPUs.

    Null without GPUs, and null when a server with GPUs has no end: an attempt that was killed, or
    still runs, has used an amount of time that nobody wrote down.
    """
    parts = []
    for server in servers:
        facts = server.facts
        gpus = len(facts.get("gpus") or ())
        if not gpus:
            continue
        if facts.get("started") is None or facts.get("ended") is None:
            return None
        parts.append(gpus * (facts["ended"] - facts["started"]))
    return math.fsum(parts) if parts else None


def _read_object(path: Path, problems: list[str]) -> dict[str, Any] | None:
    try:
        value = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, orjson.JSONDecodeError) as error:
        problems.append(f"{path}: {error}")
        return None
    if not isinstance(value, dict):
        problems.append(f"{path}: expected a JSON object")
        return None
    return value


def _read_rows(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """A row per server; a line `{"ended": ...}` belongs to the server before it."""
    rows: list[dict[str, Any]] = []
    try:
        content = path.read_bytes()
    except OSError as error:
        problems.append(f"{path}: {error}")
        return []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            problems.append(f"{path}:{number}: {error}")
            continue
        if not isinstance(row, dict):
            problems.append(f"{path}:{number}: expected a JSON object")
        elif rows and row.keys() == {"ended"}:
            rows[-1] |= row
        else:
            rows.append(row)
    return rows
