"""The categories of BFCL v4, the parts they belong to, and what each weighs in the overall score.

Pure. The weights are those of the official leaderboard since v4. A part that was not run is left out
and the others' weights are scaled up, under another name: counted as 0 it would cost up to 20 points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SIMPLE = ("simple_python", "simple_java", "simple_javascript")
NON_LIVE = (*SIMPLE, "multiple", "parallel", "parallel_multiple")
LIVE = ("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple")
IRRELEVANCE = ("irrelevance", "live_irrelevance")
RELEVANCE = ("live_relevance",)
MULTI_TURN = (
    "multi_turn_base",
    "multi_turn_miss_func",
    "multi_turn_miss_param",
    "multi_turn_long_context",
)
WEB_SEARCH = ("web_search_base", "web_search_no_snippet")
MEMORY = ("memory_kv", "memory_rec_sum", "memory_vector")

CATEGORIES = (*NON_LIVE, *LIVE, *IRRELEVANCE, *RELEVANCE, *MULTI_TURN, *WEB_SEARCH, *MEMORY)
"""All 22 that are scored."""

ENTRIES: Mapping[str, int] = {
    "simple_python": 400,
    "simple_java": 100,
    "simple_javascript": 50,
    "multiple": 200,
    "parallel": 200,
    "parallel_multiple": 200,
    "live_simple": 258,
    "live_multiple": 1053,
    "live_parallel": 16,
    "live_parallel_multiple": 24,
    "irrelevance": 240,
    "live_irrelevance": 884,
    "live_relevance": 16,
    **dict.fromkeys(MULTI_TURN, 200),
    **dict.fromkeys(WEB_SEARCH, 100),
    **dict.fromkeys(MEMORY, 155),
}
"""Scored entries of each category: 5106."""

PARTS: Mapping[str, float] = {
    "agentic": 0.4,
    "multi_turn": 0.3,
    "live": 0.1,
    "non_live": 0.1,
    "hallucination": 0.1,
}
"""What each part weighs in the overall score."""

GROUPS: Mapping[str, Sequence[str]] = {
    "single_turn": (*NON_LIVE, *LIVE, *IRRELEVANCE, *RELEVANCE),
    "non_live": NON_LIVE,
    "live": LIVE,
    "hallucination": (*IRRELEVANCE, *RELEVANCE),
    "multi_turn": MULTI_TURN,
    "agentic": (*WEB_SEARCH, *MEMORY),
    "web_search": WEB_SEARCH,
    "memory": MEMORY,
}
"""Names for several categories at once."""

OVERALL = "overall"
OVERALL_PARTIAL = "overall_partial"

Weights = dict[str, float]


def subset_weights(entries: Mapping[str, float]) -> dict[str, Weights]:
    """The overall score and its parts as weighted sums of categories' accuracies, overall first.

    `entries` says how many entries of which category there are. The first name is `overall` where every
    category that it consists of is there, and `overall_partial` else: a part with a missing piece then
    consists of its other pieces, and the parts that are there share the weight of the others. Empty
    where there is nothing that counts (`live_relevance` alone).
    """
    there = {name: weights for name in PARTS if (weights := _part(name, entries))}
    if not there:
        return {}
    total = sum(PARTS[name] for name in there)
    overall: Weights = {}
    for name, weights in there.items():
        for category, weight in weights.items():
            overall[category] = PARTS[name] / total * weight
    counted = set(CATEGORIES) - set(RELEVANCE)
    name = OVERALL if overall.keys() == counted else OVERALL_PARTIAL
    return {name: overall, **there, **_halves(entries)}


def _halves(entries: Mapping[str, float]) -> dict[str, Weights]:
    """Memory and web search: the agentic part is the mean of the two."""
    halves = {"memory": _equal(MEMORY, entries), "web_search": _equal(WEB_SEARCH, entries)}
    return {name: weights for name, weights in halves.items() if weights}


def _part(name: str, entries: Mapping[str, float]) -> Weights:
    if name == "live":
        total = sum(entries.get(category, 0.0) for category in LIVE)
        return {c: entries[c] / total for c in LIVE if entries.get(c)}
    if name == "agentic":
        return _mean(_equal(MEMORY, entries), _equal(WEB_SEARCH, entries))
    if name == "non_live":
        return _mean(
            _equal(SIMPLE, entries),
            *(_equal((category,), entries) for category in NON_LIVE[len(SIMPLE) :]),
        )
    return _equal(MULTI_TURN if name == "multi_turn" else IRRELEVANCE, entries)


def _equal(categories: Sequence[str], entries: Mapping[str, float]) -> Weights:
    """The plain mean of those that are there."""
    there = [category for category in categories if entries.get(category)]
    return {category: 1 / len(there) for category in there}


def _mean(*groups: Weights) -> Weights:
    """The plain mean of the groups that have something."""
    there = [group for group in groups if group]
    return {category: weight / len(there) for group in there for category, weight in group.items()}
