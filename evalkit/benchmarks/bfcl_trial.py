"""What tries a server before BFCL's first unit: the tools, and reasoning that is sent back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from evalkit.benchmarks.bfcl_data import DIALOGUES
from evalkit.benchmarks.bfcl_dialogue import replayed
from evalkit.benchmarks.contract import Question
from evalkit.benchmarks.replay import thoughtful_reply
from evalkit.scoring.bfcl_categories import MEMORY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalkit.benchmarks.bfcl_dialogue import ReasoningReplay
    from evalkit.benchmarks.contract import Message, Sample


def first_question(samples: Sequence[Sample]) -> Question:
    """The longest first call of all samples, one with tools where there is one."""
    longest = max(samples, key=lambda s: (s.data["tools"] != "[]", len(str(_first_turn(s)))))
    return Question(_first_turn(longest), json.loads(longest.data["tools"]))


def replayed_question(samples: Sequence[Sample], replay: ReasoningReplay) -> Question | None:
    """The second call of a dialogue's first turn; null where no dialogue is held or no reasoning sent."""
    dialogues = (s for s in samples if s.data["category"] in DIALOGUES and s.data["tools"] != "[]")
    sample = next(dialogues, None)
    if sample is None or replay == "none":
        return None
    tools = json.loads(sample.data["tools"])
    reply = thoughtful_reply(tools[0]["function"]["name"], {})
    result = {"role": "tool", "content": "{}", "tool_call_id": reply.tool_calls[0]["id"]}
    return Question([*_first_turn(sample), replayed(reply, replay), result], tools)


def _first_turn(sample: Sample) -> Sequence[Message]:
    if sample.data["category"] in MEMORY:
        turns: Sequence[Sequence[Message]] = sample.data["conversations"][0]["turns"]
        return turns[0]
    return sample.messages
