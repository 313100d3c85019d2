"""Whatever the attempts did, in whatever order: the same answers give the same artifacts."""

import tempfile
from functools import cache
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.plan.model import UnitKey
from evalkit.report.results import Results
from tests.unit.report.run_builder import TestRun, make_failure, make_run

N, K = 4, 2
UNITS = [UnitKey(i, j) for j in range(K) for i in range(N)]
FEW = settings(max_examples=30, deadline=None)


def text_of(key: UnitKey) -> str | None:
    """A fixed answer per unit: some right, some wrong."""
    return "no" if (key.sample + key.repeat) % 3 == 0 else None


def gather(run: TestRun) -> tuple[Results, tuple[bytes, bytes]]:
    """Results, and the artifacts that must not depend on how the work was done."""
    results = run.gather()
    return results, run.artifact_bytes()


@cache
def undisturbed() -> tuple[Results, tuple[bytes, bytes]]:
    """One attempt that did everything in plan order."""
    with tempfile.TemporaryDirectory() as root:
        run = make_run(Path(root), N, repeats=K)
        run.write(run.answer(key, text_of(key)) for key in UNITS)
        return gather(run)


@FEW
@given(
    order=st.permutations(UNITS),
    attempts=st.lists(
        st.sampled_from(["r0.a1", "r0.a2", "r1.a1", "r10.a1"]), min_size=8, max_size=8
    ),
    again=st.lists(st.sampled_from(UNITS)),
    failed=st.lists(st.sampled_from(UNITS)),
    n_shards=st.integers(1, 8),
)
def test_order_attempts_shards_and_duplicates_change_nothing(
    order: list[UnitKey],
    attempts: list[str],
    again: list[UnitKey],
    failed: list[UnitKey],
    n_shards: int,
) -> None:
    """Any interleaving of attempts, with failures and repeated work, equals an undisturbed run."""
    expected, artifacts = undisturbed()
    with tempfile.TemporaryDirectory() as root:
        run = make_run(Path(root), N, repeats=K, n_shards=n_shards)
        for key in failed:
            run.write([make_failure(key)], "r0.a0")
        for key, attempt in zip(order, attempts, strict=True):
            run.write([run.answer(key, text_of(key))], attempt)
        for key in again:
            run.write([run.answer(key, text_of(key))], "r2.a1")
        results, found = gather(run)
    assert found == artifacts
    assert results.headline == expected.headline
    assert results.tokens == expected.tokens
    assert results.latency_s == expected.latency_s
    assert results.counts.duplicates == len(again)


@FEW
@given(missing=st.sets(st.sampled_from(UNITS), min_size=1), failed=st.sets(st.sampled_from(UNITS)))
def test_missing_units_never_become_zeros(missing: set[UnitKey], failed: set[UnitKey]) -> None:
    """With any units missing there is no headline, and its bounds hold what it turns out to be."""
    expected, _ = undisturbed()
    with tempfile.TemporaryDirectory() as root:
        run = make_run(Path(root), N, repeats=K)
        run.write(make_failure(key) for key in failed & missing)
        run.write(run.answer(key, text_of(key)) for key in UNITS if key not in missing)
        results = run.gather()
        lines = run.read_samples()
        run.write((run.answer(key, text_of(key)) for key in missing), "r0.a2")
        finished = run.gather()
    assert results.headline.value is None
    assert results.metrics is None
    assert results.missing.count == len(missing) == len(UNITS) - len(lines)
    named = {(unit.sample, unit.repeat) for unit in results.missing.first}
    assert named == {(f"s{key.sample}", key.repeat) for key in missing}
    reasons = {reason: part.count for reason, part in results.missing.by_reason.items()}
    assert reasons.get("infra_error", 0) == len(failed & missing)
    bounds, value = results.headline.bounds, expected.headline.value
    assert bounds is not None
    assert value is not None
    assert bounds.low <= value <= bounds.high
    assert bounds.high - bounds.low == len(missing) / len(UNITS)
    assert finished.headline == expected.headline


@FEW
@given(cut=st.integers(1, 2000), n_shards=st.integers(1, 2))
def test_a_journal_cut_anywhere_loses_only_what_was_cut(cut: int, n_shards: int) -> None:
    """Scored units are those whose whole line is left; the others are missing, none is wrong."""
    with tempfile.TemporaryDirectory() as root:
        run = make_run(Path(root), N, repeats=K, n_shards=n_shards)
        run.write(run.answer(key) for key in UNITS)
        whole = 0
        for shard in run.task.shards():
            path = run.folder.journal(shard, "r0.a1")
            content = path.read_bytes()
            path.write_bytes(content[:-cut] if cut < len(content) else b"")
            whole += max(path.read_bytes().count(b"\n") - 1, 0)
        results = run.gather()
    assert results.counts.scored == whole
    assert results.counts.missing == len(UNITS) - whole
    assert results.headline.value is None
    if results.headline.bounds is not None:
        assert results.headline.bounds.high == 1.0
