"""Samples of BFCL: each category's entries as they will be sent, from the official package.

What must keep the order of its keys (tools, whose parameters a chat template shows in order, and the
simulators' initial state, which decides how files are listed) is frozen as JSON text. The entries of
a memory category become one sample per scenario: its conversations, and the questions asked
afterwards, because all of them share one memory (docs/adr/0020-bfcl.md).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from evalkit.benchmarks.contract import Sample
from evalkit.errors import DataError
from evalkit.scoring.bfcl_categories import (
    CATEGORIES,
    ENTRIES,
    IRRELEVANCE,
    MEMORY,
    MULTI_TURN,
    RELEVANCE,
    WEB_SEARCH,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from evalkit.scoring.bfcl_package import Entry, Package

PYTHON_HINT = " Note that the provided function is in Python 3 syntax."
DIALOGUES = (*MULTI_TURN, *WEB_SEARCH, *MEMORY)
CONVERSATIONS = "conversations that write a memory"


@dataclass(frozen=True, slots=True)
class Rendering:
    """The knobs that decide what is sent."""

    card_schema: bool
    """The Python hint for every language, and no strings for parameters of Java and JavaScript."""
    double_hint: bool
    """When held-out functions appear, every description gets the hint, most of them once more; else
    those that appear have none, as on the leaderboard."""


def load_category(package: Package, category: str, rendering: Rendering) -> list[Sample]:
    """The samples of one category in data-set order. Raises DataError for another number of them."""
    plain = package.entries(category, language_hint=False)
    if rendering.card_schema:
        hinted = [{**entry, "function": _hinted(entry["function"])} for entry in plain]
    else:
        hinted = package.entries(category, language_hint=True)
    answers = _answers(package, category)
    questions = [number for number, entry in enumerate(plain) if "_prereq_" not in entry["id"]]
    if len(questions) != ENTRIES[category] or (answers and len(answers) != len(questions)):
        raise DataError(
            f"bfcl-eval has {len(questions)} entries of {category} and {len(answers)} answers, "
            f"not {ENTRIES[category]}"
        )
    if category in MEMORY:
        return _chains(package, category, hinted, dict(zip(questions, answers, strict=True)))
    return [
        _sample(package, category, plain[number], hinted[number], answer, rendering)
        for number, answer in zip_longest(questions, answers)
    ]


def arrange(samples: Sequence[Sample]) -> list[Sample]:
    """First one of each category, in their order, so that a smoke run sees them; then the longest:
    a chain of conversations that began last would be waited for by an idle cluster."""
    first: dict[str | None, Sample] = {}
    for sample in samples:
        first.setdefault(sample.subset, sample)
    seen = {sample.id for sample in first.values()}
    longest = {name: -rank for rank, name in enumerate(CATEGORIES)}
    rest = [sample for sample in samples if sample.id not in seen]
    return [*first.values(), *sorted(rest, key=lambda sample: longest[str(sample.subset)])]


def parts_of(sample: Sample) -> dict[str, int]:
    """What a sample is made of, as the benchmark's authors count."""
    data = sample.data
    if data["category"] in MEMORY:
        return {"dialogues": len(data["questions"]), CONVERSATIONS: len(data["conversations"])}
    return {"dialogues" if data["category"] in DIALOGUES else "single calls": 1}


def ordered(value: Any) -> str:
    """JSON text that keeps the order of keys."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _answers(package: Package, category: str) -> list[Any]:
    """Gold answers in the order of the entries; none where every text is right or none is."""
    return [] if category in (*IRRELEVANCE, *RELEVANCE) else package.answers(category)


def _sample(
    package: Package,
    category: str,
    plain: Entry,
    hinted: Entry,
    answer: Any,
    rendering: Rendering,
) -> Sample:
    if category not in DIALOGUES:
        return Sample(
            id=plain["id"],
            messages=tuple(plain["question"][0]),
            target=answer,
            data={
                "category": category,
                "tools": _tools(package, hinted["function"]),
                "functions": plain["function"],
            },
            subset=category,
        )
    return Sample(
        id=plain["id"],
        messages=tuple(plain["question"][0]),
        target=answer,
        data={
            "category": category,
            "turns": _turns(package, plain),
            "tools": _tools(package, hinted["function"]),
            "later_tools": dict(_later_tools(package, hinted, rendering)),
            "classes": plain["involved_classes"],
            "config": ordered(plain.get("initial_config", {})),
        },
        subset=category,
    )


def _turns(package: Package, entry: Entry) -> list[list[dict[str, Any]]]:
    """What the user says; where functions appear, that they did."""
    appear = entry.get("missed_function", {})
    said = [{"role": "user", "content": package.added_functions_prompt}]
    return [
        said if str(number) in appear else messages
        for number, messages in enumerate(entry["question"])
    ]


def _later_tools(
    package: Package, hinted: Entry, rendering: Rendering
) -> Iterator[tuple[str, str]]:
    """The tools from each turn on in which held-out functions appear, as JSON text.

    The official loader gives no hint to functions that are held out, and its loop adds none when they
    appear. The harness behind the card then gives one to every function, the old ones included.
    """
    functions = hinted["function"]
    for turn, added in sorted(hinted.get("missed_function", {}).items(), key=lambda t: int(t[0])):
        functions = [*functions, *added]
        if rendering.double_hint:
            functions = _hinted(functions)
        yield turn, _tools(package, functions)


def _hinted(functions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**doc, "description": doc["description"] + PYTHON_HINT} for doc in functions]


def _tools(package: Package, functions: Sequence[Mapping[str, Any]]) -> str:
    """Descriptions as the `tools` of a request, as JSON text."""
    return _rendered(package, ordered(functions))


@lru_cache(maxsize=256)
def _rendered(package: Package, functions: str) -> str:
    """Dialogues have few different ones, and the official rendering takes its time."""
    return ordered(package.tools(json.loads(functions)))


def _chains(
    package: Package, category: str, entries: Sequence[Entry], answers: Mapping[int, Any]
) -> list[Sample]:
    """One sample per scenario: its conversations in their order, then its questions."""
    samples = []
    for scenario in dict.fromkeys(entry["scenario"] for entry in entries):
        mine = [n for n, entry in enumerate(entries) if entry["scenario"] == scenario]
        conversations = sorted(
            (entries[n] for n in mine if n not in answers), key=lambda entry: _order(entry["id"])
        )
        questions = [n for n in mine if n in answers]
        scripts = {
            entry["id"]: package.with_memory_prompt(entry["question"], category, scenario)
            for entry in [*conversations, *(entries[n] for n in questions)]
        }
        samples.append(
            Sample(
                id=f"{category}_{scenario}",
                target={entries[n]["id"]: answers[n] for n in questions},
                data={
                    "category": category,
                    "scenario": scenario,
                    "tools": _tools(package, entries[mine[0]]["function"]),
                    "classes": entries[mine[0]]["involved_classes"],
                    "conversations": [
                        {"id": entry["id"], "turns": scripts[entry["id"]][0]}
                        for entry in conversations
                    ],
                    "questions": [
                        {"id": entries[n]["id"], "turns": scripts[entries[n]["id"]][0]}
                        for n in questions
                    ],
                    "memory_mark": scripts[conversations[0]["id"]][1],
                },
                subset=category,
            )
        )
    return samples


def _order(conversation: str) -> int:
    """The number of a conversation: after `_prereq_`, before the scenario."""
    return int(conversation.partition("_prereq_")[2].partition("-")[0])
