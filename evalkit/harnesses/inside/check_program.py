"""Runs one program as `code_eval` does, alone in a sandbox: text for another interpreter.

Beside it are `check.py`, the metric's own functions, and `program.json`.
"""

import json
import multiprocessing
import os
from pathlib import Path

BEGUN = b"evalkit: the program begins\n"
"""On stdout when the metric's child is there, before it runs the program: all that follows may be its doing."""


class Begun(multiprocessing.Process):
    """The metric's child. What a manager starts is none: it asks its context for processes."""

    def run(self):
        os.write(1, BEGUN)
        super().run()


def main():
    """The last line of stdout is the verdict; what the program itself writes comes before."""
    multiprocessing.set_start_method(
        "fork", force=True
    )  # the child finds imported what is imported here
    multiprocessing.Process = Begun
    from check import check_correctness

    given = json.loads(Path("program.json").read_text("utf-8"))
    verdict = check_correctness(given["program"], given["timeout"], 0, 0)
    said = {"passed": bool(verdict["passed"]), "result": str(verdict["result"])}
    os.write(1, b"\n" + json.dumps(said).encode())


if __name__ == "__main__":
    main()
