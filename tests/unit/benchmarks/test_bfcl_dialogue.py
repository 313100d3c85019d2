"""BFCL's loop: when turns and entries end, what is sent back, and what memories are handed on."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from evalkit.benchmarks.bfcl_dialogue import (
    MOST_EXECUTIONS,
    Script,
    hold_dialogue,
    replayed,
    step_of,
)
from evalkit.benchmarks.bfcl_worlds import SimulatedWorld
from evalkit.client.request import RequestBuilder
from evalkit.errors import ScorerError
from evalkit.recipe.schema import Generation
from evalkit.scoring.bfcl_simulators import Answer
from evalkit.store.records import Outcome, Reply
from tests.unit.benchmarks.bfcl_support import (
    ScriptedModel,
    by_id,
    make,
    reply,
    run_here,
    simulators_here,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CALL = [{"ls": "{}"}]
OVERFLOW = Reply(Outcome.CONTEXT_OVERFLOW, "", detail="too long")


@dataclass
class Echo:
    """Answers every call by its number."""

    seen: list[Any] = field(default_factory=list)

    async def answer(self, step: Any) -> list[str]:
        self.seen.append(step)
        return [f"result {number}" for number in range(len(step))]


def user(text: str) -> list[dict[str, Any]]:
    """A turn of one message."""
    return [{"role": "user", "content": text}]


async def hold(replies: list[Reply], turns: int = 2, **later: Any) -> tuple[Any, ScriptedModel]:
    """A dialogue of turns `0`, `1`, ..., and the model that was asked."""
    model = ScriptedModel(list(replies))
    script = Script([user(str(n)) for n in range(turns)], [{"first": 1}], later)
    dialogue = await hold_dialogue(script, model, Echo(), "both")  # type: ignore[arg-type]
    return dialogue, model


async def test_a_turn_ends_with_an_answer_without_calls() -> None:
    """The next one sees the whole history, results beside their calls."""
    dialogue, model = await hold([reply([*CALL, *CALL]), reply("done"), reply("bye")])
    assert dialogue.turns == [[[*CALL, *CALL], "done"], ["bye"]]
    assert dialogue.outcome is Outcome.OK
    messages, _ = model.asked[-1]
    assert [message["role"] for message in messages] == [
        "user", "assistant", "tool", "tool", "assistant", "user",
    ]  # fmt: skip
    assert messages[2:4] == [
        {"role": "tool", "content": f"result {n}", "tool_call_id": f"call-{n}"} for n in (0, 1)
    ]
    assert len(model.asked[0][0]) == 1  # what was sent is not changed afterwards


@pytest.mark.parametrize("arguments", ["{broken", "[1]", "", "null", '"text"'])
async def test_arguments_that_are_no_object_end_the_turn(arguments: str) -> None:
    """Nothing is executed, the step is kept as it is, and what is sent back can be read by a server."""
    dialogue, model = await hold([reply([{"ls": arguments}]), reply("bye")])
    assert dialogue.turns == [[[{"ls": arguments}]], ["bye"]]
    messages, _ = model.asked[-1]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["tool_calls"][0]["function"] == {"name": "ls", "arguments": "{}"}


async def test_an_entry_ends_with_its_21st_execution_in_a_turn() -> None:
    """The later turns are missing, which makes it wrong."""
    dialogue, model = await hold([reply(CALL)] * 30)
    assert [len(turn) for turn in dialogue.turns] == [MOST_EXECUTIONS + 1]
    assert len(model.replies) == 30 - 21


async def test_each_turn_counts_its_own_executions() -> None:
    """Twenty in each are allowed."""
    turn = [reply(CALL)] * MOST_EXECUTIONS + [reply("done")]
    dialogue, model = await hold([*turn, *turn])
    assert [len(steps) for steps in dialogue.turns] == [21, 21]
    assert model.replies == []


@pytest.mark.parametrize("before", [[], [reply(CALL)]])
async def test_a_full_context_ends_the_entry(before: list[Reply]) -> None:
    """With the steps it had, and as what it is."""
    dialogue, _ = await hold([*before, OVERFLOW])
    assert dialogue.turns == [[CALL] * len(before)]
    assert dialogue.outcome is Outcome.CONTEXT_OVERFLOW


async def test_tools_change_in_their_turn_and_stay() -> None:
    """Held-out functions are there from then on."""
    _, model = await hold([reply("a"), reply("b"), reply("c")], 3, **{"1": [{"second": 1}]})
    assert [tools for _, tools in model.asked] == [
        [{"first": 1}],
        [{"second": 1}],
        [{"second": 1}],
    ]


def test_reasoning_is_sent_back_under_both_keys_or_not_at_all() -> None:
    """Calls without text have null content, as servers give it."""
    told = reply(CALL, reasoning="because")
    message = replayed(told, "both")
    assert (message["reasoning"], message["reasoning_content"]) == ("because", "because")
    assert message["content"] is None
    assert not {"reasoning", "reasoning_content"} & replayed(told, "none").keys()
    assert not {"reasoning", "reasoning_content"} & replayed(reply("text"), "both").keys()
    assert replayed(Reply(Outcome.EMPTY, ""), "both") == {"role": "assistant", "content": ""}


def test_steps_are_calls_or_text() -> None:
    """An empty text is a list of it, and a full context is no text at all."""
    assert step_of(reply([{"f": '{"a": 1}'}])) == [{"f": '{"a": 1}'}]
    assert step_of(reply("text")) == "text"
    assert step_of(Reply(Outcome.EMPTY, "")) == [""]
    assert step_of(OVERFLOW) == ""


@dataclass
class Fragile:
    """Simulators that a call named `hang` ends."""

    asked: list[list[list[str]]] = field(default_factory=list)

    async def ask(self, request: Mapping[str, Any]) -> Answer:
        self.asked.append([list(calls) for calls in request["steps"]])
        if request["do"] == "memory":
            return Answer(None, "it hangs")
        *_, last = request["steps"]
        if "hang()" in last:
            return Answer(None, "it hangs")
        return Answer({"results": ["fine"] * len(last)})


async def test_calls_that_end_the_simulators_are_told_so_and_not_repeated() -> None:
    """Later steps run without them, after those that worked."""
    simulators, model = Fragile(), ScriptedModel([])
    world = SimulatedWorld(model, simulators, "e", {})  # type: ignore[arg-type]
    assert await world.answer([{"a": "{}"}]) == ["fine"]
    assert (
        await world.answer([{"hang": "{}"}, {"b": "{}"}])
        == ["Error during execution: it hangs"] * 2
    )
    assert await world.answer([{"c": "{}"}]) == ["fine"]
    assert simulators.asked[-1] == [["a()"], ["c()"]]
    assert [arguments["calls"] for _, arguments, _ in model.steps] == [
        ["a()"],
        ["hang()", "b()"],
        ["c()"],
    ]
    with pytest.raises(ScorerError, match="the memory of e was lost"):
        await world.remember()


def call(name: str, **arguments: Any) -> Reply:
    """A reply with one call."""
    return reply([{name: json.dumps(arguments)}])


async def test_a_memory_is_handed_from_conversation_to_questions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the first conversation writes, the assistant is told in the second, and at every question;
    what a question writes is gone at the next one."""
    sample = by_id("card", "memory_kv")["memory_kv_notetaker"]
    first, *others = sample.data["conversations"]
    replies = [call("core_memory_add", key="name", value="Ada"), reply("noted")]
    replies += [reply("ok")] * (len(first["turns"]) - 1)
    replies += [reply("ok") for each in others for _ in each["turns"]]
    questions = sample.data["questions"]
    replies += [call("core_memory_add", key="later", value="lost"), reply("I do not know.")]
    replies += [call("core_memory_retrieve", key="name"), reply("{'answer': 'Ada'}")]
    replies += [reply("I do not know.")] * (len(questions) - 2)
    model = ScriptedModel(replies, run_here)
    with simulators_here(monkeypatch, tmp_path):
        solution = await make().solve(sample, model)  # type: ignore[arg-type]
    assert model.replies == []
    systems = [messages[0]["content"] for messages, _ in model.asked]
    assert "There is no content in the core memory at this point." in systems[0]
    assert all(sample.data["memory_mark"] not in system for system in systems)
    told = [system for system in systems if '"name": "Ada"' in system]
    n_first = 1 + len(first["turns"])
    assert told == systems[n_first:]
    assert not any('"later"' in system for system in systems)
    results = [result["results"] for name, _, result in model.steps if name == "execute"]
    assert results == [
        ['{"status": "Key-value pair added."}'],
        ['{"status": "Key-value pair added."}'],
        ['{"value": "Ada"}'],
    ]
    assert list(solution.data["questions"]) == [each["id"] for each in questions]
    assert set(solution.data["conversations"].values()) == {"ok"}
    assert "you must respond in this format" in systems[-1]
    score = make().score(sample, solution)
    assert score.values["entries"] == 25.0


async def test_the_recursive_summary_is_shown_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Braces and quotes of the model's text included; the outcome is the gravest of the questions."""
    sample = by_id("card", "memory_rec_sum")["memory_rec_sum_notetaker"]
    first, *others = sample.data["conversations"]
    text = "{scenario_setting} 'x' \"y\" \u00e9"
    replies = [call("memory_append", text=text), reply("noted")]
    replies += [reply("ok")] * (len(first["turns"]) - 1)
    replies += [reply("ok") for each in others for _ in each["turns"]]
    replies += [OVERFLOW] + [reply("no")] * (len(sample.data["questions"]) - 1)
    model = ScriptedModel(replies, run_here)
    with simulators_here(monkeypatch, tmp_path):
        solution = await make().solve(sample, model)  # type: ignore[arg-type]
    assert text in model.asked[-1][0][0]["content"]
    assert solution.outcome is Outcome.CONTEXT_OVERFLOW
    assert solution.data["questions"][sample.data["questions"][0]["id"]] == [[]]


async def test_a_resumed_dialogue_asks_the_very_same_questions() -> None:
    """Replies from a journal have their keys in another order; requests have the same hash."""

    def journaled(told: Reply) -> Reply:
        calls = tuple(
            orjson.loads(orjson.dumps(c, option=orjson.OPT_SORT_KEYS)) for c in told.tool_calls
        )
        return replace(told, tool_calls=calls)

    live = [reply([{"cd": '{"b": 1, "a": 2}'}], reasoning="hm"), reply("done"), reply("bye")]
    _, first = await hold(live)
    _, second = await hold([journaled(told) for told in live])
    builder = RequestBuilder(Generation(), "m")
    digests = [
        [builder.chat(messages, 0, tools).digest for messages, tools in model.asked]
        for model in (first, second)
    ]
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == 3
