"""Runs one program as `code_eval` does, alone in a sandbox: text for another interpreter.

Beside it are `check.py`, the metric's own functions, and `program.json`.
"""

import json
import os
from pathlib import Path

from check import check_correctness


def main():
    """The last line of stdout is the verdict; what the program itself writes comes before."""
    given = json.loads(Path("program.json").read_text("utf-8"))
    verdict = check_correctness(given["program"], given["timeout"], 0, 0)
    said = {"passed": bool(verdict["passed"]), "result": str(verdict["result"])}
    os.write(1, b"\n" + json.dumps(said).encode())


if __name__ == "__main__":
    main()
