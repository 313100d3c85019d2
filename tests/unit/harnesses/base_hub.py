"""Data sets of the 16 tasks for base models as folders, with rows made up in the format of the hub's.

The library `datasets` takes a folder of a data set's name in the working folder before it asks the hub, and
the driver works in `params.include_path`. Each part has two documents to answer, and as many examples as the
task shows.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

LETTERS = "ABCDEFGHIJ"
ASKED = (100, 101)
"""Of the two documents; of their choices the first is right, and the second."""
LANGUAGES = ("es", "de", "fr", "zh", "it", "ja", "pt", "ko")
CATEGORIES = ("Business", "Humanities", "Medical", "Other", "STEM", "Social Sciences")
PRO = (
    *("biology", "business", "chemistry", "computer science", "economics", "engineering", "health"),
    *("history", "law", "math", "other", "philosophy", "physics", "psychology"),
)
MATHS = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra"),
    *("number_theory", "prealgebra", "precalculus"),
)
STEPS = {
    "es": "Respuesta paso a paso: ",
    "de": "Schritt-für-Schritt-Antwort: ",
    "fr": "Réponse étape par étape : ",
    "zh": "逐步解答:",
    "ja": "ステップごとの答え:",
    "ru": "Пошаговое решение: ",
}

Rows = list[dict[str, Any]]


def rows(number: int, make: Any) -> Rows:
    """`make(index)` for so many."""
    return [make(index) for index in range(number)]


def two(make: Any) -> Rows:
    """Other rows than the examples, which lm-eval leaves out where they are the document itself."""
    return [make(index) for index in ASKED]


def write(hub: Path, name: str, configs: Mapping[str, Mapping[str, Sequence[Any]]]) -> None:
    """A data set with its configurations, each of which has splits."""
    folder = hub / name
    card = ["---", "configs:"]
    for config, splits in configs.items():
        card += [f"- config_name: {config}", "  data_files:"]
        for split, given in splits.items():
            path = folder / config / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in given), "utf-8")
            card += [f"  - split: {split}", f"    path: {config}/{split}.jsonl"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]), "utf-8")


def make_hub(hub: Path, mmlu_subjects: Sequence[str]) -> None:
    """All of them."""
    _multiple_choice(hub)
    _exams(hub, mmlu_subjects)
    _mathematics(hub)
    _programs(hub)


def _labelled(index: int) -> dict[str, Any]:
    return {"text": ["ice", "sand", "smoke", "wool"], "label": list("ABCD")}


def _multiple_choice(hub: Path) -> None:
    def arc(index: int) -> dict[str, Any]:
        question = f"Which is frozen water number {index}?"
        return {
            "id": f"{index}",
            "question": question,
            "choices": _labelled(index),
            "answerKey": LETTERS[index % 4],
        }

    def hellaswag(index: int) -> dict[str, Any]:
        return {
            "ind": index,
            "activity_label": "Baking",
            "ctx_a": f"She has {index} eggs.",
            "ctx_b": "she",
            "ctx": "",
            "endings": ["bakes.", "flies.", "rains.", "melts."],
            "source_id": "",
            "split": "",
            "split_type": "",
            "label": str(index % 4),
        }

    def open_book(index: int) -> dict[str, Any]:
        return {
            "id": f"{index}",
            "question_stem": f"Cold water {index} becomes",
            "choices": _labelled(index),
            "answerKey": LETTERS[index % 4],
        }

    def piqa(index: int) -> dict[str, Any]:
        return {
            "goal": f"Open jar {index}",
            "sol1": "Turn it.",
            "sol2": "Sing.",
            "label": index % 2,
        }

    def winogrande(index: int) -> dict[str, Any]:
        sentence = f"The cup {index} fell off the shelf, for the _ was loose."
        answer = str(index % 2 + 1)
        return {"sentence": sentence, "option1": "cup", "option2": "shelf", "answer": answer}

    def race(index: int) -> dict[str, Any]:
        known = {"question": "Who came?", "answer": "B", "options": ["Ann", "Bo", "Cy", "Di"]}
        asked = {"question": "When?", "answer": LETTERS[index % 4], "options": ["1", "2", "3", "4"]}
        return {"article": f"Bo came at {index}.", "problems": str([known, asked])}

    splits = {"train": rows(30, arc), "validation": rows(2, arc), "test": two(arc)}
    write(hub, "allenai/ai2_arc", {"ARC-Challenge": splits})
    shown = {"train": rows(12, hellaswag), "validation": two(hellaswag)}
    write(hub, "hellaswag", {"default": shown})
    splits = {name: two(open_book) for name in ("train", "validation", "test")}
    write(hub, "openbookqa", {"main": splits})
    write(hub, "baber/piqa", {"default": {"train": rows(2, piqa), "validation": two(piqa)}})
    shown = {"train": rows(8, winogrande), "validation": two(winogrande)}
    write(hub, "winogrande", {"winogrande_xl": shown})
    write(hub, "EleutherAI/race", {"high": {"test": two(race)}})


def _exams(hub: Path, mmlu_subjects: Sequence[str]) -> None:
    def mmlu(index: int) -> dict[str, Any]:
        choices = ["one", "two", "three", "four"]
        return {
            "question": f"Which? {index}",
            "subject": "",
            "choices": choices,
            "answer": index % 4,
        }

    def pro(category: str, index: int) -> dict[str, Any]:
        return {
            "question_id": index,
            "question": f"Which {category} is it? {index}",
            "options": list("klmnopqrst"),
            "answer": LETTERS[index % 10],
            "answer_index": index % 10,
            "cot_content": f"A: Let's think step by step. The answer is ({LETTERS[index % 10]}).",
            "category": category,
            "src": "",
        }

    def agieval(index: int) -> dict[str, Any]:
        options = ["(A)red", "(B)green", "(C)blue", "(D)white"]
        query = f"Q: Which colour? {index} Answer Choices: {''.join(options)}\nA: the answer is"
        return {"query": query, "choices": options, "gold": [index % 4]}

    def lite(category: str, index: int) -> dict[str, Any]:
        options = {f"option_{letter}": letter * 2 for letter in "abcd"}
        row = {"question": f"{category}? {index}", "answer": LETTERS[index % 4], **options}
        return {**row, "subject_category": category}

    parts = {"dev": rows(5, mmlu), "test": two(mmlu)}
    write(hub, "hails/mmlu_no_train", dict.fromkeys(mmlu_subjects, parts))
    shots = [pro(each, index) for each in PRO for index in range(5)]
    asked = [pro(each, index) for each in PRO for index in ASKED]
    write(hub, "TIGER-Lab/MMLU-Pro", {"default": {"validation": shots, "test": asked}})
    for name in (
        *("aqua-rat", "logiqa-en", "lsat-ar", "lsat-lr", "lsat-rc"),
        *("sat-en", "sat-en-without-passage", "sat-math"),
    ):
        write(hub, f"hails/agieval-{name}", {"default": {"test": two(agieval)}})
    shots = [lite(each, index) for each in CATEGORIES for index in range(6)]
    asked = [lite(each, index) for each in CATEGORIES for index in ASKED]
    parts = {"dev": shots, "test": asked}
    write(hub, "CohereForAI/Global-MMLU-Lite", dict.fromkeys(LANGUAGES, parts))


def _mathematics(hub: Path) -> None:
    def gsm(index: int) -> dict[str, Any]:
        return {"question": f"What is 2 + {index}?", "answer": f"We add.\n#### {2 + index}"}

    def hendrycks(index: int) -> dict[str, Any]:
        solution = f"We add and get $\\boxed{{{3 + index}}}$."
        problem = f"Find $3 + {index}$."
        return {"problem": problem, "level": "Level 5", "type": "Algebra", "solution": solution}

    def math_500(index: int) -> dict[str, Any]:
        return {
            **hendrycks(index),
            "answer": f"{3 + index}",
            "subject": "",
            "unique_id": f"{index}",
        }

    def mgsm(language: str, index: int) -> dict[str, Any]:
        question = f"2 + {index}?"
        answer = f"{STEPS[language]}{2 + index}."
        return {"question": question, "answer": answer, "answer_number": 2 + index}

    write(hub, "gsm8k", {"main": {"train": rows(2, gsm), "test": rows(2, gsm)}})
    parts = {"train": rows(2, hendrycks), "test": rows(2, hendrycks)}
    write(hub, "EleutherAI/hendrycks_math", dict.fromkeys(MATHS, parts))
    write(hub, "HuggingFaceH4/MATH-500", {"default": {"test": rows(2, math_500)}})
    languages = {}
    for language in STEPS:
        shown = [mgsm(language, index) for index in range(8)]
        asked = [{**mgsm(language, index), "answer": None} for index in range(2)]
        languages[language] = {"train": shown, "test": asked}
    write(hub, "juletxara/mgsm", languages)


def _programs(hub: Path) -> None:
    def human(index: int) -> dict[str, Any]:
        name = f"more_{index}"
        return {
            "task_id": f"HumanEval/{index}",
            "prompt": f'def {name}(number):\n    """One more than it is."""\n',
            "canonical_solution": "    return number + 1\n",
            "test": "def check(candidate):\n    assert candidate(1) == 2\n",
            "entry_point": name,
        }

    def mbpp(index: int) -> dict[str, Any]:
        return {
            "source_file": "",
            "task_id": index,
            "prompt": f"Write a function that adds {index}.",
            "code": f"def add(number):\n    return number + {index}",
            "test_imports": ["import math"],
            "test_list": [f"assert add(1) == {1 + index}", f"assert add(0) == {index}"],
        }

    write(hub, "openai/openai_humaneval", {"openai_humaneval": {"test": rows(2, human)}})
    parts = {"prompt": rows(5, mbpp), "test": [mbpp(10), mbpp(11)]}
    write(hub, "mbpp", {"sanitized": {**parts, "train": rows(2, mbpp)}})
