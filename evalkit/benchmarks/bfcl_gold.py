"""Right and wrong answers to BFCL as a model would give them, from its possible answers.

A possible answer lists the values that each argument may have. Java and JavaScript values are wanted
as source text. Gold calls of dialogues are Python text and become native tool calls.
"""

from __future__ import annotations

import ast
import json
from typing import TYPE_CHECKING, Any

from evalkit.benchmarks.contract import Solution
from evalkit.scoring.bfcl_categories import (
    IRRELEVANCE,
    MEMORY,
    MULTI_TURN,
    RELEVANCE,
    WEB_SEARCH,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from evalkit.benchmarks.contract import Sample

OMITTED = ""
"""Among the values of an optional argument: it may be left out."""
DONE = "Done."
UNRELATED = "I do not know."
_PLACEHOLDER = "evalkit_calls_no_such_function"


_TEXTS = (
    "the items of this list are texts once the checker has parsed them, and the answer wants numbers "
    "or truth values among them"
)
_NO_VALUE = "a needed argument has an empty list of possible values"
IMPOSSIBLE: Mapping[str, str] = {
    "live_multiple_862-181-3": "the answer needs the argument `journey_start_time`, which the "
    "function does not have: without it one is missing, with it one is unexpected",
    "live_multiple_964-207-0": "the function needs the argument `statement`, which is not in the "
    "answer: without it one is missing, with it one is unexpected",
    "live_simple_106-63-0": _NO_VALUE,
    "live_simple_112-68-0": _NO_VALUE,
    "simple_java_36": _TEXTS,
    "simple_java_65": _TEXTS,
}
"""Entries whose possible answers the official checker does not accept in any form, and why. They count
as wrong for every model, as on the leaderboard."""


def gold_solution(sample: Sample) -> Solution | None:
    """A right answer, where there is one; of a multi-turn entry it is right when it is graded."""
    category = sample.data["category"]
    if sample.id in IMPOSSIBLE:
        return None
    if category in MEMORY:
        return _chain({name: answers[0] for name, answers in sample.target.items()})
    if category in WEB_SEARCH:
        return Solution(sample.target[0], data={"turns": [[sample.target[0]]]})
    if category in MULTI_TURN:
        return Solution(DONE, data={"turns": gold_turns(sample)})
    if category in IRRELEVANCE:
        return Solution(UNRELATED, data={"step": UNRELATED})
    return Solution("", data={"step": gold_step(sample)})


def wrong_solution(sample: Sample) -> Solution:
    """An answer that is wrong wherever it is given."""
    category = sample.data["category"]
    if category in MEMORY:
        return _chain(dict.fromkeys(sample.target, UNRELATED))
    if category in WEB_SEARCH:
        return Solution(UNRELATED, data={"turns": [[UNRELATED]]})
    if category in MULTI_TURN:
        return Solution(DONE, data={"turns": [[DONE] for _ in sample.target]})
    if category in RELEVANCE:
        return Solution(UNRELATED, data={"step": UNRELATED})
    return Solution("", data={"step": [{_PLACEHOLDER: "{}"}]})


def _chain(texts: Mapping[str, str]) -> Solution:
    return Solution("", data={"questions": {name: [[text]] for name, text in texts.items()}})


def gold_step(sample: Sample) -> list[dict[str, str]]:
    """The calls of a right single answer."""
    docs = {doc["name"]: doc for doc in sample.data["functions"]}
    if sample.target is None:  # relevance: any call will do
        return [{next(iter(docs)): "{}"}]
    is_only = len(docs) == 1
    in_source = IN_SOURCE.get(sample.data["category"], _as_it_is)
    step = []
    for call in sample.target:
        for name, allowed in call.items():
            # Two possible answers to a single function name another one; only its own is right.
            doc = next(iter(docs.values())) if is_only else docs[name]
            needed, types = doc["parameters"]["required"], doc["parameters"]["properties"]
            arguments = {
                key: in_source(_first(values), types.get(key, {}))
                for key, values in allowed.items()
                if OMITTED not in values or key in needed
            }
            text = json.dumps(arguments, ensure_ascii=False)
            step.append({doc["name"].replace(".", "_"): text})
    return step


def _first(values: Sequence[Any]) -> Any:
    """The first value that is one, with the first of each of its own."""
    value = next((value for value in values if value != OMITTED), OMITTED)
    if isinstance(value, dict):
        return _resolve(value)
    if isinstance(value, list):
        return [_resolve(each) if isinstance(each, dict) else each for each in value]
    return value


def _resolve(possible: Mapping[str, Any]) -> dict[str, Any]:
    """A dictionary of which each value is a list of possible ones."""
    found = {}
    for key, values in possible.items():
        value = next((each for each in values if each != OMITTED), None)
        if value is not None or OMITTED not in values:
            found[key] = value
    return found


def _as_it_is(value: Any, _doc: Mapping[str, Any]) -> Any:
    return value


def _in_java(value: Any, doc: Mapping[str, Any]) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return _java_list(value, doc["type"], doc["items"]["type"])
    if isinstance(value, dict):
        puts = " ".join(f'put("{key}", {_literal(each)});' for key, each in value.items())
        return f"new HashMap<>() {{{{ {puts} }}}}" if puts else "new HashMap<>()"
    return _java_number(value, doc["type"])


def _java_list(values: Sequence[Any], kind: str, item: str) -> str:
    """The checker strips quotes from texts in an ArrayList of texts, and nowhere else."""
    quoted = kind == "ArrayList" and item == "String"
    items = ", ".join(
        (f'"{each}"' if quoted else each) if isinstance(each, str) else _java_number(each, item)
        for each in values
    )
    if kind == "Array":
        return f"new Object[]{{{items}}}"
    return f"new ArrayList<>(Arrays.asList({items}))" if items else "new ArrayList<>()"


def _java_number(value: Any, kind: str) -> str:
    return _literal(value) + {"long": "L", "float": "f"}.get(kind, "")


def _in_javascript(value: Any, doc: Mapping[str, Any]) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"'{key}': {_literal(each)}" for key, each in value.items()) + "}"
    return _literal(value) + ("n" if doc["type"] == "Bigint" else "")


def _literal(value: Any) -> str:
    """In both languages as in JSON."""
    return json.dumps(value, ensure_ascii=False)


IN_SOURCE: Mapping[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "simple_java": _in_java,
    "simple_javascript": _in_javascript,
}


def gold_turns(sample: Sample) -> list[list[Any]]:
    """The steps of a model that makes all gold calls of a turn at once, and then says something."""
    parameters = {
        tool["function"]["name"]: list(tool["function"]["parameters"]["properties"])
        for text in [sample.data["tools"], *sample.data["later_tools"].values()]
        for tool in json.loads(text)
    }
    steps = [[gold_call(call, parameters) for call in calls] for calls in sample.target]
    return [[calls, DONE] if calls else [DONE] for calls in steps]


def gold_call(call: str, parameters: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """A gold call, which is Python text, as a native tool call: every argument by name."""
    tree = ast.parse(call, mode="eval").body
    assert isinstance(tree, ast.Call)
    assert isinstance(tree.func, ast.Name)
    names = parameters[tree.func.id]
    arguments = {
        name: ast.literal_eval(value) for name, value in zip(names, tree.args, strict=False)
    }
    arguments |= {str(each.arg): ast.literal_eval(each.value) for each in tree.keywords}
    return {tree.func.id: json.dumps(arguments, ensure_ascii=False)}
