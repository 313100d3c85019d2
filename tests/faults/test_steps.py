"""Tools beside the model: whatever is killed, no step that is journaled runs again, and no state is lost."""

from __future__ import annotations

import json
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from evalkit.report.frames import iter_samples
from evalkit.store.records import StepRecord
from tests.faults.harness import Place, differing, finish, journaled, serving, wait_for
from tests.faults.many_calls import TOOL_LOG
from tests.faults.test_durability import stop_after

if TYPE_CHECKING:
    from pathlib import Path

TASKS: dict[str, Any] = {
    "tool": {"params": {"n": 6, "calls": 4}, "repeats": 2},
    "cells": {"params": {"n": 4, "calls": 3}},
}
N_CALLS = 6 * 2 * 4 + 4 * 3
N_STEPS = {"tool": 6 * 2 * 4 * 2, "cells": 4 * 3 * 2}


def make_place(root: Path) -> Place:
    """A folder for one run, and a file for the lines of its steps."""
    place = Place(root)
    place.env[TOOL_LOG] = str(root / "steps")
    return place


def runs(place: Place) -> Counter[str]:
    """How often each step of `tool` ran."""
    log = place.root / "steps"
    return Counter(log.read_text().splitlines() if log.exists() else ())


def journaled_runs(place: Place) -> Counter[str]:
    """How often each step of `tool` is in the journals, in the words of its line."""
    steps = journaled(place.folder, StepRecord)["tool"]
    return Counter(json.dumps([f"tool-{s.sample}", s.repeat, s.arguments]) for s in steps)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A folder for one run."""
    return make_place(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Artifacts of a run that nothing happens to."""
    place = make_place(tmp_path_factory.mktemp("undisturbed"))
    with serving() as server:
        place.evalkit("run", place.external(server, tasks=TASKS))
        assert server.counts()["received"] == N_CALLS
    assert set(runs(place).values()) == {1}
    steps = journaled(place.folder, StepRecord)
    assert {task: len(found) for task, found in steps.items()} == N_STEPS
    return place.artifacts(TASKS)


@pytest.mark.parametrize(
    "answered", [30, *(pytest.param(n, marks=pytest.mark.long) for n in (5, 50))]
)
def test_killed_worker(place: Place, undisturbed: dict[str, Any], answered: int) -> None:
    """SIGKILL at any point: no journaled step runs again, sessions have their state, nothing differs."""
    with serving() as server:
        recipe = place.external(server, tasks=TASKS)
        process = place.start("run", recipe)
        stop_after(process, server, answered, signal.SIGKILL)
        finish(process, -signal.SIGKILL)
        kept, before = journaled_runs(place), runs(place)
        assert kept.keys() <= before.keys()
        assert sum(before.values()) - sum(kept.values()) <= 2 * 8, "only what was in flight is lost"
        wait_for(lambda: server.counts()["in_flight"] == 0)
        server.go_on()
        place.evalkit("run", recipe)
    assert differing(place.artifacts(TASKS), undisturbed) == {}
    after = runs(place)
    assert {step: after[step] for step in kept} == {step: before[step] for step in kept}
    assert set(journaled_runs(place).values()) == {1}


def test_drained_worker(place: Place, undisturbed: dict[str, Any]) -> None:
    """SIGTERM: what is in flight is finished, and no step at all runs twice."""
    with serving() as server:
        recipe = place.external(server, tasks=TASKS)
        process = place.start("run", recipe)
        stop_after(process, server, 20, signal.SIGTERM)
        server.go_on()
        finish(process, 130)
        place.evalkit("run", recipe)
    assert differing(place.artifacts(TASKS), undisturbed) == {}
    assert set(runs(place).values()) == {1}


def test_split_brain(place: Place, undisturbed: dict[str, Any]) -> None:
    """Two replicas that both believe they own every shard do everything twice, and change nothing."""
    with serving() as server:
        place.evalkit("prepare", place.external(server, tasks=TASKS))
        team = place.start_two(server, "--no-leases")
        server.go_on()
        for process in team:
            finish(process)
    place.evalkit("gather", place.folder.root)
    found = place.artifacts(TASKS)
    for task in TASKS:
        found[f"{task}/results"]["counts"]["duplicates"] = 0
    assert differing(found, undisturbed) == {}
    assert max(journaled_runs(place).values()) == 2


def test_samples_show_what_tools_got_and_gave(place: Place) -> None:
    """Each sample has its steps in order, with no word of when or how long."""
    with serving() as server:
        place.evalkit("run", place.external(server, tasks=TASKS))
    line = next(iter_samples(place.folder, "cells"))
    first, second, *rest = line["steps"]
    assert first == {
        "name": "python",
        "arguments": {"code": "seen = []", "timeout_s": 20},
        "result": {"ended": "ok", "stdout": "", "stderr": "", "cut": 0},
    }
    assert second["result"]["ended"] == "ok"
    assert line["data"]["shown"][0] == second["result"]["stdout"].removesuffix("\n")
    assert len(rest) == 4
    assert line["calls"] == 3


def test_node_without_a_sandbox(place: Place, undisturbed: dict[str, Any]) -> None:
    """It is refused before anything is asked of a server, with what to do; `unsafe` does without."""
    with serving() as server:
        place.evalkit("prepare", place.external(server, tasks=TASKS))
        text = finish(place.start_worker("r0", "--no-sandbox"), 8)
        assert "preflight of tasks.cells: no sandbox for model-written code works" in text
        assert "`unsafe: true`" in text
        assert server.counts()["received"] == 0
        record = orjson.loads(place.folder.attempt_record("r0", 1).read_bytes())
        assert record["failure"]["kind"] == "config"
        recipe = place.external(server, tasks=TASKS, scoring={"unsafe": True})
        place.evalkit("prepare", recipe)
        finish(place.start_worker("r0", "--no-sandbox"))
    place.evalkit("gather", place.folder.root)
    assert differing(place.artifacts(TASKS), undisturbed) == {}
