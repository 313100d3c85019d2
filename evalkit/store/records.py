"""What one finished model call or step is, in memory and in a journal line.

A record does nothing: it is written once, read back, and never changed. Plain dataclasses with slots
instead of pydantic: a run may hold a million of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

RECORD_VERSION = 1
RELAYED = 2**52
"""Calls of this number and above are relayed: something else made their requests, in an order of its own,
so they are not counted, and a unit names those that are its own."""


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
    cached_tokens: int | None = None
    """Those of the prompt that the server had in its cache."""


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
class Continuation:
    """A place where a generation went on after it was interrupted."""

    at: int
    """Tokens that were there; none of them was generated again."""
    seed: int | None = None
    """Seed of what follows, where one was sent: another one than before, or sampling would repeat
    the random numbers of the start."""


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One finished call of one unit."""

    sample: int
    repeat: int
    call: int
    """0 for the first call of the unit; from `RELAYED` on for those whose order is nobody's."""
    request: str
    """Hash of the request, seed included."""
    reply: Reply
    timing: Timing
    server: int = 0
    """How many servers this attempt, or that of the lender, had started before the one that answered."""
    lender: str | None = None
    """Attempt whose server answered, such as `r1.a2`, where that was a borrowed one."""
    continued: tuple[Continuation, ...] = ()
    """Interruptions that this call survived, in order."""

    @property
    def saved_tokens(self) -> int:
        """Tokens that would have been generated again without their salvage."""
        return sum(each.at for each in self.continued)


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One finished step of a unit outside of the model, such as a tool call."""

    sample: int
    repeat: int
    step: int
    """0 for the first step of the unit; calls have numbers of their own."""
    digest: str
    """Hash of the name and the arguments."""
    name: str
    result: Any
    """JSON."""
    started: float
    """When its run began, seconds since the epoch."""
    seconds: float
    """How long that took."""
    arguments: Any = None
    """JSON; null where they are too large to be written again."""


@dataclass(frozen=True, slots=True)
class PartialRecord:
    """Tokens of a call that is not finished: those since the record before, in the same journal."""

    sample: int
    repeat: int
    call: int
    request: str
    start: int
    """Tokens of the call in earlier records of this journal; 0 begins (again) from nothing."""
    tokens: tuple[int, ...]
    """Token ids."""
    prompt: tuple[int, ...] = ()
    """Token ids of the prompt, with `start` 0."""
    continued: tuple[Continuation, ...] = ()
    elapsed_s: float = 0.0
    """Time spent on the call so far (s), the attempts before included."""
    finish_reason: str | None = None
    """Where the server had ended it, and only its reading was interrupted."""
    stuck: int = 0
    """Servers in a row that failed when they were to go on from here."""
    begun: int = 0
    """How often the call was begun anew before, its tokens given up."""


@dataclass(frozen=True, slots=True)
class GradingRecord:
    """What a sandbox or a judge found about one unit's answer."""

    sample: int
    repeat: int
    solution: str
    """Hash of the answer, so that what was found about one is never taken for another's."""
    outcome: Outcome
    """`ok`, or the failure of ours that kept it from being found out."""
    found: Any = None
    """JSON that the scorer reads."""
    detail: str | None = None
    anew: bool = False
    """The judge's calls about it were of no use: they are made again."""


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
    """How many calls were made, without those that were relayed."""
    unanswered: tuple[int, ...] = ()
    """Numbers of those that the solve gave up, say because another one was faster: no record is
    missing of them."""
    relayed: tuple[int, ...] = ()
    """Numbers of the relayed calls that the unit is made of. Others of it may be journaled: a program that
    was interrupted may have asked what it did not ask again."""
    steps: int = 0
    """How many steps were begun."""
    undone: tuple[int, ...] = ()
    """Numbers of those that the solve gave up."""
    detail: str | None = None
    kind: str | None = None
    """Of a failure that is ours, its `FailureKind`."""
