"""Text that is a secret by its looks: refused where a name belongs, and never printed in full.

A recipe is recorded with its run, so a key pasted into it would be published with the results. The
patterns are the prefixes of keys that providers hand out, followed by something random: names of
checkpoints and folders begin with `hf_` or `sk-` too. They cannot know every key, so the rule stays
that secrets are named, not written.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = re.compile(
    r"""(?<![A-Za-z0-9])(?:
        (?:sk|pk|rk)[-_](?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{16,}
      | (?:nvapi|xai|glpat|ya29)[-_.][A-Za-z0-9_-]{8,}
      | (?:hf|gsk|ghp|gho|ghs|github_pat|xox[abp])[-_][A-Za-z0-9_-]{16,}
      | AKIA[A-Z0-9]{16}
      | AIza[A-Za-z0-9_-]{30,}
      | eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*
    )""",
    re.VERBOSE,
)
# These also begin names of checkpoints and folders; a key goes on with something random.
WORD_LIKE = re.compile(r"(?:sk|pk|rk|hf|xai)[-_.]")
HF_RUN = re.compile(r"(?=[A-Z]*[a-z])(?=[a-z]*[A-Z])[A-Za-z]{30,}")
RUN = re.compile(r"(?=[A-Za-z]*[0-9])[A-Za-z0-9]{16,}")
WORD_AND_NUMBER = re.compile(r"[A-Za-z]+[0-9]+[A-Za-z]?")
RANDOM = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9])[A-Za-z0-9]{24,}")


def is_key_like(text: str) -> bool:
    """Whether the text holds something that begins as a provider's key does: no name for a variable."""
    return KEY.search(text) is not None


def holds_key(text: str) -> bool:
    """Whether the text holds a provider's key, as far as it can be told from a name or a path."""
    return any(_is_random(found[0]) for found in KEY.finditer(text))


def keys_held(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of all texts in plain data that hold a key; a mapping's key counts as its value."""
    if isinstance(value, dict):
        for name, each in value.items():
            if holds_key(str(name)):
                yield path
            else:
                yield from keys_held(each, (*path, name))
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from keys_held(each, (*path, index))
    elif isinstance(value, str) and holds_key(value):
        yield path


def _is_random(found: str) -> bool:
    if WORD_LIKE.match(found) is None:
        return True
    if found.startswith("hf"):
        return HF_RUN.search(found) is not None
    return any(WORD_AND_NUMBER.fullmatch(run) is None for run in RUN.findall(found))


def is_random_looking(text: str) -> bool:
    """Whether the whole text is long and mixes cases and digits, as no variable's name does."""
    return RANDOM.fullmatch(text) is not None


def mask(text: str) -> str:
    """The text with each key in it cut to its first three characters and its length."""
    return KEY.sub(lambda found: hidden(found[0]) if _is_random(found[0]) else found[0], text)


def hidden(text: str) -> str:
    """A secret as it may be shown: three characters and its length."""
    return f"{text[:3]}... ({len(text)} characters)"
