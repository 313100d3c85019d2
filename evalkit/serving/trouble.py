"""What is wrong with a server, as a value: of what kind, in which words, and where it can be read.

A server says why it ended in its log alone (vLLM ends with exit code 1 for a typing error and for a
lost GPU), so here, and only here, the kind is read from text: from known lines of a server that has
ended, or was not ready in time. A server that lives is never judged by its log. What is not
recognised is what the caller saw: a failed start, or a crash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from evalkit.errors import Evidence, FailureKind
from evalkit.redaction import redact
from evalkit.serving import logs

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MID_RUN = frozenset({FailureKind.OOM, FailureKind.GPU_PREFLIGHT})
"""Causes that can come over a server that worked; its options cannot have become wrong."""
MEMORY_HINT = (
    "The job ran out of the node's memory (RAM): raise cluster.mem, or run fewer servers per node."
)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a server is of no use. As a string it is the reason."""

    kind: FailureKind
    reason: str
    """A sentence; the end of the log may follow it."""
    hint: str | None = None
    cause: str | None = None
    """The line of the log that shows a known cause."""
    evidence: Evidence | None = None
    node: str | None = None
    """Where it happened, for a server of several nodes."""

    def __str__(self) -> str:
        return self.reason


def explain_death(
    reason: str, lines: list[str], log: Path, *, oom_killed: bool, secrets: Iterable[str] = ()
) -> Trouble:
    """A server that was in use and has ended; `lines` are the last of its log."""
    found = logs.find_cause(lines)
    if found is not None and found.kind not in MID_RUN:
        found = None
    base = FailureKind.SERVER_CRASH
    return _explain(base, reason, found, _Log(lines, log, tuple(secrets)), oom_killed)


def explain_start(
    reason: str, lines: list[str], log: Path, *, oom_killed: bool, secrets: Iterable[str] = ()
) -> Trouble:
    """A server that was never ready; `lines` are the last of its log."""
    found = logs.find_cause(lines)
    base = FailureKind.SERVER_START
    return _explain(base, reason, found, _Log(lines, log, tuple(secrets)), oom_killed)


class _Log(NamedTuple):
    lines: list[str]
    path: Path
    secrets: tuple[str, ...]

    def evidence(self, lines: Iterable[str]) -> Evidence:
        shown = (redact(line, self.secrets)[: logs.LINE_CHARS] for line in lines)
        return Evidence(str(self.path), tuple(shown))


def _explain(
    base: FailureKind, reason: str, found: logs.Found | None, log: _Log, oom_killed: bool
) -> Trouble:
    if oom_killed:  # whatever the log says: it was cut short
        evidence = log.evidence(logs.last_lines(log.lines))
        return Trouble(FailureKind.OOM, reason, MEMORY_HINT, None, evidence)
    if found is None:
        return Trouble(base, reason, evidence=log.evidence(logs.find_errors(log.lines)))
    cause = redact(found.line, log.secrets)[: logs.LINE_CHARS]
    return Trouble(found.kind, reason, found.hint, cause, log.evidence(found.lines))
