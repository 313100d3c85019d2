"""Every error evalkit raises on purpose, and the exit code it ends a command with.

Vocabulary: an error is a sentence that says what was wrong and where, plus a `hint` that says what is
allowed or what to do next. Code branches on the class or on its `kind`, never on the text. Only
`evalkit.cli` catches `EvalkitError`; everything below lets it pass or turns a foreign exception into
one of these at the border where it happened. The `kind` says what sort of failure an attempt that
ends with the error has had; where the class alone does not tell, whoever raises it says.

    EvalkitError                  1
    ├── UsageError                2   a command line that cannot mean anything
    ├── RecipeError               2   what the user wrote in YAML or with -o
    │   └── IncompleteCheckpointError  2   a folder that is no whole checkpoint, or not yet
    ├── DataError                 3   a data set is missing, gated, altered or broken
    ├── PlanError                 4   a recipe that cannot become a plan
    │   └── FingerprintMismatchError   4   an existing run was made with other settings
    ├── StoreError                5   the run folder cannot be read or written
    ├── ServingError              6   the model cannot be served
    │   ├── ServerStartError      6   the server died or never became ready
    │   ├── ServerDiedError       6   the server ended or hung while in use
    │   └── EndpointError         6   the endpoint answers, but not what was asked of it
    ├── InfraError                7   one call got no answer; never scored, owed again
    │   └── ProgramHungError      7   a program that asks the model does nothing any more
    ├── ScorerError               8   a grader failed; never scored as wrong
    ├── JudgeError                8   a judge failed; never scored as wrong
    ├── ClusterError              9   Slurm refused, or is not there
    └── IncompleteError          10   units are missing, so there is no headline

Codes from 11 on are verdicts of a command that did what it was asked: `evalkit.report.compare` and
`evalkit.report.verify` name them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, NamedTuple


class FailureKind(StrEnum):
    """Why an attempt did not end as done: one word, the same in records, status and documents."""

    SERVER_START = "server_start"
    """The server ended before it was ready, was not ready in time, or found no port."""
    SERVER_CRASH = "server_crash"
    """The server ended while calls were in flight."""
    SERVER_HANG = "server_hang"
    """The server lives and produces nothing, or does not end."""
    GPU_PREFLIGHT = "gpu_preflight"
    """The node's GPUs or their driver are of no use."""
    OOM = "oom"
    """Memory of a GPU, of the node, or the job's share of it ran out."""
    CONFIG = "config"
    """The recipe, the checkpoint or the installation cannot work as they are."""
    PREEMPTED = "preempted"
    NODE_FAILURE = "node_failure"
    TIME_LIMIT = "time_limit"
    OVER_BUDGET = "over_budget"
    """The run's own limits of hours or failures were reached."""
    CANCELLED = "cancelled"
    HELD = "held"
    """The job waits for somebody to release it."""
    ENDPOINT = "endpoint"
    """The endpoint gives no usable answers: refused connections, 429, 5xx, time after time."""
    CLIENT_ERROR = "client_error"
    """The endpoint refuses what is asked of it."""
    CONTEXT_WINDOW = "context_window"
    DATA = "data"
    JUDGE = "judge"
    SCORER = "scorer"
    UNGRADED = "ungraded"
    """Answers that nobody grades though they need it."""
    STORAGE = "storage"
    """The run folder cannot be read or written: full, read-only, gone."""
    LOST = "lost"
    """It ended without a word, and nobody else knows how."""
    UNKNOWN = "unknown"


class Evidence(NamedTuple):
    """Where a failure can be read: a log, and the lines of it that show the cause."""

    log: str
    """Path."""
    lines: tuple[str, ...]


class EvalkitError(Exception):
    """Base of all: `message` says what and where, `hint` (optional) what to do next.

    `kind` is the class's own unless it is given; `evidence` are the log lines that show the cause;
    `node` is where it happened, when that is not the node that raises it.
    """

    exit_code: ClassVar[int] = 1
    kind: FailureKind = FailureKind.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        kind: FailureKind | None = None,
        evidence: Evidence | None = None,
        node: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if kind is not None:
            self.kind = kind
        self.evidence = evidence
        self.node = node

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n{self.hint}"


class UsageError(EvalkitError):
    """The command line asks for something that does not exist."""

    exit_code = 2
    kind = FailureKind.CONFIG


class RecipeError(EvalkitError):
    """A recipe, a template or an override is not valid."""

    exit_code = 2
    kind = FailureKind.CONFIG


class IncompleteCheckpointError(RecipeError):
    """A checkpoint's folder lacks something, or is still being written."""


class DataError(EvalkitError):
    """A data set is missing, gated, altered or broken."""

    exit_code = 3
    kind = FailureKind.DATA


class PlanError(EvalkitError):
    """A valid recipe that cannot be turned into a plan."""

    exit_code = 4
    kind = FailureKind.CONFIG


class FingerprintMismatchError(PlanError):
    """The run folder holds a plan made with other settings; `differences` names the keys."""

    def __init__(
        self, message: str, differences: dict[str, tuple[str, str]], *, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.differences = differences


class StoreError(EvalkitError):
    """The run folder cannot be read or written as it must be."""

    exit_code = 5
    kind = FailureKind.STORAGE


class ServingError(EvalkitError):
    """The model cannot be served."""

    exit_code = 6
    kind = FailureKind.CONFIG


class ServerStartError(ServingError):
    """The server died before it was ready, or was not ready in time."""

    kind = FailureKind.SERVER_START


class ServerDiedError(ServingError):
    """The server ended, or stopped making progress, while calls were in flight."""

    kind = FailureKind.SERVER_CRASH


class EndpointError(ServingError):
    """The endpoint answers, but refuses us or serves another model."""

    kind = FailureKind.CLIENT_ERROR


class InfraError(EvalkitError):
    """One call got no usable answer after all retries. The unit stays owed."""

    exit_code = 7
    kind = FailureKind.ENDPOINT


class ProgramHungError(InfraError):
    """A program that asks the model was ended, for it did nothing any more. The unit stays owed."""

    kind = FailureKind.CONFIG


class ScorerError(EvalkitError):
    """A grader failed on a unit. The unit has no score; it is not wrong."""

    exit_code = 8
    kind = FailureKind.SCORER


class JudgeError(EvalkitError):
    """A judge failed on a unit. The unit has no score; it is not wrong."""

    exit_code = 8
    kind = FailureKind.JUDGE


class ClusterError(EvalkitError):
    """Slurm is not there, or refused what was asked."""

    exit_code = 9


class IncompleteError(EvalkitError):
    """Planned units have no outcome to score."""

    exit_code = 10
