"""Orders to stop, from signal handlers and timers of this process to its worker.

A process has one worker at a time. An order that comes before there is one is kept for the next: between
the handlers' installation and the worker's start a plan is loaded, which can take seconds.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from evalkit.cluster.drain import grace_before_end

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evalkit.cluster.worker import Worker

DRAIN_WAIT_S = 25.0
"""Longest stay in the handler of a TERM: below Slurm's KillWait, 30 s by default."""
END_REQUEUE_S = 10.0
"""What the handler of the signal before a job's end leaves of the job, for its requeue."""

_current: Worker | None = None
_pending: str | None = None
"""Why to stop, said before there was a worker."""


def request_drain(reason: str, wait_s: float = DRAIN_WAIT_S) -> None:
    """Stop leasing, finish what fits into the grace period, flush, stop the server.

    Safe in a signal handler; returns when that is done or `wait_s` are over. Where no worker runs the
    next one stops at its start.
    """
    if (worker := _current) is None:
        _keep(reason)
    else:
        worker.drain.request(reason)
        worker.wait(wait_s)


def drain_before_end(reason: str) -> None:
    """`request_drain` when the job is near its end: calls may take what time is left to it."""
    if (worker := _current) is None:
        _keep(reason)
    else:
        left_s = worker.time_left()
        worker.drain.request(reason, grace_before_end(left_s, worker.shutdown_s))
        worker.wait(max(0.0, left_s - END_REQUEUE_S))


def _keep(reason: str) -> None:
    global _pending
    _pending = _pending or reason
    if (
        worker := _current
    ) is not None:  # it began in this moment, and may not have seen the reason
        worker.drain.request(reason)


@contextlib.contextmanager
def replica_begins() -> Iterator[None]:
    """Orders kept so far are for the replica of this block; none outlives it."""
    global _current, _pending
    try:
        yield
    finally:
        _current = _pending = None


def take_orders(worker: Worker) -> None:
    """Orders are for this worker from now on, and so is one that came before."""
    global _current
    _current = worker
    if _pending is not None:
        worker.drain.request(_pending)
