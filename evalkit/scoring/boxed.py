r"""The last ``\boxed{...}`` of an answer: where mathematics tasks look for the result.

Kept apart because three graders read it and its corner cases move scores: an unclosed last box
hides every earlier one, and an empty box is an empty text, not "no box". It does not clean or
interpret what the box holds. Source: the answer search of NeMo-Skills as of December 2025.
"""

import re

_BOX = "\\boxed"
_OPENED = "\\boxed{"
_BRACE = re.compile(r"[{}]")


def last_boxed(text: str) -> str | None:
    r"""The content of the last ``\boxed``, or None where it is unclosed or not followed by ``{``.

    Time is linear in the length of ``text``.
    """
    start = text.rfind(_BOX)
    if start < 0 or not text.startswith(_OPENED, start):
        return None
    return braced(text, start + len(_OPENED))


def last_opened_box(text: str) -> str | None:
    r"""Like `last_boxed`, but a later ``\boxed`` without a brace is no box and is passed over."""
    start = text.rfind(_OPENED)
    return None if start < 0 else braced(text, start + len(_OPENED))


def braced(text: str, start: int) -> str | None:
    """What lies between an opening brace that ends at ``start`` and its partner; None if unclosed."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return text[start : brace.start()]
    return None
