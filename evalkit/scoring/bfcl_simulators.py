"""Asks BFCL's simulators in the sandbox: one program per question, which begins from nothing.

A dialogue's state is the calls that were made so far, and the simulators are deterministic. So each
question carries all earlier calls along and runs them again, which takes milliseconds: no process
lives between two answers of the model, a thousand dialogues at a time hold no memory, and a dialogue
that is resumed elsewhere is in the same state. What a model's calls do to the program (endless loops,
endless memory) is the model's affair and told as a result; anything else that keeps it from answering
is a ScorerError.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import ScorerError
from evalkit.scoring.bfcl_driver import READY
from evalkit.scoring.sandbox import Ending, Limits, Program

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from evalkit.scoring.sandbox import ProgramResult

DRIVER = Path(__file__).with_name("bfcl_driver.py")
PRELOAD = ("mpmath", "numpy", "overrides", "rank_bm25")
"""What the simulators import, and takes longer than all they do."""
VECTOR_PRELOAD = ("sentence_transformers", "faiss")
CPU_S = 60
"""The slowest gold dialogue takes 0.1 s."""
WALL_S = 600.0
"""Reached only on a node that has no time for it, which is no fault of the model."""
LIMITS = Limits(memory_bytes=16 * 2**30)
"""Address space: what torch maps for the vector memory, and does not use."""

_OWN_ENDS = {
    Ending.CPU_TIMEOUT: f"the call took more than {CPU_S} s",
    Ending.MEMORY: "the call ran out of memory",
    Ending.OUTPUT_LIMIT: "the result is too long",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the driver said; or why the model's calls ended it before it could."""

    value: Mapping[str, Any] | None
    ended: str | None = None


@dataclass(frozen=True, slots=True)
class Simulators:
    """The simulators of the package in a folder; `run` runs a program in the sandbox."""

    run: Callable[[Program], Awaitable[ProgramResult]]
    package: Path
    encoder: Path | None = None
    """Weights for the vector memory."""

    async def ask(self, request: Mapping[str, Any]) -> Answer:
        """The driver's answer. Raises ScorerError where the sandbox or the package fails."""
        encoder = None if self.encoder is None else str(self.encoder)
        content = json.dumps({"package": str(self.package), "encoder": encoder, **request})
        result = await self.run(
            Program(
                source=_driver(),
                stdin=content.encode(),
                wall_s=WALL_S,
                cpu_s=CPU_S,
                limits=LIMITS,
            )
        )
        return read_answer(result, request["id"])


def read_answer(result: ProgramResult, entry: str) -> Answer:
    """What a driver's end means. Raises ScorerError where it is not the model's."""
    ready, _, answer = result.stdout.decode(errors="replace").partition("\n")
    if ready == READY and result.ended in _OWN_ENDS:
        return Answer(None, _OWN_ENDS[result.ended])
    if ready == READY and result.ended is Ending.OK:
        try:
            value = json.loads(answer)
        except ValueError:
            value = None
        if isinstance(value, dict):
            return Answer(value)
    said = result.stderr.decode(errors="replace").strip().splitlines()
    raise ScorerError(
        f"the simulators of {entry} gave no answer ({result.ended.value})"
        + (f": {said[-1]}" if said else "")
    )


def failed_results(calls: Sequence[str], reason: str) -> list[str]:
    """What each of the calls answers where they ended the simulators."""
    return [f"Error during execution: {reason}"] * len(calls)


@cache
def _driver() -> str:
    return DRIVER.read_text(encoding="utf-8")
