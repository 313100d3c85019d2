"""Why an attempt did not end as done: one record for people, and one question for the requeue.

What an error was is read from its class and `kind`, never from its text; the log lines that come with
it are for people. What a worker cannot say of itself (killed, its node gone) is not decided here:
`evalkit.cluster.status` derives that from Slurm's accounting.
"""

from __future__ import annotations

import errno
import re
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import EvalkitError, Evidence, FailureKind
from evalkit.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Failure", "FailureKind", "classify", "is_retryable"]

MAX_LINES = 8
LINE_CHARS = 400
LOG_FOLLOWS = re.compile(r"(; last lines of .*)?:$")
"""How a sentence ends that the end of a log follows: the record has its own lines."""
STORAGE_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM}
)
RETRYABLE = frozenset(
    {
        FailureKind.SERVER_START,
        FailureKind.SERVER_CRASH,
        FailureKind.SERVER_HANG,
        FailureKind.GPU_PREFLIGHT,
        FailureKind.OOM,
        FailureKind.PREEMPTED,
        FailureKind.NODE_FAILURE,
        FailureKind.TIME_LIMIT,
        FailureKind.ENDPOINT,
        FailureKind.STORAGE,
        FailureKind.LOST,
        FailureKind.UNKNOWN,
    }
)
"""Kinds that another node or another time may cure."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure of one attempt, as records and `evalkit status --json` have it."""

    kind: FailureKind
    reason: str
    """One sentence."""
    node: str | None = None
    log: str | None = None
    """Log that shows it, relative to the run folder where it lies in there."""
    lines: tuple[str, ...] = ()
    """The lines of it that show the cause; secrets are replaced."""


def is_retryable(kind: FailureKind) -> bool:
    """Whether another attempt, best on another node, may end otherwise. The limits are others'."""
    return kind in RETRYABLE


def classify(
    error: BaseException,
    *,
    node: str | None = None,
    log: Path | None = None,
    root: Path | None = None,
    secrets: Iterable[str] = (),
) -> Failure:
    """The failure that an attempt had which ended with `error`.

    `node` is the worker's, unless the error names another; `log` is where the worker wrote the error;
    `root` is the run folder, which paths are made relative to; `secrets` are values that may appear in no record.
    """
    hidden = tuple(secrets)
    evidence = _evidence(error, log)
    lines = (redact(line, hidden)[:LINE_CHARS] for line in evidence.lines)
    return Failure(
        kind=_kind(error),
        reason=redact(_sentence(error), hidden)[:LINE_CHARS],
        node=(error.node if isinstance(error, EvalkitError) else None) or node,
        log=_relative(evidence.log, root) or None,
        lines=tuple(line for line in lines if line.strip())[-MAX_LINES:],
    )


def _kind(error: BaseException) -> FailureKind:
    """Of the error, or of what it was raised from when that is more telling."""
    if isinstance(error, EvalkitError) and error.kind is not FailureKind.UNKNOWN:
        return error.kind
    if isinstance(error, MemoryError):
        return FailureKind.OOM
    if isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
        return FailureKind.STORAGE
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return FailureKind.OOM
    return FailureKind.UNKNOWN if error.__cause__ is None else _kind(error.__cause__)


def _sentence(error: BaseException) -> str:
    """The first line of what it says; an error that is not ours is named by its class."""
    if isinstance(error, EvalkitError):
        return LOG_FOLLOWS.sub("", error.message.partition("\n")[0])
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _evidence(error: BaseException, log: Path | None) -> Evidence:
    """What the error brings along; else its own words, which the worker's log has."""
    where = "" if log is None else str(log)
    if isinstance(error, EvalkitError):
        return error.evidence or Evidence(where, tuple(str(error).splitlines()))
    frames = traceback.format_exception(error)
    return Evidence(where, tuple("".join(frames).splitlines()))


def _relative(path: str, root: Path | None) -> str:
    inside = root is not None and path and Path(path).is_relative_to(root)
    return str(Path(path).relative_to(root)) if inside and root is not None else path
