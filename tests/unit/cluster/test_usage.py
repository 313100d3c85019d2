"""GPU-hours: what was held, what of it led to nothing, and what is left."""

from __future__ import annotations

import pytest

from evalkit.cluster.usage import HOUR_S, Usage, count_usage, wasted_s
from tests.unit.cluster.test_attempts import make_record

HOUR = {"started": 0.0, "last": HOUR_S, "ended": HOUR_S}
BUSY = {**HOUR, "units": 10, "startup_s": 600.0, "restart_s": 300.0}


def test_first_start_is_no_waste() -> None:
    """A replica has to load its model once; loading again after a server died is waste."""
    assert wasted_s(make_record(**BUSY), None, is_over=True) == 300.0


@pytest.mark.parametrize(
    ("end", "wasted"), [("done", 300.0), ("drained", 900.0), ("failed", 900.0), (None, 900.0)]
)
def test_start_after_an_interruption(end: str | None, wasted: float) -> None:
    """A start that was paid before is waste, unless the replica had done all there was."""
    assert wasted_s(make_record(**BUSY), make_record(end=end), is_over=True) == wasted


def test_nothing_kept() -> None:
    """An attempt that kept nothing is waste as a whole, but only once it is over."""
    fruitless = make_record(**{**BUSY, "units": 0})
    assert wasted_s(fruitless, None, is_over=True) == HOUR_S
    assert wasted_s(fruitless, None, is_over=False) == 300.0
    assert (
        wasted_s(make_record(**{**BUSY, "units": 0, "completion_tokens": 1}), None, is_over=True)
        == 300.0
    )


def test_no_more_than_all_is_wasted() -> None:
    """A clock that was set back makes no attempt waste more than it took."""
    short = make_record(**{**BUSY, "ended": 60.0})
    assert wasted_s(short, make_record(), is_over=True) == 60.0


def test_hours_of_a_run() -> None:
    """GPUs over all nodes count; what is left is for those that work now."""
    attempts = [
        make_record("r0", 1, **{**HOUR, "gpus": 8}),
        make_record("r0", 2, **{**BUSY, "gpus": 8, "ended": None}),
        make_record("r1", 1, **{**BUSY, "gpus": 4, "restart_s": 0.0}),
    ]
    found = count_usage(attempts, frozenset({"r0.a2"}), 1800.0)
    assert found == Usage("gpu", 20.0, 8.0 + 8 * 900.0 / HOUR_S, 4.0)
    assert count_usage(attempts, frozenset(), 1800.0).left_h is None
    assert count_usage(attempts, frozenset({"r0.a2"}), None).left_h is None


def test_hours_without_gpus() -> None:
    """A run without GPUs counts its nodes."""
    attempts = [make_record(**{**BUSY, "gpus": 0, "nodes": ("n1", "n2")})]
    assert count_usage(attempts, frozenset(), None) == Usage("node", 2.0, 600.0 / HOUR_S, None)
    assert count_usage([], frozenset(), None) == Usage("node", 0.0, 0.0, None)
