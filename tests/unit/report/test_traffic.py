"""What traffic.json keeps of calls: nothing is lost in bins, whatever their width."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.plan.model import UnitKey
from evalkit.report.traffic import MAX_BINS, Bins, Traffic, TrafficTally, cover
from evalkit.store.records import CallRecord, Outcome, Reply, Timing, Usage
from tests.unit.report.run_builder import make_call, make_run

CALLS = st.lists(
    st.tuples(st.floats(1.7e9, 1.7e9 + 1e6), st.floats(0, 1e5), st.integers(0, 10_000)),
    min_size=1,
    max_size=30,
)


def call(start: float, latency: float, tokens: int | None) -> CallRecord:
    """A finished call at a time."""
    reply = Reply(Outcome.OK, "", usage=Usage(1, tokens))
    return CallRecord(0, 0, 0, "hash", reply, Timing(start, latency))


@given(CALLS)
def test_bins_hold_all_tokens_and_all_time(calls: list[tuple[float, float, int]]) -> None:
    """The bins add up to the tokens and to the seconds of all calls."""
    tally = TrafficTally()
    for start, latency, tokens in calls:
        tally.add(call(start, latency, tokens), truncated=False)
    traffic = tally.traffic("t")
    width = traffic.width_s
    assert len(traffic.finished) <= MAX_BINS
    assert sum(traffic.finished) == len(calls)
    about = pytest.approx(sum(c[2] for c in calls), abs=1e-3 * width * MAX_BINS)
    assert sum(traffic.tokens_per_s) * width == about
    about = pytest.approx(sum(c[1] for c in calls), abs=1e-3 * width * MAX_BINS)
    assert sum(traffic.in_flight) * width == about


def test_an_amount_is_spread_over_its_time() -> None:
    """10 from 0.5 to 5.5: 1 in the first half second, 2 in each second, 1 in the last half."""
    for width, rates in ((1, [1, 2, 2, 2, 2, 1]), (3, [5 / 3, 5 / 3])):
        bins = Bins(100, width, 6 // width)
        bins.add(100.5, 105.5, 10.0)
        assert bins.rates() == pytest.approx(rates, abs=1e-3)


@pytest.mark.parametrize("span", [0.0, 1.0, 239.0, 241.0, 86_400.0, 3e8])
def test_bins_cover_any_span(span: float) -> None:
    """At most 240 bins, the last of which holds the end."""
    start, width, n = cover(1_000.5, 1_000.5 + span)
    assert 1 <= n <= MAX_BINS
    assert start <= 1_000.5
    assert start + (n - 1) * width <= 1_000.5 + span < start + n * width


def test_a_gather_publishes_the_traffic_of_scored_units(tmp_path: Path) -> None:
    """8 calls of a second each; the truncated one apart, and a call without counts in no length."""
    run = make_run(tmp_path)
    keys = run.units()
    cut = make_call(keys[0], "no", outcome=Outcome.TRUNCATED, usage=Usage(1, 900))
    unknown = run.answer(keys[1], usage=Usage())
    run.write([cut, unknown, *(run.answer(key) for key in keys[2:])])
    run.gather()
    traffic = Traffic.model_validate_json(run.folder.traffic("echo").read_bytes())
    assert (traffic.start, traffic.width_s, sum(traffic.finished)) == (0, 1, 8)
    assert traffic.in_flight == (8.0, 0.0)
    assert traffic.tokens_per_s == (930.0, 0.0)
    assert sum(traffic.completion_tokens.counts) == 6
    assert traffic.truncated_tokens.counts[-1] == 1
    assert traffic.truncated_tokens.edges == traffic.completion_tokens.edges
    assert sum(traffic.latency_s.counts) == 8


def test_no_call_is_no_traffic(tmp_path: Path) -> None:
    """Nothing finished: no start, no bin."""
    run = make_run(tmp_path)
    run.write([make_call(UnitKey(0, 0), "", outcome=Outcome.INFRA_ERROR)])
    run.gather()
    traffic = Traffic.model_validate_json(run.folder.traffic("echo").read_bytes())
    assert (traffic.start, traffic.finished, traffic.latency_s.edges) == (None, (), ())
