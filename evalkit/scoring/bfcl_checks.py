"""Verdicts on BFCL answers that need no execution: calls by their arguments, relevance, final texts.

Pure: a model's text is data here. The comparison is the official package's; what is ours is how an
answer becomes what it compares, after the handler behind the published scores (arguments are JSON
texts of native tool calls). Answers to dialogues are executed, so they are judged in `bfcl_driver`.

A *step* is one answer: a list of `{name: arguments}` where it calls tools, else its text, and a list
of that text where the text is empty. All of it is JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.scoring.bfcl_categories import IRRELEVANCE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.scoring.bfcl_package import Package

DECODING_FAILED = "ast_decoder:decoder_failed"
WRONG_FORMAT = "ast_decoder:decoder_wrong_output_format"
CHECKER_FAILED = "checker_failed"
NO_TURN = "agentic:inference_error"
NO_TEXT = "agentic:no_last_message"

NOT_DECODABLE = (AttributeError, IndexError, RecursionError, TypeError, ValueError)
"""What decoding raises on whatever a model may answer."""
ODD_ANSWER = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What the official checkers raise on answers nobody thought of: those are not right."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Whether an answer is right, and the official name of what is wrong with it."""

    valid: bool
    error_type: str | None = None


def render_calls(step: Any) -> list[str]:
    """The calls of a step as the simulators are given them: `f(a=1,b='x')`.

    Raises one of NOT_DECODABLE where the step has no calls, or arguments that are no JSON object.
    """
    calls = []
    for call in step:
        for name, arguments in call.items():
            values = json.loads(arguments) if isinstance(arguments, str) else arguments
            calls.append(f"{name}({','.join(f'{k}={v!r}' for k, v in values.items())})")
    return calls


def calls_of(step: Any) -> list[str]:
    """The calls of a step; empty where there is nothing to execute."""
    try:
        calls = render_calls(step)
    except NOT_DECODABLE:
        return []
    return [] if len(calls) == 1 and not calls[0] else calls


def decode_arguments(step: Any) -> list[dict[str, Any]]:
    """The calls of a step with parsed arguments. Raises one of NOT_DECODABLE."""
    decoded = []
    for call in step:
        name = next(iter(call.keys()), None)
        if name is None:
            raise IndexError("a call without a name")
        decoded.append({name: json.loads(call[name])})
    return decoded


def judge_calls(
    package: Package,
    step: Any,
    functions: Sequence[Mapping[str, Any]],
    gold: Any,
    category: str,
) -> Judged:
    """A single answer against its possible answers. `functions`: descriptions without hints."""
    try:
        decoded = decode_arguments(step)
    except NOT_DECODABLE:
        return Judged(False, DECODING_FAILED)
    if not package.is_well_formed(decoded):
        return Judged(False, WRONG_FORMAT)
    try:
        verdict = package.check_calls(functions, decoded, gold, category)
    except ODD_ANSWER:
        return Judged(False, CHECKER_FAILED)
    return Judged(bool(verdict["valid"]), None if verdict["valid"] else verdict["error_type"])


def judge_relevance(package: Package, step: Any, category: str) -> Judged:
    """Whether nothing was called where nothing fits, or something where something does.

    A call with broken JSON counts as none, as in the original.
    """
    try:
        calls = not package.is_no_call(decode_arguments(step))
    except NOT_DECODABLE:
        calls = False
    if category in IRRELEVANCE:
        return Judged(not calls, "irrelevance_error:decoder_success" if calls else None)
    return Judged(calls, None if calls else "relevance_error:decoder_failed")


def judge_final_text(
    package: Package, turns: Sequence[Sequence[Any]], gold: Sequence[str]
) -> Judged:
    """The last text of a dialogue with one turn against its possible answers."""
    if len(turns) != 1:
        return Judged(False, NO_TURN)
    text = final_text(turns[0])
    if not text:
        return Judged(False, NO_TEXT)
    verdict = package.check_text(text, gold)
    return Judged(bool(verdict["valid"]), None if verdict["valid"] else verdict["error_type"])


def final_text(steps: Sequence[Any]) -> Any:
    """The last step that calls nothing; null where there is none."""
    return next((step for step in reversed(steps) if not calls_of(step)), None)
