"""Which training step a checkpoint is of, as far as its names say.

Nothing else knows: weights do not. Names are read from the one a person gave to the one a hub has, and
the last number behind a word for steps counts.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evalkit.plan.model import ModelIdentity

_STEP = re.compile(
    r"(?:^|[^a-z])(?:global[-_]?step|steps?|iter(?:ation)?s?|checkpoint|ckpt)[-_=. ]?(\d+)([km]?)(?![a-z\d])",
    re.IGNORECASE,
)
_TIMES = {"": 1, "k": 1_000, "m": 1_000_000}


def find_step(model: ModelIdentity) -> int | None:
    """The step: of `step-2000`, `iter_0002000`, `checkpoint-500`, `ckpt2k`; null where no name has one."""
    for name in (model.name, model.source, model.revision):
        found = _STEP.findall(name or "")
        if found:
            number, suffix = found[-1]
            return int(number) * _TIMES[suffix.lower()]
    return None
