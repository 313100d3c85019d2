"""The texts of SciCode: code out of a reply, a solution out of the steps' codes, a step's test program.

Pure. What is odd here is what produced the published scores, and no profile mends it: import lines are
cut from a reply wherever they stand, so a function whose body was one import is a syntax error, and a
step's program holds the codes of all steps before it, right or wrong.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_FENCE = "```"
_IMPORTS = re.compile(r"^\s*(import .*|from .*\s+import\s+.*)", re.MULTILINE)
_OWN_IMPORT = re.compile(r"\s*(from\s+scicode\.|import\s+scicode)\b")
_INSIDE = resources.files("evalkit.scoring") / "scicode_inside"
MAIN = (_INSIDE / "main.py").read_text(encoding="utf-8")
"""The program that runs a step's test program."""
HELPERS = (_INSIDE / "helpers.py").read_text(encoding="utf-8")
"""What the tests call, in the namespace of the solution."""
STEP_FILE = "step.py"
"""Where `MAIN` finds the test program."""


def extract_code(reply: str) -> str:
    """The first block of a reply that is marked as Python (else the first block, else all of it),
    without import lines. Blanks are kept."""
    return _IMPORTS.sub("", _first_block(reply))


def assemble(dependencies: str, before: Sequence[str], code: str) -> str:
    """The solution of a step: imports, the codes of the steps before it, its own."""
    earlier = "\n".join(before) + "\n" if before else ""
    return f"{dependencies}\n{earlier}\n{code}"


def render_program(solution: str, step: str, tests: Sequence[str], targets: Path) -> str:
    """The solution, the helpers and the tests, which end with an exception where one fails.

    `targets` is the file of `test_data.h5`, as the sandbox shows it.
    """
    parts = [
        solution,
        HELPERS,
        f"TARGETS_FILE = {str(targets)!r}",
        f"targets = process_hdf5_to_tuple({step!r}, {len(tests)})",
    ]
    for number, test in enumerate(tests):
        lines = [line for line in test.split("\n") if not _OWN_IMPORT.match(line)]
        parts.append(f"target = targets[{number}]\n\n" + "\n".join(lines))
    return "\n".join(parts) + "\n"


def _first_block(reply: str) -> str:
    for opening in (f"{_FENCE}python", _FENCE):
        _, found, rest = reply.partition(opening)
        if found:
            return rest.partition(_FENCE)[0]
    return reply
