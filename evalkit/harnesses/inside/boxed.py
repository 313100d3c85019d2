"""Runs a script as `run.py` does, where nothing but stdout leaves: `boxed.py SCRIPT ARGUMENTS`.

What the script writes into the folder `out`, and `answer.json`, come out as one tar file.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path


def mirror(source, target):
    """A folder as it is, with links in place of files: its reader may write beside them.

    Modules are copied: the hub's libraries touch those that they load.
    """
    for folder, _, names in os.walk(source):
        place = Path(target, Path(folder).relative_to(source))
        place.mkdir(parents=True, exist_ok=True)
        for name in names:
            if name.endswith(".lock"):  # taken by opening it for writing: a link would lead out
                continue
            if name.endswith(".py"):
                shutil.copyfile(Path(folder, name), place / name)
                continue
            with contextlib.suppress(FileExistsError):
                (place / name).symlink_to(Path(folder, name))


def run(script, arguments, *mirrored):
    """`mirrored` are SOURCE=TARGET."""
    for each in mirrored:
        mirror(*each.rsplit("=", 1))
    Path("out").mkdir()
    starter = Path(__file__).with_name("run.py")
    # Whole paths: a script may work in another folder. What it says goes to stderr; stdout is the tar file's.
    paths = (script, Path(arguments).absolute(), Path("answer.json").absolute())
    done = subprocess.run(
        [sys.executable, "-s", "-B", starter, *paths], stdout=sys.stderr, check=False
    )
    if done.returncode:
        sys.exit(done.returncode)
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
        for name in ("answer.json", "out"):
            tar.add(name)


if __name__ == "__main__":
    run(*sys.argv[1:])
