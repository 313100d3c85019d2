"""The loop of a dialogue with tools: turns of the user, steps of the model, results of its calls.

After the loop behind the published scores: a turn ends with the first answer that has no call that
can be read, an entry ends with its 21st execution in one turn or when the context is full, and both
leave it with the steps so far. Held-out functions appear in their turn with a fixed message. A
model's reasoning is sent back with its message, under both keys, because servers read one or the
other and drop what they do not know.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from evalkit.scoring.bfcl_checks import calls_of
from evalkit.store.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.benchmarks.contract import Message, ModelHandle
    from evalkit.store.records import Reply

MOST_EXECUTIONS = 20
"""In one turn; one more ends the entry."""

Step: TypeAlias = Any
"""One answer, as `bfcl_checks` has it."""
ReasoningReplay: TypeAlias = Literal["both", "none"]


class Environment(Protocol):
    """What answers the calls of one dialogue."""

    async def answer(self, step: Step) -> list[str]:
        """The result of each call of a step, in order. Raises InfraError, ScorerError."""
        ...


@dataclass(frozen=True, slots=True)
class Script:
    """What is said and shown to the model in one dialogue."""

    turns: Sequence[Sequence[Message]]
    tools: Sequence[Mapping[str, Any]]
    later_tools: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """The tools from a turn on, by its number, where held-out functions appear in it."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """What became of it."""

    turns: list[list[Step]]
    """Steps by turn; fewer turns than the script has where the entry was ended."""
    outcome: Outcome
    """Of its last answer."""


def step_of(reply: Reply) -> Step:
    """An answer as it is executed and scored."""
    if reply.outcome is Outcome.CONTEXT_OVERFLOW:
        return ""
    calls = [call.get("function") or {} for call in reply.tool_calls]
    if calls:
        return [{str(call.get("name")): call.get("arguments")} for call in calls]
    return reply.content or [reply.content]


def replayed(reply: Reply, replay: ReasoningReplay) -> Message:
    """An answer as it is sent back. Arguments that are no JSON object would make servers refuse the
    dialogue from then on, so they are sent as an empty one."""
    message: Message = {"role": "assistant", "content": reply.content}
    if reply.tool_calls:
        message["content"] = reply.content or None
        message["tool_calls"] = [_replayed_call(call) for call in reply.tool_calls]
    if replay == "both" and reply.reasoning is not None:
        message["reasoning"] = message["reasoning_content"] = reply.reasoning
    return message


def _replayed_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    arguments = function.get("arguments")
    readable = isinstance(arguments, str) and _is_object(arguments)
    return {
        "id": call.get("id"),
        "type": "function",
        "function": {
            "name": function.get("name"),
            "arguments": arguments if readable else "{}",
        },
    }


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


async def hold_dialogue(
    script: Script, model: ModelHandle, environment: Environment, replay: ReasoningReplay
) -> Dialogue:
    """Go through the turns of a script. Raises InfraError, ScorerError."""
    history: list[Message] = []
    tools = script.tools
    turns: list[list[Step]] = []
    outcome = Outcome.OK
    for number, messages in enumerate(script.turns):
        tools = script.later_tools.get(str(number), tools)
        history += messages
        turns.append([])
        goes_on, outcome = await _take_turn(
            _Turn(history, tools, turns[-1]), model, environment, replay
        )
        if not goes_on:
            break
    return Dialogue(turns, outcome)


@dataclass(frozen=True, slots=True)
class _Turn:
    """What a turn adds to."""

    history: list[Message]
    tools: Sequence[Mapping[str, Any]]
    steps: list[Step]


async def _take_turn(
    turn: _Turn, model: ModelHandle, environment: Environment, replay: ReasoningReplay
) -> tuple[bool, Outcome]:
    """Whether the entry goes on after this turn, and the outcome of its last answer."""
    executions = 0
    while True:
        # A copy: the history grows, and a handle may keep what it was given.
        reply = await model.chat(list(turn.history), tools=turn.tools)
        if reply.outcome is Outcome.CONTEXT_OVERFLOW:
            return False, reply.outcome
        turn.history.append(replayed(reply, replay))
        step = step_of(reply)
        turn.steps.append(step)
        if not calls_of(step):
            return True, reply.outcome
        results = await environment.answer(step)
        for result, call in zip(results, reply.tool_calls, strict=False):
            turn.history.append({"role": "tool", "content": result, "tool_call_id": call.get("id")})
        executions += 1
        if executions > MOST_EXECUTIONS:
            return False, reply.outcome
