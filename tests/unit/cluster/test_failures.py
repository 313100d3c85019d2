"""Failures: the kind of an error is read from its class, the lines are its evidence."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from evalkit import errors
from evalkit.cluster.failures import MAX_LINES, Failure, classify, is_retryable
from evalkit.errors import EvalkitError, Evidence, FailureKind

CASES = [
    (errors.RecipeError("x"), FailureKind.CONFIG),
    (errors.DataError("x"), FailureKind.DATA),
    (errors.PlanError("x"), FailureKind.CONFIG),
    (errors.StoreError("x"), FailureKind.STORAGE),
    (errors.ServingError("x"), FailureKind.CONFIG),
    (errors.ServerStartError("x"), FailureKind.SERVER_START),
    (errors.ServerStartError("x", kind=FailureKind.OOM), FailureKind.OOM),
    (errors.ServerDiedError("x"), FailureKind.SERVER_CRASH),
    (errors.ServerDiedError("x", kind=FailureKind.SERVER_HANG), FailureKind.SERVER_HANG),
    (errors.EndpointError("x"), FailureKind.CLIENT_ERROR),
    (errors.InfraError("x"), FailureKind.ENDPOINT),
    (errors.JudgeError("x"), FailureKind.JUDGE),
    (errors.ScorerError("x"), FailureKind.SCORER),
    (errors.ClusterError("x"), FailureKind.UNKNOWN),
    (MemoryError(), FailureKind.OOM),
    (OSError(errno.ENOSPC, "No space left on device"), FailureKind.STORAGE),
    (OSError(errno.EROFS, "Read-only file system"), FailureKind.STORAGE),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), FailureKind.OOM),
    (OSError("no number"), FailureKind.UNKNOWN),
    (ValueError("out of memory"), FailureKind.UNKNOWN),
]


@pytest.mark.parametrize(("error", "kind"), CASES, ids=lambda value: repr(value)[:40])
def test_kind_of_an_error(error: BaseException, kind: FailureKind) -> None:
    """The class says it, or whoever raised it; a text never does."""
    assert classify(error).kind is kind


def test_kind_of_what_it_was_raised_from() -> None:
    """An error that does not know its kind has that of its cause."""
    error = EvalkitError("gave up")
    error.__cause__ = OSError(errno.ENOSPC, "full")
    assert classify(error).kind is FailureKind.STORAGE
    known = errors.JudgeError("the judge failed")
    known.__cause__ = OSError(errno.ENOSPC, "full")
    assert classify(known).kind is FailureKind.JUDGE


def test_evidence_of_an_error(tmp_path: Path) -> None:
    """Lines and log are what the error brings along: redacted, and relative to the run folder."""
    log = tmp_path / "logs" / "r0" / "attempt-1" / "server.log"
    error = errors.ServerStartError(
        "the server for 'm' died (key hunter2); last lines of its log:\nlong\ntail",
        kind=FailureKind.OOM,
        evidence=Evidence(str(log), ("torch.OutOfMemoryError: hunter2", "", "  at line 1")),
    )
    found = classify(error, node="n1", log=tmp_path / "other", root=tmp_path, secrets=["hunter2"])
    assert found == Failure(
        FailureKind.OOM,
        "the server for 'm' died (key ***)",
        "n1",
        "logs/r0/attempt-1/server.log",
        ("torch.OutOfMemoryError: ***", "  at line 1"),
    )


def test_own_words_are_evidence(tmp_path: Path) -> None:
    """An error without evidence shows its own words, which are in the worker's log."""
    error = errors.StoreError("cannot write journal: No space left", hint="Free some space.")
    found = classify(error, log=Path("/elsewhere/worker.log"), root=tmp_path)
    assert found.lines == ("cannot write journal: No space left", "Free some space.")
    assert found.log == "/elsewhere/worker.log"
    assert found.reason == "cannot write journal: No space left"


def test_sentence_before_a_log() -> None:
    """The reason is a sentence, without the announcement of the log that follows it."""
    message = "the server failed: exit code 1; last lines of /a/b: c/server.log:\n(nothing)"
    assert classify(errors.ServerDiedError(message)).reason == "the server failed: exit code 1"
    assert classify(errors.ServerDiedError("it said:\nmore")).reason == "it said"
    assert classify(errors.ServerDiedError("a: b")).reason == "a: b"


def test_foreign_error() -> None:
    """An error that is not ours shows where it was raised; no log is no log."""
    try:
        raise ValueError("bad\nworse")
    except ValueError as error:
        found = classify(error)
    assert found.reason == "ValueError: bad"
    assert found.lines[-2:] == ("ValueError: bad", "worse")
    assert len(found.lines) <= MAX_LINES
    assert found.log is None
    assert classify(MemoryError()).reason == "MemoryError"


def test_what_may_be_tried_again() -> None:
    """What another node may cure is retryable; what a person must change is not."""
    never = {
        FailureKind.CONFIG,
        FailureKind.CLIENT_ERROR,
        FailureKind.CONTEXT_WINDOW,
        FailureKind.DATA,
        FailureKind.JUDGE,
        FailureKind.SCORER,
        FailureKind.UNGRADED,
        FailureKind.CANCELLED,
        FailureKind.HELD,
        FailureKind.OVER_BUDGET,
    }
    assert {kind for kind in FailureKind if not is_retryable(kind)} == never
