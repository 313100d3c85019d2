"""Starts a script of this folder: `run.py SCRIPT ARGUMENTS ANSWER`, each a path.

The script's `main` gets what the JSON file of arguments holds; the file of the answer appears whole, and
only if `main` returned, or refused by `SystemExit("a sentence")`.
"""

import json
import runpy
import sys
from pathlib import Path


def run(script, arguments, answer):
    """Write what `main` of the script says."""
    here = Path(__file__).resolve().parent
    # Last, and not first, where Python itself puts it: no file here hides a package.
    sys.path[:] = [*(path for path in sys.path if Path(path).resolve() != here), str(here)]
    asked = json.loads(Path(arguments).read_text("utf-8"))
    try:
        said = {"answer": runpy.run_path(script)["main"](asked)}
    except SystemExit as error:
        if not isinstance(error.code, str):
            raise
        said = {"refused": error.code}
    written = Path(answer + ".partial")
    with written.open("w", encoding="utf-8") as stream:
        json.dump(said, stream)
    written.replace(answer)


if __name__ == "__main__":
    run(*sys.argv[1:])
