"""What the calls of the scored units were like: tokens, time, reasoning, and what they cost.

One call after the other, in any order: the same calls give the same numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.client.replies import ThinkTags, is_unfinished
from evalkit.report.distribution import Tally
from evalkit.report.results import Cost, ReasoningStatistics, Tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evalkit.plan.model import TaskPlan
    from evalkit.recipe.serving import Price
    from evalkit.store.records import CallRecord, Reply


class Replied:
    """Takes the calls of one task."""

    def __init__(self, task: TaskPlan) -> None:
        self._tags = ThinkTags.of(task.reasoning)
        self._prompt, self._completion, self._reasoning, self._cached, self._words = (
            Tally(whole=True) for _ in range(5)
        )
        self.latency = Tally(whole=False)
        self.calls = 0
        self.retries = 0
        self._reasoned = 0
        self._finished = 0
        self._saved_tokens = 0
        self._uncounted = 0
        self._charged = [0, 0, 0]
        """Tokens of prompts, answers and caches, of calls that the endpoint counted."""

    def add(self, call: CallRecord) -> None:
        """Take one finished call."""
        usage = call.reply.usage
        self.calls += 1
        self.retries += call.timing.retries
        self._prompt.add(usage.prompt_tokens)
        self._completion.add(usage.completion_tokens)
        self._reasoning.add(usage.reasoning_tokens)
        self._cached.add(usage.cached_tokens)
        self.latency.add(call.timing.latency_s)
        self._saved_tokens += call.saved_tokens
        self._take_reasoning(call.reply)
        if usage.prompt_tokens is None or usage.completion_tokens is None:
            self._uncounted += 1
            return
        cached = min(usage.cached_tokens or 0, usage.prompt_tokens)
        for index, count in enumerate((usage.prompt_tokens, usage.completion_tokens, cached)):
            self._charged[index] += count

    def _take_reasoning(self, reply: Reply) -> None:
        if reply.reasoning:
            text, is_finished = reply.reasoning, bool(reply.content.strip() or reply.tool_calls)
        elif self._tags is not None and is_unfinished(reply.content, self._tags):
            text, is_finished = reply.content, False
        else:
            self._words.add(None)
            return
        self._reasoned += 1
        self._finished += is_finished
        self._words.add(len(text.split()))

    def tokens(self) -> Tokens:
        """Tokens per call."""
        return Tokens(
            prompt=self._prompt.distribution(),
            completion=self._completion.distribution(),
            reasoning=self._reasoning.distribution(),
            cached=self._cached.distribution(),
            saved=self._saved_tokens,
        )

    def reasoning(self) -> ReasoningStatistics:
        """How much was reasoned, and how often an answer came of it."""
        return ReasoningStatistics(
            calls=self._reasoned,
            finished=self._finished,
            finished_share=self._finished / self._reasoned if self._reasoned else None,
            words=self._words.distribution(),
        )

    def cost(self, price: Price | None) -> Cost | None:
        """What they cost; null without a price."""
        return cost_of(price, self._charged, self.calls, self._uncounted)


def cost_of(price: Price | None, charged: Sequence[int], calls: int, uncounted: int) -> Cost | None:
    """What calls cost of which so many were not counted; `charged` are tokens of prompts, answers and caches
    of the others. Null without a price."""
    if price is None:
        return None
    return Cost(
        value=round(price.cost(*charged), 6) if calls > uncounted else None,
        price=price.model_dump(),
        uncounted=uncounted,
    )
