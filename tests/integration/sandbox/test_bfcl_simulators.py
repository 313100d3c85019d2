"""BFCL's simulators and checker in a real sandbox: gold dialogues, memories, and hostile calls."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.benchmarks.bfcl_gold import gold_turns
from evalkit.benchmarks.contract import Solution
from evalkit.errors import InfraError, ScorerError
from evalkit.scoring.bfcl_simulators import Simulators
from evalkit.scoring.sandbox import Ending, Program, ProgramPool, Sandbox, find_sandbox
from tests.unit.benchmarks.bfcl_support import ScriptedModel, Tools, by_id, make, reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NEEDS = make().sandbox()
CATEGORIES = ("base", "miss_func", "miss_param", "long_context")


def find() -> Sandbox:
    """The best one of this machine."""
    return find_sandbox(dict(os.environ), readonly=NEEDS.readonly)


@pytest.fixture
async def programs() -> AsyncIterator[ProgramPool]:
    """A pool as a worker has it."""
    pool = ProgramPool(find, preload=NEEDS.preload, workers=2)
    yield pool
    await pool.close()


@pytest.fixture
def simulators(programs: ProgramPool) -> Simulators:
    """The simulators in it."""
    return Simulators(programs.run, NEEDS.readonly[0])


@pytest.mark.parametrize("category", CATEGORIES)
async def test_gold_dialogues(programs: ProgramPool, category: str) -> None:
    """Solved and graded through the sandbox as in a run: right; with one call less, wrong."""
    benchmark = make()
    sample = by_id("card", "multi_turn")[f"multi_turn_{category}_0"]
    turns = gold_turns(sample)
    model = ScriptedModel([reply(step) for turn in turns for step in turn], programs.run)
    solution = await benchmark.solve(sample, model)  # type: ignore[arg-type]
    assert solution.data == {"turns": turns}
    assert await benchmark.grade(sample, solution, Tools(programs.run)) == {"valid": True}
    turns[0][0].pop()
    graded = await benchmark.grade(sample, Solution("", data={"turns": turns}), Tools(programs.run))
    assert graded["valid"] is False


async def test_each_program_begins_from_nothing(simulators: Simulators) -> None:
    """The state is what the steps of this question made, whatever ran before."""
    sample = by_id("card", "multi_turn")["multi_turn_base_0"]
    setting = {
        "do": "execute",
        "id": sample.id,
        "classes": sample.data["classes"],
        "config": json.loads(sample.data["config"]),
    }
    cd, where = ["cd(folder='document')"], ["pwd()"]
    first = await simulators.ask({**setting, "steps": [cd, where]})
    second = await simulators.ask({**setting, "steps": [where]})
    assert first.value == {"results": ['{"current_working_directory": "/workspace/document"}']}
    assert second.value == {"results": ['{"current_working_directory": "/workspace"}']}


@pytest.mark.parametrize(
    "call",
    [
        "__import__('os')._exit(0)",
        "exit()",
        "print(a='{\"valid\": true}')",
        "open(file='/proc/self/fd/1', mode='w').write('x')",
        "execute_multi_turn_func_call(func_call_list=['1'])",
        "cd(folder=__import__('sys').exit(0))",
    ],
)
async def test_hostile_calls_are_results_like_any_other(simulators: Simulators, call: str) -> None:
    """Nothing of them runs, and the calls after them do."""
    sample = by_id("card", "multi_turn")["multi_turn_base_0"]
    answer = await simulators.ask(
        {
            "do": "execute",
            "id": sample.id,
            "classes": sample.data["classes"],
            "config": json.loads(sample.data["config"]),
            "steps": [[call, "pwd()"]],
        }
    )
    assert answer.value is not None
    refused, fine = answer.value["results"]
    assert refused.startswith("Error during execution: name ")
    assert fine == '{"current_working_directory": "/workspace"}'


async def test_a_forged_verdict_is_none(programs: ProgramPool) -> None:
    """A dialogue of hostile calls in the place of the gold ones is wrong, and nothing else."""
    sample = by_id("card", "multi_turn")["multi_turn_base_0"]
    forged = [{"print('ready\\n{\"valid\": true}') or exit": "{}"}]
    turns = [[forged] for _ in sample.target]
    found = await make().grade(sample, Solution("", data={"turns": turns}), Tools(programs.run))
    assert found == {"valid": False, "error_type": "multi_turn:instance_state_mismatch"}


async def test_a_call_without_end_is_the_models_own(
    simulators: Simulators, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ended by its time, and told so."""
    monkeypatch.setattr("evalkit.scoring.bfcl_simulators.CPU_S", 2)
    endless = "logarithm(value=2,base=3,precision=1000000000)"
    request = {"do": "execute", "id": "multi_turn_base_0", "classes": ["MathAPI"], "config": {}}
    answer = await simulators.ask({**request, "steps": [[endless]]})
    assert answer.value is None
    assert answer.ended is not None
    assert answer.ended.startswith(("the call took more than", "the call ran out of memory"))


async def test_a_memory_that_was_not_handed_on_is_a_failure_of_ours(
    simulators: Simulators,
) -> None:
    """The official code would begin empty and print a warning."""
    request: dict[str, Any] = {
        "do": "execute",
        "id": "memory_kv_0-customer-0",
        "classes": ["MemoryAPI_kv"],
        "memory": {"scenario": "customer", "snapshot": None},
        "steps": [["core_memory_list_keys()"]],
    }
    with pytest.raises(ScorerError, match="was given no memory to begin with"):
        await simulators.ask(request)
    request["memory"]["snapshot"] = '{"core_memory": {"b": "1", "a": "2"}, "archival_memory": {}}'
    answer = await simulators.ask(request)
    assert answer.value == {"results": ['{"keys": ["b", "a"]}']}


async def test_programs_at_once(programs: ProgramPool) -> None:
    """Each has its own answer, and the loop goes on."""
    await programs.check()
    results = await asyncio.gather(*(programs.run(Program(source=f"print({n})")) for n in range(5)))
    assert [result.stdout for result in results] == [f"{n}\n".encode() for n in range(5)]
    assert {result.ended for result in results} == {Ending.OK}


async def test_no_sandbox_is_said_at_the_check_and_owed_by_units() -> None:
    """The check tells the reason; a unit that met it is done again."""

    def none() -> Sandbox:
        raise ScorerError("no sandbox here")

    pool = ProgramPool(none, workers=1)
    with pytest.raises(ScorerError, match="no sandbox here"):
        await pool.check()
    with pytest.raises(InfraError, match="no sandbox here"):
        await pool.run(Program(argv=[sys.executable]))
    await pool.close()
