"""What SciCode's programs need and evalkit does not bring: a Python of their own, and the targets.

The Python has numpy and scipy of the time of the problems; evalkit's own has later ones, or none. The
targets are one file of a gigabyte that only its authors hand out; another state of it would give other
scores, so its checksum is taken, once per process and state of the file. Nothing is downloaded here.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import FailureKind, ScorerError
from evalkit.scoring.vendored import vendored_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

REQUIREMENTS = Path(__file__).with_name("scicode_packages.txt")
FOLDER = vendored_folder("scicode")
PYTHON = FOLDER / "bin" / "python"
PRELOAD = ("h5py", "numpy", "scipy.sparse", "sympy")
"""What every program imports. Nothing else: a module that is there already hides that a solution
never imports it."""
TEST_DATA_SHA256 = "48b0272a88b17dbd29777c217e1b4fb2b019b92e11cc2add847409db9541b890"
GET_TEST_DATA = (
    "test_data.h5 (1 GB) is on the authors' Google Drive only, id 17G_k65N_6yFFZ2O-jQH00Lh6iaw3z-AW, "
    "see github.com/scicode-bench/SciCode. Set params.test_data to it, from / or ~; it is read where "
    "programs are run. Nothing is generated twice."
)
INSTALL = (
    f"{sys.executable} -m venv {FOLDER} && {PYTHON} -m pip install --only-binary :all: "
    f"--require-hashes -r {REQUIREMENTS}"
)
_PACKAGES = ("numpy", "scipy", "h5py", "sympy", "matplotlib")
_TOO_NEW: Mapping[str, tuple[int, int]] = {"numpy": (2, 0), "scipy": (1, 14)}
"""Versions from which some problems cannot be solved any more."""
_QUESTION = """
import importlib.metadata, json
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
print(json.dumps({name: version(name) for name in NAMES}))
"""
_ANSWER_S = 60
_FROM_PATH = "Another one can be named by params.python."


@lru_cache
def require_interpreter(path: Path) -> Path:
    """The same path. Raises ScorerError, which says what to type, where that Python will not do."""
    if not path.is_file():
        raise ScorerError(
            f"scicode: there is no Python {path} to run programs with",
            hint=f"Type: {INSTALL}\n{_FROM_PATH}",
            kind=FailureKind.CONFIG,
        )
    wrong = [
        f"{name} {found}" if found else f"no {name}"
        for name, found in _versions(path).items()
        if found is None or (name in _TOO_NEW and _release(found) >= _TOO_NEW[name])
    ]
    if wrong:
        raise ScorerError(
            f"scicode: {path} has {', '.join(wrong)}",
            hint="Wanted: numpy below 2, scipy below 1.14, h5py, sympy, matplotlib.\n"
            f"Type: {INSTALL}\n{_FROM_PATH}",
            kind=FailureKind.CONFIG,
        )
    return path


def require_test_data(path: Path | None) -> Path:
    """The same path. Raises ScorerError where the file is not there, or is another one.

    Reads all of it once per process, and again where its size or its time of change is another.
    """
    if path is None:
        raise ScorerError(
            "scicode: programs cannot be tested without test_data.h5",
            hint=GET_TEST_DATA,
            kind=FailureKind.CONFIG,
        )
    try:
        state = path.stat()
        found = _sha256(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise ScorerError(
            f"scicode: params.test_data: {path}: {error.strerror}",
            hint=GET_TEST_DATA,
            kind=FailureKind.CONFIG,
        ) from error
    if found != TEST_DATA_SHA256:
        raise ScorerError(
            f"scicode: params.test_data: {path} has sha256 {found}, wanted is {TEST_DATA_SHA256}",
            hint=f"The download is incomplete, or another version. {GET_TEST_DATA}",
            kind=FailureKind.CONFIG,
        )
    return path


@lru_cache(maxsize=4)
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _versions(path: Path) -> dict[str, str | None]:
    question = _QUESTION.replace("NAMES", repr(_PACKAGES))
    try:
        done = subprocess.run(
            [path, "-I", "-c", question], capture_output=True, timeout=_ANSWER_S, cwd="/"
        )
    except subprocess.TimeoutExpired as error:
        raise _unusable(path, f"no answer within {_ANSWER_S} s") from error
    except OSError as error:
        raise _unusable(path, str(error.strerror)) from error
    try:
        found: dict[str, str | None] = json.loads(done.stdout)
    except ValueError as error:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise _unusable(path, said[-1] if said else f"exit code {done.returncode}") from error
    return found


def _unusable(path: Path, reason: str) -> ScorerError:
    return ScorerError(
        f"scicode: {path} does not run: {reason}", hint=_FROM_PATH, kind=FailureKind.CONFIG
    )


def _release(version: str) -> tuple[int, int]:
    major, minor, *_ = (*version.split("."), "0")
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)
