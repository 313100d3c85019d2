"""GPU-hours of a run: used, wasted, and left, from the records of its attempts.

*Used* is what was held: GPUs times the time from an attempt's start to its end (or to when it was last
heard). *Wasted* is the part of it that led to nothing or had to be paid twice:

- the whole of an attempt that finished no unit and kept no token;
- in other attempts, the time in which a server was loaded again after one had been ready;
- and the time before the first server was ready, where the replica's attempt before did not end as
  done: that start was paid already, and is paid again because something failed or was preempted.

Not in it: a node that idles while its last calls end, or work that two replicas did twice; and, neither
in it nor in *used*, a job whose worker never started, of which no attempt tells. *Left* is
the time left at the present rate, times the GPUs that work now. A run without GPUs counts nodes. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from evalkit.cluster.attempts import AttemptRecord

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Hours of GPUs, or of nodes where no attempt had a GPU."""

    unit: Literal["gpu", "node"]
    used_h: float
    wasted_h: float
    left_h: float | None
    """Estimate; null when nothing works or its rate is not known."""
    cost: float | None = None
    """What answered calls cost so far, by the recipe's prices; null where nothing has a price."""


def count_usage(
    attempts: Sequence[AttemptRecord], working: frozenset[str], eta_s: float | None
) -> Usage:
    """Usage of a run. `working`: attempts that work now (`r0.a1`); `eta_s`: time until all is done."""
    unit: Literal["gpu", "node"] = "gpu" if any(a.gpus for a in attempts) else "node"
    held = {a.id: a.gpus if unit == "gpu" else len(a.nodes) for a in attempts}
    used = sum(a.wall_s * held[a.id] for a in attempts)
    wasted = sum(
        wasted_s(a, before, is_over=a.id not in working) * held[a.id]
        for a, before in _with_previous(attempts)
    )
    busy = sum(held[a.id] for a in attempts if a.id in working)
    left = None if eta_s is None or not busy else eta_s * busy / HOUR_S
    cost = sum(a.cost for a in attempts) or None
    return Usage(unit, used / HOUR_S, wasted / HOUR_S, left, cost)


def wasted_s(attempt: AttemptRecord, before: AttemptRecord | None, *, is_over: bool) -> float:
    """Time (s) of an attempt that led to nothing, `before` being the replica's attempt before.

    One that still runs may yet be worth it: only what it paid twice counts until it ends.
    """
    if is_over and not attempt.has_kept:
        return attempt.wall_s
    again = before is not None and before.end != "done"
    return min(attempt.wall_s, attempt.restart_s + (attempt.startup_s if again else 0.0))


def _with_previous(
    attempts: Iterable[AttemptRecord],
) -> Iterable[tuple[AttemptRecord, AttemptRecord | None]]:
    last: dict[str, AttemptRecord] = {}
    for attempt in attempts:
        yield attempt, last.get(attempt.replica)
        last[attempt.replica] = attempt
