"""Dialogues with the Python tool: killed between cells, in a cell or in the middle of an answer, they
end as if nothing had happened."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from evalkit.benchmarks.frozen import load_frozen
from evalkit.benchmarks.python_tool import PYTHON_TOOL
from evalkit.client.request import RequestBuilder
from evalkit.report.frames import iter_samples
from evalkit.store.records import CallRecord, StepRecord
from evalkit.store.run import load_plan
from tests.faults.fault_options import write_vllm
from tests.faults.fault_server import body_hash
from tests.faults.harness import (
    Place,
    differing,
    finish,
    journaled,
    server_of,
    serving,
    wait_for,
)
from tests.faults.test_durability import stop_after
from tests.unit.vectors import SHARED, TESTS

if TYPE_CHECKING:
    from pathlib import Path

TASKS: dict[str, Any] = {
    "aime2025_tools": {
        "data": {"path": str(SHARED / "aime2025" / "aime2025.jsonl")},
        "repeats": 3,
        "limit": 12,
    },
    "gpqa_diamond_tools": {
        "data": {
            "path": str(TESTS / "data" / "samples" / "gpqa_diamond.csv"),
            "allow_altered": True,
        },
        "repeats": 4,
    },
}
SETTINGS: dict[str, Any] = {
    "tasks": TASKS,
    "generation": {"temperature": 0, "presence_penalty": 0},
}
THINKS = ("--reasoning", "reasoning")
HISTORY = ("retries", "continued")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A folder for one run."""
    return Place(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Artifacts of a run that nothing happens to."""
    place = Place(tmp_path_factory.mktemp("undisturbed"))
    with serving(*THINKS) as server:
        place.evalkit("run", place.external(server, **SETTINGS))
    return place.artifacts(TASKS)


def test_dialogues(place: Place) -> None:
    """Some samples call the tool again and again; their cells share a state, which samples show."""
    with serving(*THINKS) as server:
        place.evalkit("run", place.external(server, **SETTINGS))
    longest: dict[str, Any] = {}
    for task in TASKS:
        for line in iter_samples(place.folder, task):
            assert len(line["steps"]) == line["data"]["tool_calls"]
            assert line["calls"] == line["data"]["rounds"] == len(line["steps"]) + 1
            assert line["scores"]["tool_calls"] == len(line["steps"])
            assert line["content"].count("I ask.") == len(line["steps"])
            longest = max(longest, line, key=lambda each: len(each.get("steps", ())))
    shown = [step["result"]["stdout"].splitlines()[0] for step in longest["steps"]]
    assert len(shown) >= 3
    assert [text.count(",") for text in shown] == list(range(len(shown))), "all cells before it"
    results = orjson.loads(place.folder.results("aime2025_tools").read_bytes())
    assert results["complete"]
    assert results["metrics"]["pass@1[avg-of-3]"]["tool_calls"] > 0
    assert results["metrics"]["pass@1[avg-of-3]"]["tool_timeouts"] == 0


@pytest.mark.parametrize(
    "answered", [20, *(pytest.param(n, marks=pytest.mark.long) for n in (4, 40))]
)
def test_killed_worker(place: Place, undisturbed: dict[str, Any], answered: int) -> None:
    """SIGKILL at any point: no journaled call or cell is made again, and nothing differs."""
    with serving(*THINKS) as server:
        recipe = place.external(server, **SETTINGS)
        process = place.start("run", recipe)
        stop_after(process, server, answered, signal.SIGKILL)
        finish(process, -signal.SIGKILL)
        wait_for(lambda: server.counts()["in_flight"] == 0)
        server.go_on()
        place.evalkit("run", recipe)
    assert differing(place.artifacts(TASKS), undisturbed) == {}
    calls, steps = (journaled(place.folder, kind) for kind in (CallRecord, StepRecord))
    for task in TASKS:
        made = [(call.sample, call.repeat, call.call) for call in calls[task]]
        done = [(step.sample, step.repeat, step.step) for step in steps[task]]
        assert len(made) == len(set(made)), "a call was made again"
        assert len(done) == len(set(done)), "a cell ran again"


def interrupt(place: Place, attempt: int) -> None:
    """Begin an attempt, and drain it in the middle of answers."""
    worker = place.start_worker("r0", "--kill-wait-s", "5")
    wait_for(place.folder.server_facts("r0", attempt).exists, worker)
    server = server_of(place.folder, "r0", attempt)
    wait_for(lambda: server.counts()["tokens"] > 500, worker)
    worker.send_signal(signal.SIGTERM)
    finish(worker, 1)


def test_interrupted_answers_go_on(place: Place, undisturbed: dict[str, Any]) -> None:
    """A drain in the middle of answers that offer the tool: they are continued, calls are parsed from
    both parts, and dialogues, cells and scores are the undisturbed ones."""
    write_vllm(place.root / "plugin")
    vllm = {
        "kind": "vllm",
        "gpus": 0,
        "max_model_len": 100_000,
        "stream_interval": 8,
        "tool_call_parser": "hermes",
        "reasoning_parser": "deepseek_r1",
        "shutdown_timeout_s": 2,
        "extra_args": {"reasoning": "reasoning", "tokens-per-s": 40},
    }
    recipe = place.write_recipe(vllm, **SETTINGS)
    place.evalkit("prepare", recipe)
    for attempt in (1, 2):
        interrupt(place, attempt)
    finish(place.start_worker("r0"))
    place.evalkit("gather", place.folder.root)
    continued = 0
    for task in TASKS:
        assert place.folder.samples(task).read_bytes() == undisturbed[f"{task}/samples"]
        assert place.folder.metrics(task).read_bytes() == undisturbed[f"{task}/metrics"]
        counts = orjson.loads(place.folder.results(task).read_bytes())["counts"]
        continued += counts["continued"]
        expected = undisturbed[f"{task}/results"]["counts"]
        assert {k: v for k, v in counts.items() if k not in HISTORY} == {
            k: v for k, v in expected.items() if k not in HISTORY
        }
    assert continued > 0
    calls = [call for calls in journaled(place.folder, CallRecord).values() for call in calls]
    assert any(call.continued and call.reply.tool_calls for call in calls), "a call over both parts"


def test_preflight_offers_the_tool(place: Place) -> None:
    """The request that tries a server has the tool in it: one that parses none would refuse it."""
    with serving(*THINKS) as server:
        place.evalkit("run", place.external(server, **SETTINGS))
        received = server.counts()["received_by_hash"]
    plan = load_plan(place.folder)
    for task in plan.tasks:
        samples = load_frozen(place.folder, task)
        longest = max((s.messages for s in samples), key=lambda m: len(m[0]["content"]))
        builder = RequestBuilder(task.generation, "m")
        request = orjson.loads(builder.chat(longest, 0, [PYTHON_TOOL]).payload)
        assert received[body_hash(request | {"stream": True})] == 1
        assert received[body_hash(request)] == 1
