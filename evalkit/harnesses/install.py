"""Making the environments of harnesses, and removing them.

An environment is built in a folder beside its place and renamed when all of it works, so an interrupted
installation leaves nothing that looks whole. pip does the work, with the configuration that the user has.
Its words are in a log beside the environments.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import PlanError, UsageError
from evalkit.harnesses.call import end_process
from evalkit.harnesses.env import FOLDER_VARIABLE, environments_folder, install_environment
from evalkit.harnesses.environments import (
    MANIFEST,
    REQUIREMENTS,
    Manifest,
    normalised,
    site_packages,
    versions_in,
)
from evalkit.serving.tree import MARKER, Marks, read_process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from evalkit.benchmarks.harness import EnvironmentSpec
    from evalkit.clock import Clock

FRAMEWORKS = "core_evals/*/framework.yml"
_WHEEL_FILE = re.compile(r"([A-Za-z0-9_.]+?)-[^-]+(?:-[^-]+){3,4}\.whl")
_EXACT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_VERSION = "import platform; print(platform.python_version())"
_TOOLS = frozenset({"pip", "setuptools", "wheel"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an environment is made from."""

    name: str
    requirement: str
    """As `Manifest.requirement`."""
    pip: tuple[str, ...]
    """pip's words for it."""
    package: str
    module: str | None
    """Import that must work; null for a wheel, which must have a `framework.yml`."""
    is_wheel: bool = False


def wanted_harness(spec: EnvironmentSpec) -> Wanted:
    """The environment of a harness, from its file of pins."""
    path = REQUIREMENTS / spec.requirements
    return Wanted(spec.name, path.name, ("-r", str(path)), spec.package, spec.module)


def wanted_wheel(requirement: str) -> Wanted:
    """An environment for one of NVIDIA's wheels: `NAME==VERSION`, or the path of a wheel.

    Raises UsageError for anything else: the version decides the numbers.
    """
    path = Path(requirement).expanduser()
    if file := _WHEEL_FILE.fullmatch(path.name):
        if not path.is_file():
            raise UsageError(f"--wheel {requirement}: there is no such file")
        name, words = normalised(file[1]), str(path.absolute())
    elif exact := _EXACT.fullmatch(requirement.replace(" ", "")):
        name, words = normalised(exact[1]), requirement.replace(" ", "")
    else:
        raise UsageError(
            f"--wheel {requirement}: expected NAME==VERSION, or the path of a .whl file",
            hint="The version is a part of what is measured, so it has to be named.",
        )
    return Wanted(name, requirement, (words,), name, None, is_wheel=True)


def install(wanted: Wanted, python: str, clock: Clock, tell: Callable[[str], None]) -> Manifest:
    """Make the environment, in place of one that is there. `tell` gets each line that pip writes.

    Raises PlanError, naming the log, where it cannot be made; what was there before is then as it was.
    """
    folder = environments_folder()
    log = folder / f"{wanted.name}.install.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{wanted.name}.", dir=folder))
    except OSError as error:
        raise PlanError(
            f"environments cannot be made in {folder}: {error.strerror}",
            hint=f"{FOLDER_VARIABLE} names another folder, for Slurm one that all nodes share.",
        ) from error
    try:
        made = building / "environment"
        steps = _Steps(building.name, log, tell)
        steps.run("making the environment", [python, "-m", "venv", str(made)])
        inside = str(made / "bin" / "python")
        quiet = ("--no-input", "--disable-pip-version-check", "--progress-bar", "off")
        steps.run("pip", [inside, "-m", "pip", "install", *quiet, *wanted.pip])
        if wanted.module is not None:
            steps.run("the first import", [inside, "-c", f"import {wanted.module}"])
        version = steps.run("the new Python", [inside, "-c", _VERSION])[-1]
        manifest = _look(wanted, made, version, clock)
        (made / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", "utf-8")
        _move_words(made, folder / wanted.name)
        _put(made, folder / wanted.name, building / "before")
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return manifest


def remove(name: str) -> list[Path]:
    """Remove an environment, and what interrupted installations of it left. Returns what was there."""
    folder = environments_folder()
    found = [folder / name, *leftovers(name), folder / f"{name}.install.log"]
    there = [path for path in found if path.exists()]
    for path in there:
        if path.is_dir():
            # Out of its place first: half of it must not look whole.
            gone = path if path.name.startswith(".") else path.with_name(f".{path.name}.removed")
            path.replace(gone)
            shutil.rmtree(gone)
        else:
            path.unlink()
    return there


def leftovers(name: str | None = None) -> list[Path]:
    """Folders that interrupted installations left, of one harness or of all, or that are at work."""
    folder = environments_folder()
    found = folder.glob(".*" if name is None else f".{name}.*") if folder.is_dir() else []
    return sorted(path for path in found if path.is_dir())


class _Steps:
    """Commands of one installation, one after the other, into one log."""

    def __init__(self, marker: str, log: Path, tell: Callable[[str], None]) -> None:
        self._marker, self._log, self._tell = marker, log, tell
        log.write_bytes(b"")

    def run(self, what: str, command: Sequence[str]) -> list[str]:
        """The lines it writes. Raises PlanError where it does not end well.

        It and its children have ended whenever this returns or raises, Ctrl-C included.
        """
        lines = []
        with self._log.open("ab", buffering=0) as log:
            log.write(f"$ {' '.join(command)}\n".encode())
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env={**install_environment(), MARKER: self._marker},
                    start_new_session=True,
                )
            except OSError as error:
                raise PlanError(f"{what}: {command[0]}: {error.strerror}") from error
            marks = Marks(self._marker, leader=read_process(process.pid))
            with process:
                try:
                    for raw in process.stdout or ():
                        log.write(raw)
                        lines.append(raw.decode(errors="replace").strip())
                        self._tell(lines[-1])
                    process.wait()
                finally:
                    end_process(process, marks)
        if process.returncode:
            raise PlanError(
                f"{what} failed (exit code {process.returncode}){_reason(lines)}",
                hint=f"All that was said: {self._log}",
            )
        return lines


def _reason(lines: Sequence[str]) -> str:
    """The line that says most: pip's first error, else the last one."""
    said = [line for line in lines if line]
    errors = [line for line in said if line.startswith("ERROR: ")]
    return f": {(errors[:1] or said[-1:])[0]}" if said else ""


def _look(wanted: Wanted, made: Path, python: str, clock: Clock) -> Manifest:
    """What came of it. Raises PlanError where that is not what was asked for."""
    site = site_packages(made, python)
    versions = versions_in(site)
    version = versions.get(normalised(wanted.package))
    if version is None:
        raise PlanError(f"pip installed {wanted.requirement}, and there is no {wanted.package}")
    frameworks = {
        path.parent.name: str(path.relative_to(made)) for path in sorted(site.glob(FRAMEWORKS))
    }
    if wanted.is_wheel and not frameworks:
        raise PlanError(
            f"{wanted.package} {version} has no {FRAMEWORKS}: it is not one of NVIDIA's harnesses",
            hint="A harness of another form is a plug-in of a few lines: evalkit new harness NAME",
        )
    return Manifest(
        name=wanted.name,
        requirement=wanted.requirement,
        package=wanted.package,
        version=version,
        versions={name: each for name, each in sorted(versions.items()) if name not in _TOOLS},
        python=python,
        installed=datetime.fromtimestamp(clock.wall(), UTC).isoformat(timespec="seconds"),
        frameworks=frameworks,
        is_wheel=wanted.is_wheel,
    )


def _move_words(made: Path, place: Path) -> None:
    """Name the final place in the texts that name where it was built: the first lines of commands."""
    old, new = str(made).encode(), str(place).encode()
    for path in (*(made / "bin").iterdir(), made / "pyvenv.cfg"):
        if path.is_symlink() or not path.is_file():
            continue
        content = path.read_bytes()
        if old in content and b"\0" not in content:  # a program that is no text has no such line
            path.write_bytes(content.replace(old, new))


def _put(made: Path, place: Path, before: Path) -> None:
    """Into its place; what was there goes to `before`, and back where the new one cannot come."""
    with contextlib.suppress(FileNotFoundError):
        place.replace(before)
    try:
        made.replace(place)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            before.replace(place)
        raise
