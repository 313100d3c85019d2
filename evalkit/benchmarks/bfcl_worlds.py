"""What answers a dialogue's calls in BFCL: the simulators, and the memories that are handed on.

Every execution is a durable step: its result is journaled under the entry and its calls, so a unit
that is resumed repeats none of them. A memory is handed from conversation to conversation as JSON;
what would be an empty memory by mistake (the official code begins one with a printed warning) cannot
happen, because the driver refuses to begin without it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evalkit.benchmarks.bfcl_dialogue import Dialogue, Script, hold_dialogue
from evalkit.errors import ScorerError
from evalkit.scoring.bfcl_checks import calls_of
from evalkit.scoring.bfcl_simulators import failed_results
from evalkit.store.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.benchmarks.bfcl_dialogue import Environment, ReasoningReplay, Step
    from evalkit.benchmarks.contract import Message, ModelHandle, Sample
    from evalkit.scoring.bfcl_simulators import Simulators


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory between two dialogues."""

    snapshot: str | None
    """The JSON text that the official code keeps; null before the first conversation."""
    shown: str
    """What the assistant is told of it when a dialogue begins."""


@dataclass(slots=True)
class SimulatedWorld:
    """The simulators of one dialogue."""

    model: ModelHandle
    simulators: Simulators
    id: str
    setting: Mapping[str, Any]
    """What the driver needs besides: classes, and the initial state or a memory."""
    steps: list[list[str]] = field(default_factory=list)
    """Calls that were executed, by step."""

    async def answer(self, step: Step) -> list[str]:
        """The result of each call. Raises ScorerError where the sandbox fails."""
        calls = calls_of(step)

        async def run() -> Any:
            request = {"do": "execute", **self._request([*self.steps, calls])}
            answer = await self.simulators.ask(request)
            return {"ended": answer.ended} if answer.value is None else dict(answer.value)

        found = await self.model.step("execute", {"entry": self.id, "calls": calls}, run)
        if "ended" in found:  # what these calls had done is gone with the program
            return failed_results(calls, found["ended"])
        self.steps.append(calls)
        results: list[str] = found["results"]
        return results

    async def remember(self) -> Memory:
        """What is in memory now. Raises ScorerError where the sandbox fails."""

        async def run() -> Any:
            answer = await self.simulators.ask({"do": "memory", **self._request(self.steps)})
            if answer.value is None:
                raise ScorerError(f"the memory of {self.id} was lost: {answer.ended}")
            return dict(answer.value)

        found = await self.model.step("memory", {"entry": self.id}, run)
        return Memory(found["snapshot"], found["shown"])

    def _request(self, steps: Sequence[Sequence[str]]) -> dict[str, Any]:
        return {"id": self.id, "steps": steps, **self.setting}


def simulated(sample: Sample, model: ModelHandle, simulators: Simulators) -> SimulatedWorld:
    """The simulators of a multi-turn entry."""
    return SimulatedWorld(
        model,
        simulators,
        sample.id,
        {"classes": sample.data["classes"], "config": json.loads(sample.data["config"])},
    )


async def hold_entry(
    sample: Sample, model: ModelHandle, world: Environment, replay: ReasoningReplay
) -> Dialogue:
    """The dialogue of one entry."""
    later = {turn: json.loads(tools) for turn, tools in sample.data["later_tools"].items()}
    script = Script(sample.data["turns"], json.loads(sample.data["tools"]), later)
    return await hold_dialogue(script, model, world, replay)


@dataclass(frozen=True, slots=True)
class Chain:
    """What became of a scenario."""

    questions: Mapping[str, Dialogue]
    conversations: Mapping[str, Dialogue]

    @property
    def outcome(self) -> Outcome:
        """The gravest of the questions': the unit has one, and they are what is scored."""
        ends = {dialogue.outcome for dialogue in self.questions.values()}
        for outcome in (Outcome.CONTEXT_OVERFLOW, Outcome.TRUNCATED, Outcome.REFUSED):
            if outcome in ends:
                return outcome
        return Outcome.OK


async def hold_chain(
    sample: Sample, model: ModelHandle, simulators: Simulators, replay: ReasoningReplay
) -> Chain:
    """All conversations of a scenario, each with the memory that the one before left; then all its
    questions, each with the last memory."""
    tools = json.loads(sample.data["tools"])
    first = sample.data["conversations"][0]["id"]

    def world(id_: str, memory: Memory) -> SimulatedWorld:
        given = {"scenario": sample.data["scenario"], "snapshot": memory.snapshot}
        setting = {"classes": sample.data["classes"], "memory": given}
        return SimulatedWorld(model, simulators, id_, setting)

    async def hold(entry: Mapping[str, Any], memory: Memory) -> tuple[Dialogue, SimulatedWorld]:
        place = world(entry["id"], memory)
        turns = fill_memory(entry["turns"], sample.data["memory_mark"], memory.shown)
        return await hold_dialogue(Script(turns, tools), model, place, replay), place

    memory = Memory(None, (await world(first, Memory(None, "")).remember()).shown)
    conversations, questions = {}, {}
    for entry in sample.data["conversations"]:
        conversations[entry["id"]], place = await hold(entry, memory)
        memory = await place.remember()
    for entry in sample.data["questions"]:
        questions[entry["id"]], _ = await hold(entry, memory)
    return Chain(questions, conversations)


def fill_memory(turns: Sequence[Sequence[Message]], mark: str, shown: str) -> list[list[Message]]:
    """The turns with what is in memory in the place of `mark`, in the first message."""
    [[system, *messages], *others] = turns
    told = {**system, "content": system["content"].replace(mark, shown)}
    return [[told, *messages], *map(list, others)]
