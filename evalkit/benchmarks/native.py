"""What another harness found about a whole task: its numbers, its samples, its versions.

Values only. The numbers are the harness's own, under its own names; evalkit adds nothing to them here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evalkit.base import Frozen
from evalkit.store.records import Outcome, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class NativeMetric(Frozen):
    """One number of a harness."""

    subset: str
    """The task or group of the harness that it is of; "" where there is just one."""
    name: str
    """As the harness calls it, with its filter: `exact_match,strict-match`."""
    value: float
    stderr: float | None = None
    """The harness's own standard error."""
    n_samples: int | None = None
    """Samples behind it, where the harness says so."""
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True)
class NativeSample:
    """One answer to one item as the harness scored it: a line of samples.jsonl.zst."""

    id: str
    """Stable, and with `subset` unique in the task."""
    repeat: int
    scores: Mapping[str, float]
    """By the names of the metrics."""
    subset: str | None = None
    messages: Sequence[Mapping[str, Any]] = ()
    """What was asked; a plain prompt is one message of role `user`."""
    content: str = ""
    """What was answered."""
    reasoning: str | None = None
    answer: str | None = None
    """What the harness extracted."""
    target: Any = None
    outcome: Outcome = Outcome.OK
    usage: Usage = field(default_factory=Usage)
    data: Any = None
    """JSON that the harness tells besides."""


@dataclass(frozen=True, slots=True)
class NativeResult:
    """Everything a harness found about a task."""

    metrics: Sequence[NativeMetric]
    headline: tuple[str, str]
    """Subset and name of the metric that stands for the task."""
    versions: Mapping[str, str]
    """Of the harness's package, its tasks, and what else decides a number."""
    samples: Sequence[NativeSample] = ()
    """By subset, item, then repeat; none where the harness does not tell them."""
    n_samples: int | None = None
    """Items that the harness counts; null where it does not say."""
    repeats: int = 1
    """Answers to each of them; of several tasks with different numbers, the least."""
    problems: Sequence[str] = ()
    """What a person should know about these numbers."""
