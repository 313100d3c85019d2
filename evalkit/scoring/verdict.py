"""What a judge said, read from its text: yes, no, or nothing that can be read.

The rule behind the model card takes the first thing that looks like the heading of a verdict, anywhere,
and whatever does not continue with `yes` is a no: `**Judgement:** yes` too, since two asterisks come
first. The rule before it (`ns-2511`) took what follows the last literal heading. The tolerant rule wants
a line of its own and says when it found none.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

VerdictRule: TypeAlias = Literal["card", "ns-2511", "tolerant"]

_CARD = re.compile(r"\*{0,2}Judgement\*{0,2}\s*:", re.IGNORECASE)
_TOLERANT = re.compile(
    r"(?im)^[ \t>*_#-]*(?:judge?ment|correct)[ \t*_]*:[\s*_\"'`]*(yes|no)\b",
)
_NS_2511 = "Judgement:"
_CONFIDENCE = re.compile(
    r"(?i)confidence[ \t*_]*:[\s*_\"'`]*([0-9]{1,3})(?:\.[0-9]+)?[ \t]*\|?\\?%?"
)


def read_verdict(text: str, rule: VerdictRule) -> bool | None:
    """Whether the judge accepts the answer; null where the rule finds no verdict.

    Only the tolerant rule returns null: the others take everything but a yes for a no.
    """
    if rule == "tolerant":
        found = _TOLERANT.search(text)
        return None if found is None else found[1].lower() == "yes"
    return _heading_rest(text, rule).strip().lower().startswith("yes")


def _heading_rest(text: str, rule: VerdictRule) -> str:
    if rule == "ns-2511":
        return text.rpartition(_NS_2511)[2] if _NS_2511 in text else ""
    found = _CARD.search(text)
    return "" if found is None else text[found.end() :]


def read_confidence(text: str) -> float:
    """The confidence that an answer states (fraction); 1 where it states none, as the authors of
    Humanity's Last Exam have it."""
    found = _CONFIDENCE.search(text)
    return 1.0 if found is None else min(int(found[1]), 100) / 100
