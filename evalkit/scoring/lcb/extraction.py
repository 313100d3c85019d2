"""Finds the program in an answer, by one of three rules that gave different scores.

`first_ns` is what the harness behind the card did, `last_ns2512` what it did from 2025-12-11 on (and
which finds nothing in a block without a tag, because the last fence is the closing one), `last_closed`
reads fences line by line and takes the last block that is closed and can be Python.
Sources: NVIDIA-NeMo/Skills@5aca4469 and @699dfaa6, by their behaviour.
"""

from __future__ import annotations

import re
from typing import Literal

CodeBlock = Literal["first_ns", "last_ns2512", "last_closed"]

_FENCE = re.compile(r"^[ \t]*```+[ \t]*([A-Za-z0-9_+.-]*)[^\n`]*$", re.MULTILINE)
_PYTHON = frozenset({"python", "python3", "py"})
_OPEN, _CLOSE = "<think>", "</think>"


def extract_code(text: str, rule: CodeBlock) -> str:
    """The program without blanks around it, or "" where the rule finds none."""
    text = text.replace("\r", "")
    if rule == "last_closed":
        return _last_closed(_after_last_thought(text)).strip()
    return _by_marks(_after_first_thought(text), last=rule == "last_ns2512").strip()


def _after_first_thought(text: str) -> str:
    if _OPEN not in text:
        return text
    return text.partition(_CLOSE)[2]


def _after_last_thought(text: str) -> str:
    if _CLOSE in text:
        return text.rpartition(_CLOSE)[2]
    return "" if _OPEN in text else text


def _by_marks(text: str, *, last: bool) -> str:
    """Up to the next fence; what follows the mark on its line stays, a tag included."""
    for mark in ("```python", "```"):
        start = text.rfind(mark) if last else text.find(mark)
        if start < 0:
            continue
        code, fence, _ = text[start + len(mark) :].partition("```")
        return code if fence or not last else ""
    return text


def _last_closed(text: str) -> str:
    tagged: str | None = None
    untagged: str | None = None
    opened: re.Match[str] | None = None
    fences = list(_FENCE.finditer(text))
    for fence in fences:
        if opened is None or fence[1]:
            opened = fence
            continue
        code = text[opened.end() : fence.start()]
        if opened[1].lower() in _PYTHON:
            tagged = code
        elif not opened[1]:
            untagged = code
        opened = None
    if not fences:
        return text
    return tagged if tagged is not None else (untagged or "")
