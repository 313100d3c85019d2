"""The weights of BFCL's overall score against the vectors, and with parts that were not run."""

from __future__ import annotations

import math

import pytest

from evalkit.scoring.bfcl_categories import (
    CATEGORIES,
    ENTRIES,
    GROUPS,
    MEMORY,
    OVERALL,
    OVERALL_PARTIAL,
    PARTS,
    WEB_SEARCH,
    subset_weights,
)
from tests.unit.vectors import Row, load_rows


@pytest.mark.parametrize("row", load_rows("bfcl", kind="overall"), ids=lambda row: row.id)
def test_scores_combine_as_in_the_vectors(row: Row) -> None:
    """The overall score and every part, from all 22 accuracies."""
    weights = subset_weights(row.input["num_entries"])
    accuracy = row.input["accuracy"]
    found = {
        name: math.fsum(w * accuracy[category] for category, w in of.items())
        for name, of in weights.items()
    }
    assert found == pytest.approx(row.expected, abs=1e-9)
    assert next(iter(weights)) == OVERALL


def test_the_categories_are_the_published_ones() -> None:
    """22 with 5106 entries; the groups name no other."""
    assert (len(CATEGORIES), len(set(CATEGORIES)), sum(ENTRIES.values())) == (22, 22, 5106)
    assert {name for group in GROUPS.values() for name in group} == set(CATEGORIES)


def test_parts_that_were_not_run_give_their_weight_to_the_others() -> None:
    """Without the agentic part each other part weighs 1/0.6 of its own, under another name."""
    entries = {c: n for c, n in ENTRIES.items() if c not in (*MEMORY, *WEB_SEARCH)}
    weights = subset_weights(entries)
    assert next(iter(weights)) == OVERALL_PARTIAL
    assert weights[OVERALL_PARTIAL]["multi_turn_base"] == pytest.approx(0.3 / 0.6 / 4)
    assert "agentic" not in weights
    assert "memory" not in weights


def test_half_a_part_stands_for_it() -> None:
    """Without web search and the vector memory the agentic part is the mean of two memories."""
    entries = {c: n for c, n in ENTRIES.items() if c not in (*WEB_SEARCH, "memory_vector")}
    weights = subset_weights(entries)
    assert next(iter(weights)) == OVERALL_PARTIAL
    assert weights["agentic"] == pytest.approx({"memory_kv": 0.5, "memory_rec_sum": 0.5})
    assert weights[OVERALL_PARTIAL]["memory_kv"] == pytest.approx(PARTS["agentic"] / 2)


@pytest.mark.parametrize("without", [None, *CATEGORIES])
def test_weights_add_up_to_one(without: str | None) -> None:
    """Whatever is missing; and what counts nowhere changes nothing."""
    entries = {c: n for c, n in ENTRIES.items() if c != without}
    weights = subset_weights(entries)
    assert all(math.fsum(of.values()) == pytest.approx(1.0) for of in weights.values())
    complete = without in (None, "live_relevance")
    assert next(iter(weights)) == (OVERALL if complete else OVERALL_PARTIAL)


def test_what_counts_nowhere_has_no_overall_score() -> None:
    """`live_relevance` alone has its accuracy and nothing else."""
    assert subset_weights({"live_relevance": 16.0}) == {}
