"""Whether a server reads the reasoning that is sent back to it in an assistant's message.

Servers know one of two names of the field, and drop the other without a word; chat templates may drop
either. Only the prompt's length tells: one token is generated for the same dialogue with and without
the field, and what the server counted as the prompt is compared. Its `/tokenize` may read messages
otherwise, so it is not asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from evalkit.client.replies import MalformedReplyError, error_message, parse_reply
from evalkit.client.trial import Patience, send_trial
from evalkit.errors import EndpointError, InfraError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.client.request import RequestBuilder
    from evalkit.client.target import Target

REASONING_KEYS = ("reasoning", "reasoning_content")
ONE_TOKEN = {"max_completion_tokens": 1, "min_tokens": None}
PATIENCE = Patience(connect_s=10.0, answer_s=120.0, retries=1)
"""The server has just answered."""


@dataclass(frozen=True, slots=True)
class ReplayEffect:
    """What came of trying it."""

    effect: Literal["read", "ignored", "unknown"]
    with_reasoning: int | None = None
    """Tokens of the prompt; null where the server did not say."""
    without: int | None = None
    detail: str | None = None
    """Why it is unknown."""

    def to_json(self) -> dict[str, Any]:
        """As server facts have it."""
        return {
            "effect": self.effect,
            "prompt_tokens": {"with": self.with_reasoning, "without": self.without},
            "detail": self.detail,
        }


async def try_replay(
    target: Target,
    builder: RequestBuilder,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
) -> ReplayEffect:
    """Count a dialogue with reasoning in it, and without. Fails for nothing: what does not answer, or
    counts nothing, is unknown."""
    bare = [{k: v for k, v in m.items() if k not in REASONING_KEYS} for m in messages]
    counts = []
    for dialogue in (messages, bare):
        request = builder.chat(dialogue, repeat=0, tools=tools, overrides=ONE_TOKEN)
        try:
            answered = await send_trial(target, request, stream=False, patience=PATIENCE)
            if answered.status != 200:
                words = error_message(answered.body)[0][:300]
                return ReplayEffect("unknown", detail=f"refused with {answered.status}: {words}")
            counts.append(parse_reply(answered.body, None).usage.prompt_tokens)
        except (InfraError, EndpointError) as error:
            return ReplayEffect("unknown", detail=error.message)
        except MalformedReplyError as error:
            return ReplayEffect("unknown", detail=target.hide(str(error)))
    with_reasoning, without = counts
    if with_reasoning is None or without is None:
        return ReplayEffect("unknown", detail="the server counts no tokens of prompts")
    effect: Literal["read", "ignored"] = "read" if with_reasoning > without else "ignored"
    return ReplayEffect(effect, with_reasoning, without)
