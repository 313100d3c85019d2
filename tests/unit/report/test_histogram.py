"""Bins that hold every number, and that a person can read."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.report.histogram import choose_edges, count_into

NUMBERS = st.lists(st.floats(0, 1e7, allow_subnormal=False), min_size=1, max_size=50)


@given(NUMBERS)
def test_every_number_is_in_its_bin(values: list[float]) -> None:
    """Whatever the numbers, edges ascend and the counts add up, bin by bin."""
    edges = choose_edges(values, whole=False)
    assert all(a < b for a, b in pairwise(edges))
    counts = count_into(values, edges).counts
    assert list(counts) == [sum(a <= v < b for v in values) for a, b in pairwise(edges)]
    assert sum(counts) == len(values)


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=50))
def test_whole_numbers_have_whole_edges(values: list[int]) -> None:
    """No bin between two neighbouring whole numbers, in which nothing could be; never many bins."""
    edges = choose_edges([float(value) for value in values], whole=True)
    assert all(edge == int(edge) for edge in edges)
    assert len(edges) < 45
    assert sum(count_into(values, edges).counts) == len(values)


def test_edges_a_person_can_read() -> None:
    """Ratios of the E6 series over orders of magnitude, equal widths below."""
    assert choose_edges([10.0, 900.0], whole=True) == (
        *(10, 15, 22, 33, 47, 68, 100, 150, 220, 330, 470, 680, 1000),
    )
    assert choose_edges([0.0, 2.0], whole=False)[:3] == (0.0, 0.2, 0.4)
    assert choose_edges([3.0, 5.0], whole=True) == (3, 4, 5, 6)


@pytest.mark.parametrize("values", [[], [0.0], [7.0, 7.0]])
def test_few_numbers(values: list[float]) -> None:
    """None makes no bin; equal ones make one."""
    edges = choose_edges(values, whole=True)
    assert count_into(values, edges).counts == ((len(values),) if values else ())
