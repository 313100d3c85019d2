"""How the answers behind the Nemotron 3 Nano card were sampled: stated once for its text benchmarks.

With a Python tool the recipe sends no limit of tokens: each call may fill the context window.

The literal 0.99999 is deliberate, because some servers take 1.0 for "not set". The penalty of 1.0 is
what the original harness sent with every chat request from June 2025 to February 2026; whether the
endpoint behind the card honoured it is not known, so profile `fixed` sends none.
Source: the published recipe in NVIDIA-NeMo/Evaluator (examples/nemotron, 2025-12-15).
"""

from collections.abc import Mapping
from typing import Any

from evalkit.recipe.schema import Profile

CARD_SAMPLING: Mapping[Profile, Mapping[str, Any]] = {
    "card": {
        "temperature": 0.99999,
        "top_p": 0.99999,
        "max_tokens": 131_072,
        "presence_penalty": 1.0,
    },
    "fixed": {
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 131_072,
        "presence_penalty": 0.0,
    },
}

CARD_TOOL_SAMPLING: Mapping[Profile, Mapping[str, Any]] = {
    profile: {key: value for key, value in settings.items() if key != "max_tokens"}
    for profile, settings in CARD_SAMPLING.items()
}
