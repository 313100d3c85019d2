"""Faults of storage that pass, and one that does not."""

from __future__ import annotations

import errno
from typing import NoReturn

import pytest

from evalkit.cluster.passing_faults import PASSES_WITHIN_S, PassingFaults
from evalkit.errors import StoreError


def broken() -> NoReturn:
    raise StoreError("cannot read the journal")


def stale() -> NoReturn:
    raise OSError(errno.ESTALE, "Stale file handle")


def test_a_fault_that_passes() -> None:
    """It is returned, told from a repeated one, and forgotten at the next good look."""
    now = [0.0]
    faults = PassingFaults(lambda: now[0])
    for _ in range(3):
        assert isinstance(faults.look(broken), StoreError)
        assert faults.is_first
        now[0] += PASSES_WITHIN_S - 1
        assert str(faults.look(stale)) == "cannot read the run: Stale file handle"
        assert not faults.is_first
        now[0] += 2
        assert faults.look(lambda: 3) == 3
        assert not faults.is_first


def test_a_fault_that_stays() -> None:
    """After a while it is raised, whatever it is by then."""
    now = [0.0]
    faults = PassingFaults(lambda: now[0])
    faults.look(broken)
    now[0] = PASSES_WITHIN_S
    with pytest.raises(StoreError, match="Stale"):
        faults.look(stale)
