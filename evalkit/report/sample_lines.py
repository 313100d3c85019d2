"""One line of `samples.jsonl.zst`: what the model was asked, what it answered and what that scored.

Only what a second run of the same calls would give too: no time, host, attempt or journal. So the
same answers give the same bytes, however the work was cut up and however often it was interrupted.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable

    from evalkit.benchmarks.contract import Sample
    from evalkit.report.aggregate import RepeatScores
    from evalkit.report.results import Reason
    from evalkit.store.records import CallRecord, StepRecord
    from evalkit.store.union import FinishedUnit


@dataclass(frozen=True, slots=True)
class Missed:
    """In the place of scores: why a finished unit has none."""

    reason: Reason
    message: str


def render_sample_line(
    sample: Sample,
    unit: FinishedUnit,
    score: RepeatScores | Missed,
    grading: Any,
    *,
    publishable: bool,
) -> bytes:
    """The line of one finished unit. Raises TypeError where a benchmark's data is not JSON.

    A unit without scores has the reason for its outcome (`scorer_error`, `judge_error`, `ungraded`).
    Where the data may not be republished the target is withheld and the messages are given as a
    checksum.
    """
    missed = score if isinstance(score, Missed) else None
    scores = None if isinstance(score, Missed) else score
    reply = unit.reply
    line: dict[str, Any] = {
        "id": sample.id,
        "sample": unit.key.sample,
        "repeat": unit.key.repeat,
        "subset": sample.subset,
        "cluster": sample.cluster,
        "outcome": missed.reason if missed else unit.outcome,
        "answer": scores.answer if scores else None,
        "target": sample.target if publishable else None,
        "scores": scores.values if scores else None,
        "detail": missed.message if missed else unit.detail,
        "content": unit.text,
        "data": unit.data,
        # what a judge says about an answer tells the right one
        "grading": grading if publishable else None,
        "reasoning": reply.reasoning if reply else None,
        "tool_calls": reply.tool_calls if reply else (),
        "finish_reason": reply.finish_reason if reply else None,
        "usage": _usage(unit.calls),
        "calls": len(unit.calls),
        "steps": [_step(step) for step in unit.steps],
    }
    if publishable:
        line["messages"] = sample.messages
    else:
        line["messages_sha256"] = hashlib.sha256(orjson.dumps(sample.messages)).hexdigest()
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _step(step: StepRecord) -> dict[str, Any]:
    """What a step was given and gave."""
    return {"name": step.name, "arguments": step.arguments, "result": step.result}


def _usage(calls: Iterable[CallRecord]) -> dict[str, int | None]:
    """Tokens of all calls together; null where one of them is not known."""
    usages = [call.reply.usage for call in calls]
    return {
        "prompt_tokens": _sum([u.prompt_tokens for u in usages]),
        "completion_tokens": _sum([u.completion_tokens for u in usages]),
        "reasoning_tokens": _sum([u.reasoning_tokens for u in usages]),
    }


def _sum(numbers: list[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known and len(known) == len(numbers) else None
