"""What one finished model call is, in memory and in a journal line.

A record does nothing: it is written once, read back, and never changed. Plain dataclasses with slots
instead of pydantic: a run may hold a million of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

RECORD_VERSION = 1


class Outcome(StrEnum):
    """What became of a call or a unit. The model's own outcomes are scored; ours never are."""

    OK = "ok"
    TRUNCATED = "truncated"
    EMPTY = "empty"
    CONTEXT_OVERFLOW = "context_overflow"
    REFUSED = "refused"
    INFRA_ERROR = "infra_error"
    JUDGE_ERROR = "judge_error"
    SCORER_ERROR = "scorer_error"

    @property
    def is_models_own(self) -> bool:
        """The model did it, so it counts; otherwise the unit is still owed."""
        return self not in (Outcome.INFRA_ERROR, Outcome.JUDGE_ERROR, Outcome.SCORER_ERROR)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, as the server counted them; null where it did not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model answered to one call."""

    outcome: Outcome
    content: str
    """Content without reasoning; "" where the server sent null."""
    reasoning: str | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()
    finish_reason: str | None = None
    usage: Usage = field(default_factory=Usage)
    logprobs: dict[str, Any] | None = None
    detail: str | None = None
    """Why the outcome is not ok, in the server's words (a 400's message, a refusal)."""


@dataclass(frozen=True, slots=True)
class Timing:
    """When a call was sent (seconds since the epoch), and how long it took with its retries (s)."""

    started: float
    latency_s: float
    retries: int = 0


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One finished call of one unit."""

    sample: int
    repeat: int
    call: int
    """0 for the first call of the unit."""
    request: str
    """Hash of the request, model id and seed included."""
    reply: Reply
    timing: Timing
    server: int = 0
    """How many servers this attempt had started before the one that answered."""


@dataclass(frozen=True, slots=True)
class UnitRecord:
    """The end of a many-call unit: what its solve returned."""

    sample: int
    repeat: int
    outcome: Outcome
    text: str
    """What the scorer reads."""
    data: Any = None
    """JSON that the scorer reads besides the text."""
    calls: int = 0
    detail: str | None = None
