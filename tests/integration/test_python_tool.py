"""The Python tool in front of a real vLLM: its tool calls are parsed, cells run in a real sandbox, and its
next prompts hold what they gave; killed in the middle, a run goes on and ends the same."""

from __future__ import annotations

import json
import os
import re
import signal
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import yaml

from evalkit.benchmarks.aime2025_tools import Aime2025Tools
from evalkit.benchmarks.contract import Sample
from evalkit.benchmarks.python_tool import TOOL_NAME
from evalkit.benchmarks.registry import make_benchmark
from evalkit.client.calls import CallClient
from evalkit.client.durable import DurableModel
from evalkit.client.request import RequestBuilder
from evalkit.client.steps import Facilities
from evalkit.client.target import Target
from evalkit.clock import SYSTEM_CLOCK
from evalkit.plan.model import UnitKey
from evalkit.recipe.schema import Client, Generation
from evalkit.report.frames import iter_samples
from evalkit.scoring.sandbox import SessionPool, find_sandbox
from evalkit.store.layout import RunFolder
from evalkit.store.records import CallRecord, Outcome, StepRecord
from tests.faults.harness import journaled, wait_for
from tests.integration.test_kill_and_resume import KEY, finish, journal_lines, start

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.conftest import VllmServer

ROUNDS = 3
CODE = "seen = globals().get('seen', []) + [7]; seen"
CALL = json.dumps({"name": TOOL_NAME, "arguments": {"code": CODE}})
FORM = {
    "structured_outputs": {
        "regex": re.escape(f"<think>hm</think>Well.<tool_call>{CALL}</tool_call>")
    }
}
"""What every answer has to look like: the demo model was never trained to call a tool. Where it reasons
freely before, the tags of the form are content."""
GREEDY = Generation(temperature=0, extra_body=FORM)


class Unit:
    """A unit's journal in memory."""

    def __init__(self) -> None:
        self.finished_calls: dict[tuple[int, str], CallRecord] = {}
        self.finished_steps: dict[tuple[int, str], StepRecord] = {}

    def keep(self, record: CallRecord) -> None:
        """Take a call."""
        self.finished_calls[record.call, record.request] = record

    def keep_step(self, record: StepRecord) -> None:
        """Take a step."""
        self.finished_steps[record.step, record.digest] = record

    def tokens(self, call: int, request: str) -> Any:
        """A grammar cannot be continued: nothing is kept."""
        return None


def target(server: VllmServer) -> Target:
    """The server, as somebody else's."""
    endpoint = server.endpoint
    return Target(endpoint.base_url, endpoint.model, endpoint.request_headers())


async def solve(server: VllmServer, unit: Unit, pool: SessionPool) -> tuple[Any, DurableModel]:
    """One sample with what is in the journal."""
    benchmark = make_benchmark("aime2025_tools", {"round_limit": ROUNDS}, "card")
    assert isinstance(benchmark, Aime2025Tools)
    sample = Sample("s", ({"role": "user", "content": "What is 3 + 4?"},), "7")
    async with CallClient(target(server), Client(), SYSTEM_CLOCK) as client:
        builder = RequestBuilder(GREEDY, server.endpoint.model)
        facilities = Facilities(sessions=pool)
        model = DurableModel(client, builder, None, UnitKey(0, 0), unit, facilities)
        return await benchmark.solve(sample, model), model


async def test_dialogue(vllm_server: VllmServer) -> None:
    """vLLM parses the call, takes its result back in the next prompt, and the session keeps its state."""
    needs = make_benchmark("aime2025_tools", {}, "card").sandbox()
    pool = SessionPool(lambda: find_sandbox(dict(os.environ)), preload=needs.preload, cores=2)
    unit = Unit()
    solution, model = await solve(vllm_server, unit, pool)
    replies = [record.reply for record in unit.finished_calls.values()]
    assert solution.outcome is Outcome.TRUNCATED
    assert solution.text == "".join(reply.content for reply in replies)
    assert all(reply.content.endswith("Well.") for reply in replies)
    assert all(reply.reasoning for reply in replies)
    for reply in replies:
        [call] = reply.tool_calls
        assert call["function"]["name"] == TOOL_NAME
        assert json.loads(call["function"]["arguments"]) == {"code": CODE}
    results = [record.result["stdout"] for record in unit.finished_steps.values()]
    assert results == ["[7]\n", "[7, 7]\n", "[7, 7, 7]\n"]
    sizes = [reply.usage.prompt_tokens or 0 for reply in replies]
    assert sizes == sorted(set(sizes)), "every round's prompt holds the rounds before it"
    assert (model.calls, model.steps, model.undone) == (ROUNDS, ROUNDS, ())

    # Interrupted after the second call: its cell runs in a new interpreter that has the first one's state.
    early = Unit()
    early.finished_calls = {k: v for k, v in unit.finished_calls.items() if k[0] < 2}
    early.finished_steps = {k: v for k, v in unit.finished_steps.items() if k[0] < 1}
    again, _ = await solve(vllm_server, early, pool)
    assert again == solution
    assert [record.result["stdout"] for record in early.finished_steps.values()] == results
    await pool.close()


def write_recipe(folder: Path, server: VllmServer) -> Path:
    """A few short problems, several answers to each, against the running server."""
    rows = [
        {"id": f"p{n}", "problem": f"What is {n} + 4?", "expected_answer": str(n + 4)}
        for n in range(1, 5)
    ]
    data = folder / "problems.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    recipe = {
        "models": {"demo": {"id": server.endpoint.model}},
        "serving": {
            "kind": "external",
            "base_url": server.endpoint.base_url,
            "api_key_env": KEY,
        },
        "generation": {"temperature": 0, "presence_penalty": 0, "extra_body": FORM},
        "client": {"parallelism": 2},
        "tasks": {
            "aime2025_tools": {
                "data": {"path": str(data), "allow_altered": True},
                "params": {"round_limit": ROUNDS},
                "repeats": 3,
            }
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def comparable(folder: RunFolder) -> list[dict[str, Any]]:
    """Samples without the ids of tool calls, which vLLM draws anew each time."""
    lines = list(iter_samples(folder, "aime2025_tools"))
    for line in lines:
        for call in line["tool_calls"]:
            del call["id"]
    return lines


@pytest.mark.long  # with the other benchmarks the tool is killed in test_all_benchmarks
@pytest.mark.timeout(700)
def test_killed_and_resumed(vllm_server: VllmServer, tmp_path: Path) -> None:
    """After SIGKILL no journaled call or cell is made again, and samples and scores are those of a quiet run."""
    recipe = write_recipe(tmp_path, vllm_server)
    finish(start(recipe, "quiet", vllm_server))
    quiet, killed = (RunFolder(tmp_path / "runs" / name) for name in ("quiet", "killed"))
    process = start(recipe, "killed", vllm_server)
    wait_for(lambda: journal_lines(killed) >= 20, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = len(made(killed, CallRecord))
    assert 0 < before < len(made(quiet, CallRecord))
    finish(start(recipe, "killed", vllm_server))
    assert comparable(killed) == comparable(quiet)
    assert (
        killed.metrics("aime2025_tools").read_bytes()
        == quiet.metrics("aime2025_tools").read_bytes()
    )
    for kind in (CallRecord, StepRecord):
        numbers = [made(run, kind) for run in (killed, quiet)]
        assert numbers[0] == numbers[1]
        assert len(numbers[0]) == len(set(numbers[0])), "something was made again"
    assert len(made(quiet, StepRecord)) >= ROUNDS
    results = orjson.loads(killed.results("aime2025_tools").read_bytes())
    assert results["metrics"]["pass@1[avg-of-3]"]["tool_calls"] > 0


def made(folder: RunFolder, kind: type[Any]) -> list[tuple[int, int, int]]:
    """Which calls, or steps, are in the journals: sample, repeat, number."""
    name = "call" if kind is CallRecord else "step"
    records = journaled(folder, kind)["aime2025_tools"]
    return sorted((each.sample, each.repeat, getattr(each, name)) for each in records)
