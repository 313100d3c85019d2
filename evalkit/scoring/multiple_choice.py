r"""The letter a model chose in a multiple-choice answer.

How a letter is searched moves scores by points, so each published order is kept exactly: the two
of NeMo-Skills with their quirks (``\boxed{b}`` never equals ``B``; a formula in a box beats an
explicit "Answer: D"; the article in "Answer: a molecule" is a letter), and evalkit's own, which
trusts an answer line first and accepts only letters the item offers. Answers can be half a
megabyte of a model that repeats itself, so every search here takes linear time: where an original
pattern would take quadratic time, an equivalent linear search stands in its place.

It reads the content of the answer only and never the reasoning; comparing the letter with the gold
one is the benchmark's affair.
"""

import re
from collections.abc import Iterator
from typing import Literal, get_args

from evalkit.scoring.boxed import braced, last_boxed, last_opened_box

McqOrder = Literal["regex_then_boxed", "boxed_then_regex", "answer_line_first"]
"""Profile `card` (NeMo-Skills from 2025-12-09), its state before that day, and profile `fixed`."""

MCQ_ORDERS: tuple[McqOrder, ...] = get_args(McqOrder)
LETTERS = "ABCDEFGHIJ"

_FINAL_PHRASE = "The final answer is "
_LONE_CAPITAL = re.compile(r"\b[A-Z]\b")
_ANSWER_LETTER = re.compile(
    r"(?i)[\*\_]{0,2}Answer[\*\_]{0,2}\s*:[\s\*\_]{0,2}\s*([A-Z])(?![a-zA-Z0-9])"
)

# Everything that may stand between "answer:" and its letter. Its pieces start with different
# characters and none starts with a letter, so the possessive "*+" changes no match.
_WRAP = r"(?:[\s*_$]|\\\(|\\\[|\\boxed\s*\{|\\(?:text|textbf|mathrm|mathbf)\s*\{|[({\[])*+"
_UPPER_LINE = re.compile(
    r"(?i:answer)[*_]{0,2}\s*:" + _WRAP + r"([A-J])(?![A-Za-z0-9_'])(?!\s*/\s*[A-J]\b)"
)
_LOWER_LINE = re.compile(
    r"(?i:answer)[*_]{0,2}\s*:" + _WRAP + r"([a-j])(?=[\s)}\]*_$.\\]*$)", re.MULTILINE
)
# A leading "final" or "correct" would change no letter, and white space before it costs squares.
_IS_LETTER = re.compile(
    r"(?i:(?:answer|option|choice)\s+is)(?:\s*:)?" + _WRAP + r"([A-J])(?![A-Za-z0-9_'])"
)
_LABELLED = re.compile(r"([A-Za-z])[).:]\s")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{")
_PAIRS = {"(": ")", "[": "]", "{": "}"}
# Nobody wraps a letter deeper; the bound keeps a box of a million brackets linear.
_MOST_WRAPPINGS = 16


def extract_letter(text: str, n_options: int, order: McqOrder) -> str | None:
    """The chosen letter in ``text``, or None.

    ``n_options`` (1 to 10) limits the letters under ``answer_line_first`` alone: the original
    harness does not know how many options an item has, and accepts any single character in a box.
    Raises ValueError for an unknown order or an impossible number of options.
    """
    if not 1 <= n_options <= len(LETTERS):
        raise ValueError(f"n_options must be 1 to {len(LETTERS)}, not {n_options}")
    if order == "answer_line_first":
        return _answer_line_first(text, LETTERS[:n_options])
    if order == "regex_then_boxed":
        found = _final_phrase(text) or last_boxed(text)
    elif order == "boxed_then_regex":
        found = last_boxed(text) or _final_phrase(text)
    else:
        raise ValueError(f"unknown order {order!r}; known: {', '.join(MCQ_ORDERS)}")
    return _letter_in(found or "") or _answer_letter(text)


def _final_phrase(text: str) -> str | None:
    """The last of ``The final answer is (.+)$``: dots stop at line ends, so it is on the last line."""
    body = text.removesuffix("\n")
    rest = body[body.rfind("\n") + 1 :].partition(_FINAL_PHRASE)[2]
    return rest or None


def _letter_in(found: str) -> str | None:
    """A single character as it is, or else the last capital that stands alone."""
    if len(found) == 1:
        return found
    return _last_group(_LONE_CAPITAL.finditer(found), group=0)


def _answer_letter(text: str) -> str | None:
    letter = _last_group(_ANSWER_LETTER.finditer(text), group=1)
    return None if letter is None else letter.upper()


def _last_group(matches: Iterator[re.Match[str]], group: int) -> str | None:
    last = None
    for match in matches:
        last = match.group(group)
    return last


def _answer_line_first(text: str, letters: str) -> str | None:
    candidates = [
        (match.start(), match.group(1).upper())
        for pattern in (_UPPER_LINE, _LOWER_LINE)
        for match in pattern.finditer(text)
        if match.group(1).upper() in letters
    ]
    if candidates:
        return max(candidates)[1]
    boxed = _boxed_letter(last_opened_box(text) or "")
    if boxed is not None and boxed in letters:
        return boxed
    stated = (m.group(1) for m in _IS_LETTER.finditer(text))
    return next(reversed([letter for letter in stated if letter in letters]), None)


def _boxed_letter(content: str) -> str | None:
    for _ in range(_MOST_WRAPPINGS):
        peeled = _peel(content)
        if peeled == content:
            break
        content = peeled
    if len(content) == 1:
        return content.upper()
    labelled = _LABELLED.match(content)
    return labelled.group(1).upper() if labelled else None


def _peel(content: str) -> str:
    r"""One layer less: blanks, ``$``, a text command, one pair of brackets, a closing dot."""
    content = content.strip().strip("$").strip().removesuffix(".")
    command = _TEXT_COMMAND.match(content)
    if command:
        inner = braced(content, command.end())
        return inner if inner is not None and _ends_at(content, command.end(), inner) else content
    if content and _PAIRS.get(content[0]) == content[-1] and _is_one_pair(content):
        return content[1:-1]
    return content


def _ends_at(content: str, start: int, inner: str) -> bool:
    return start + len(inner) + 1 == len(content)


def _is_one_pair(content: str) -> bool:
    """Whether the first bracket's partner is the last character: not so for ``(A) or (B)``."""
    opening, closing = content[0], content[-1]
    depth = 0
    for position, character in enumerate(content):
        depth += (character == opening) - (character == closing)
        if depth == 0:
            return position == len(content) - 1
    return False
