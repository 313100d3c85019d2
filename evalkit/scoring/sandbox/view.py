"""What a sandbox shows of the machine: an interpreter, the system's libraries, and nothing else.

A view is made once per sandbox, where the file system can be asked (`view_of`), and is then a plain
value that backends turn into their own words. Everything in it is read-only. It refuses to show a
folder that contains somebody's home, because an interpreter installed in a home's root would bring
keys and data along.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import ScorerError
from evalkit.scoring.sandbox.inside.places import CODE, SCRATCH, SHARED_MEMORY, WORK

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

INSIDE = Path(__file__).parent / "inside"
"""The only code of ours that is shown."""
SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
)
"""What programs and shared libraries need; those that are links stay links."""
DEVICES = ("/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero")
DEVICE_LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    (SHARED_MEMORY, "/dev/shm"),
)
_COVERED = ("/proc", "/dev", "/sys", SCRATCH, CODE)
"""Names that a sandbox uses for things of its own."""
_QUESTION = (
    "import json, sys; print(json.dumps([sys.prefix, sys.base_prefix, sys.base_exec_prefix]))"
)
_ANSWER_S = 60


@dataclass(frozen=True, slots=True)
class View:
    """Paths of the host, and where they appear inside."""

    interpreter: str
    """Absolute, as the sandbox calls it."""
    binds: tuple[tuple[str, str], ...]
    """(path on the host without links, path inside)."""
    links: tuple[tuple[str, str], ...]
    """(target, path inside)."""


def environment(interpreter: str) -> dict[str, str]:
    """All that a program finds in its environment.

    The hash seed is fixed: a program whose output depends on the order of a set must get the same
    score whenever it is scored again.
    """
    return {
        "PATH": f"{Path(interpreter).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": WORK,
        "TMPDIR": SCRATCH,
        "USER": "nobody",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
        "PYTHONHASHSEED": "0",
    }


def view_of(interpreter: Path, readonly: Sequence[Path] = ()) -> View:
    """The view for an interpreter and further paths. Raises ScorerError where it cannot be shown."""
    interpreter = interpreter.absolute()
    paths = [*_prefixes(interpreter), *(path.absolute() for path in readonly)]
    for path in paths:
        _refuse_private(path)
    links, binds = list(DEVICE_LINKS), []
    for name in SYSTEM:
        if Path(name).is_symlink():
            links.append((str(Path(name).readlink()), name))
        elif Path(name).exists():
            binds.append((name, name))
    links += _missing_links(interpreter, [*(Path(target) for _, target in binds), *paths])
    shown = [Path(target) for _, target in binds]
    for path in outermost(paths):
        if not any(path.is_relative_to(other) for other in shown):
            binds.append((os.path.realpath(path), str(path)))
    binds.append((os.path.realpath(INSIDE), f"{CODE}/inside"))
    return View(str(interpreter), tuple(binds), tuple(links))


def image_view(interpreter: Path, readonly: Sequence[Path] = ()) -> View:
    """The view for an interpreter in an image, which brings its own system along."""
    for path in readonly:
        _refuse_private(path.absolute())
    binds = [(os.path.realpath(path), str(path.absolute())) for path in outermost(readonly)]
    binds.append((os.path.realpath(INSIDE), f"{CODE}/inside"))
    return View(str(interpreter), tuple(binds), ())


def outermost(paths: Iterable[Path]) -> list[Path]:
    """Without those that lie in another one, in a fixed order."""
    found: list[Path] = []
    for path in sorted(set(paths)):
        if not any(path.is_relative_to(other) for other in found):
            found.append(path)
    return found


def _prefixes(interpreter: Path) -> list[Path]:
    """Folders that the interpreter says it consists of."""
    try:
        done = subprocess.run(
            [interpreter, "-s", "-c", _QUESTION],
            env=environment(str(interpreter)),
            capture_output=True,
            timeout=_ANSWER_S,
            check=True,
            cwd="/",
        )
        prefixes = [Path(name) for name in json.loads(done.stdout)]
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ScorerError(
            f"sandbox: {interpreter} does not run with an empty environment: {error}",
            hint="Name a Python of 3.10 or newer that needs no LD_LIBRARY_PATH or PYTHONHOME.",
        ) from error
    return [each for prefix in prefixes for each in (prefix, prefix.resolve())]


def _refuse_private(path: Path) -> None:
    home = _home()
    if home is not None and home.is_relative_to(path):
        raise ScorerError(
            f"sandbox: {path} contains the home folder {home}, which no program may see",
            hint="Use an interpreter in a folder of its own, such as a virtual environment.",
        )
    if not path.exists():
        raise ScorerError(f"sandbox: {path} does not exist, so it cannot be shown")
    if any(path == Path(name) or path.is_relative_to(name) for name in _COVERED[:3]):
        raise ScorerError(
            f"sandbox: {path} cannot be shown: the sandbox has its own {path.parts[1]}"
        )


def _home() -> Path | None:
    """The user's, or none: containers run as users that no one has registered."""
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None


def _missing_links(interpreter: Path, shown: Sequence[Path]) -> list[tuple[str, str]]:
    """Links between the interpreter's name and its file that no shown folder holds."""
    links, path = [], interpreter
    while path.is_symlink():
        target = path.readlink()
        if not any(path.is_relative_to(other) for other in shown):
            links.append((str(target), str(path)))
        path = Path(os.path.normpath(path.parent / target))
    return links
