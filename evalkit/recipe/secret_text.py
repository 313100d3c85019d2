"""Text that is a secret by its looks: refused where a name belongs, and never printed in full.

A recipe is recorded with its run, so a key pasted into it would be published with the results. The
patterns are the prefixes of keys that providers hand out; they cannot know every key, so the rule
stays that secrets are named, not written.
"""

from __future__ import annotations

import re

KEY = re.compile(
    r"""(?<![A-Za-z0-9])(?:
        (?:sk|pk|rk)[-_](?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{16,}
      | (?:nvapi|xai|glpat|ya29)[-_.][A-Za-z0-9_-]{8,}
      | (?:hf|gsk|ghp|gho|ghs|github_pat|xox[abp])[-_][A-Za-z0-9_-]{16,}
      | AKIA[A-Z0-9]{16}
      | AIza[A-Za-z0-9_-]{30,}
      | ey[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*
    )""",
    re.VERBOSE,
)
RANDOM = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9])[A-Za-z0-9]{24,}")


def is_key_like(text: str) -> bool:
    """Whether the text holds something with the form of a provider's key."""
    return KEY.search(text) is not None


def is_random_looking(text: str) -> bool:
    """Whether the whole text is long and mixes cases and digits, as no variable's name does."""
    return RANDOM.fullmatch(text) is not None


def mask(text: str) -> str:
    """The text with each key in it cut to its first three characters and its length."""
    return KEY.sub(lambda found: hidden(found[0]), text)


def hidden(text: str) -> str:
    """A secret as it may be shown: three characters and its length."""
    return f"{text[:3]}... ({len(text)} characters)"
