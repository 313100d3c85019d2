"""Runs a script as `run.py` does, where nothing but stdout leaves: `boxed.py SCRIPT ARGUMENTS`.

What the script writes into the folder `out`, and `answer.json`, come out as one tar file.
"""

import contextlib
import os
import subprocess
import sys
import tarfile


def mirror(source, target):
    """A folder as it is, with links in place of files: its reader may write beside them."""
    for folder, _, names in os.walk(source):
        place = os.path.join(target, os.path.relpath(folder, source))
        os.makedirs(place, exist_ok=True)
        for name in names:
            with contextlib.suppress(FileExistsError):
                os.symlink(os.path.join(folder, name), os.path.join(place, name))


def run(script, arguments, *mirrored):
    """`mirrored` are SOURCE=TARGET."""
    for each in mirrored:
        mirror(*each.rsplit("=", 1))
    os.makedirs("out", exist_ok=True)
    starter = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run.py")
    # What it says goes to stderr; stdout is for the tar file.
    command = [sys.executable, "-s", "-B", starter, script, arguments, "answer.json"]
    code = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    if code:
        sys.exit(code)
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
        for name in ("answer.json", "out"):
            tar.add(name)


if __name__ == "__main__":
    run(*sys.argv[1:])
