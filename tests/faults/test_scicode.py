"""SciCode's chains through the real worker: a kill between steps costs the calls in flight and no more."""

from __future__ import annotations

import signal
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from evalkit.benchmarks.frozen import load_frozen
from evalkit.store.codec import decode
from evalkit.store.reading import read_journal
from evalkit.store.records import Outcome, UnitRecord
from evalkit.store.run import load_plan
from evalkit.store.union import list_journals
from tests.faults.harness import PARALLELISM, Place, journaled_calls, serving, wait_for
from tests.unit.vectors import SHARED

if TYPE_CHECKING:
    from pathlib import Path

N_PROBLEMS = 20
TASKS = {"scicode": {"data": {"path": str(SHARED / "scicode")}, "limit": N_PROBLEMS, "repeats": 1}}


def unit_records(place: Place) -> list[UnitRecord]:
    """The ends of all units in the journals."""
    plan = load_plan(place.folder)
    [task] = plan.tasks
    return [
        record
        for shard in task.shards()
        for path in list_journals(place.folder, shard)
        for record in map(decode, read_journal(path, plan, shard, []))
        if isinstance(record, UnitRecord)
    ]


@pytest.mark.parametrize("answered", [40, pytest.param(5, marks=pytest.mark.long)])
def test_a_killed_run_asks_for_no_finished_step_again(tmp_path: Path, answered: int) -> None:
    """Every step is in the journal once, in its chain's order; only what was in flight is sent twice."""
    place = Place(tmp_path)
    with serving() as server:
        recipe = place.external(server, tasks=TASKS)
        place.evalkit("prepare", recipe)
        process = place.start("run", recipe)
        server.hang_after(answered + PARALLELISM)
        wait_for(lambda: server.counts()["answered"] >= answered, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        wait_for(lambda: server.counts()["in_flight"] == 0)
        before = server.counts()["received"]
        journaled = len(journaled_calls(place.folder)["scicode"])
        server.go_on()
        # Its programs are not run here, so the run ends as incomplete, in whichever way.
        place.start("run", recipe).communicate()
        received = server.counts()["received"]
    [task] = load_plan(place.folder).tasks
    samples = load_frozen(place.folder, task)
    steps = [sum(s["prefilled"] is None for s in sample.data["steps"]) for sample in samples]
    assert len(steps) == N_PROBLEMS
    calls = journaled_calls(place.folder)["scicode"]
    assert Counter((call.sample, call.call) for call in calls) == Counter(
        (sample, number) for sample, n in enumerate(steps) for number in range(n)
    )
    preflights = 2
    assert 0 < journaled < before
    assert received == sum(steps) + preflights + (before - 1 - journaled)
    found = {record.sample: record for record in unit_records(place)}
    assert len(found) == N_PROBLEMS
    for sample, record in found.items():
        assert (record.outcome, record.calls) == (Outcome.OK, steps[sample])
        assert len(record.data["code"]) == steps[sample]
