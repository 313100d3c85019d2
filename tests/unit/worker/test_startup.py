"""What a worker tries before its first unit, against a server beside it, and what it writes down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from evalkit.benchmarks.addition import Addition
from evalkit.benchmarks.python_tool import PYTHON_TOOL, PythonToolBenchmark
from evalkit.cluster.job import current_job
from evalkit.cluster.replica_report import read_reports
from evalkit.cluster.worker import run_replica
from evalkit.errors import EndpointError
from evalkit.report.facts import read_run_facts
from tests.faults.harness import Server, serving
from tests.unit.worker.test_worker import make_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Any

    from evalkit.benchmarks.contract import Question, Sample
    from evalkit.store.layout import RunFolder


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server for all tests here."""
    with serving() as running:
        yield running


def replayed_call(self: Addition, samples: Sequence[Sample]) -> Question | None:
    """That of the benchmarks with a Python tool."""
    return PythonToolBenchmark.replayed_call(self, samples)  # type: ignore[arg-type]


def work_with_replay(root: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A worker of a task whose later calls have reasoning in them."""
    monkeypatch.setattr(Addition, "replayed_call", replayed_call)
    folder = make_run(root, server.base_url, n=2)
    assert run_replica(folder.root, "r0", current_job()) == 0
    return folder


def effect_in(folder: RunFolder) -> Any:
    """What the facts of its only server say, as results.json will have them."""
    [found] = read_run_facts(folder).servers
    return found.facts["reasoning_replay"]["addition"]


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_that_is_read(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    """Whichever name a server knows, its prompt is longer for it; nobody is warned."""
    server.switch(reads=field, counts=True)
    folder = work_with_replay(tmp_path, server, monkeypatch)
    found = effect_in(folder)
    assert (found["effect"], found["detail"]) == ("read", None)
    assert found["prompt_tokens"]["with"] - found["prompt_tokens"]["without"] > 50
    assert read_reports(folder)["r0"].warnings == []


def test_reasoning_that_is_ignored(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on, and its log and status say what its scores are of."""
    server.switch(reads="", counts=True)
    folder = work_with_replay(tmp_path, server, monkeypatch)
    found = effect_in(folder)
    assert found["effect"] == "ignored"
    assert found["prompt_tokens"]["with"] == found["prompt_tokens"]["without"] > 0
    [warning] = read_reports(folder)["r0"].warnings
    assert warning.startswith("tasks.addition: the server does not read the reasoning")
    assert f"r0.a1: {warning}" in folder.stdout.read_text()


def test_server_that_counts_nothing(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some hosted endpoints do not: that is unknown, and no failure."""
    server.switch(reads="", counts=False)
    folder = work_with_replay(tmp_path, server, monkeypatch)
    assert effect_in(folder) == {
        "effect": "unknown",
        "prompt_tokens": {"with": None, "without": None},
        "detail": "the server counts no tokens of prompts",
    }
    assert read_reports(folder)["r0"].warnings == []


def test_server_that_parses_no_tools(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails at once, and the options that it lacks are named."""
    monkeypatch.setattr(Addition, "tools", (PYTHON_TOOL,))
    server.switch(takes_tools=False)
    folder = make_run(tmp_path, server.base_url, n=2)
    with pytest.raises(EndpointError, match="the endpoint refused it with 400") as caught:
        run_replica(folder.root, "r0", current_job())
    server.switch(takes_tools=True)
    text = str(caught.value)
    assert "requires --enable-auto-tool-choice and --tool-call-parser" in text
    assert "set serving.tool_call_parser" in text
