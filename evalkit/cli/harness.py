"""`evalkit harness`: the environments of other harnesses, made and removed."""

from __future__ import annotations

import contextlib
import difflib
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from evalkit.benchmarks.registry import harness, harness_names
from evalkit.cli.console import err, say
from evalkit.cli.harness_view import show_harnesses
from evalkit.clock import SYSTEM_CLOCK
from evalkit.errors import PlanError, UsageError
from evalkit.harnesses.env import environments_folder
from evalkit.harnesses.environments import installed_names, look_at
from evalkit.harnesses.install import (
    Wanted,
    install,
    leftovers,
    remove,
    wanted_harness,
    wanted_wheel,
)

if TYPE_CHECKING:
    import argparse

    from evalkit.benchmarks.harness import EnvironmentSpec
    from evalkit.harnesses.environments import Manifest

SHOWN_WIDTH = 100


def command_harness(arguments: argparse.Namespace) -> int:
    """Install, list or remove."""
    if arguments.action == "list":
        show_harnesses(as_json=arguments.json)
        return 0
    if arguments.action == "remove":
        return _remove(arguments.name)
    return _install(arguments)


def _install(arguments: argparse.Namespace) -> int:
    wanted, spec = _wanted(arguments.name, arguments.wheel)
    there = _there(wanted, spec)
    if there is not None and not arguments.force:
        _check_python(wanted, arguments.python)
        say(f"{wanted.name} {there.version} is installed in {environments_folder() / wanted.name}")
        return 0
    say(f"installing {wanted.name} into {environments_folder() / wanted.name}")
    python = arguments.python or sys.executable
    with err().status(Text(f"installing {wanted.name}")) as spinner:
        made = install(
            wanted,
            python,
            SYSTEM_CLOCK,
            lambda line: spinner.update(Text(f"{wanted.name}: {line[:SHOWN_WIDTH]}")),
        )
    say(f"installed {wanted.name} {made.version}")
    return 0


def _there(wanted: Wanted, spec: EnvironmentSpec | None) -> Manifest | None:
    """What is installed already, where that is whole and the same."""
    found = look_at(wanted.name, spec)
    if found is None or found.wrong is not None or found.manifest is None:
        return None
    is_same = spec is not None or found.manifest.requirement == wanted.requirement
    return found.manifest if is_same else None


def _check_python(wanted: Wanted, python: str | None) -> None:
    """Raise UsageError where another Python is asked for than the environment has: that is made anew only
    with --force, for runs may use it."""
    if python is None:
        return
    inside = environments_folder() / wanted.name / "bin" / "python"
    now, asked = _base_of(inside), _base_of(Path(shutil.which(python) or python))
    if now != asked:
        again = f"--wheel '{wanted.requirement}'" if wanted.is_wheel else wanted.name
        raise UsageError(
            f"--python {python}: {wanted.name} is installed already, with {now}, and stays as it is",
            hint=f"Anew, in its place: evalkit harness install {again} --python {python} --force",
        )


def _base_of(python: Path) -> Path:
    """The interpreter that an environment's Python was made from, also where it is a copy and no link."""
    with contextlib.suppress(OSError):
        for line in (python.parent.parent / "pyvenv.cfg").read_text("utf-8").splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "executable":  # since Python 3.11
                return Path(value.strip()).resolve()
    return python.resolve()


def _wanted(name: str | None, wheel: str | None) -> tuple[Wanted, EnvironmentSpec | None]:
    """Raises UsageError for neither or both, and for a name that no harness has."""
    known = _environments()
    if (name is None) == (wheel is None):
        raise UsageError(
            "harness install takes the name of a harness, or --wheel REQUIREMENT",
            hint=f"Names: {', '.join(known) or 'none'}.",
        )
    if wheel is not None:
        wanted = wanted_wheel(wheel)
        if wanted.name in known:
            raise UsageError(
                f"--wheel {wheel}: {wanted.name} is a harness of evalkit, with pinned versions",
                hint=f"Type: evalkit harness install {wanted.name}",
            )
        return wanted, None
    if name not in known and name in harness_names():
        harness(name)  # a plug-in that is broken says so itself
        raise UsageError(f"the harness {name} needs no environment")
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(
            f"no harness {name!r} is to be installed.{guess}",
            hint=f"Names: {', '.join(known) or 'none'}. One of NVIDIA's wheels: --wheel NAME==VERSION.",
        )
    return wanted_harness(known[name]), known[name]


def _environments() -> dict[str, EnvironmentSpec]:
    """What can be installed, by name. A plug-in that is broken is told by `ls harnesses` and `doctor`."""
    found = {}
    for name in harness_names():
        with contextlib.suppress(PlanError):
            spec = harness(name).environment
            if spec is not None and spec.requirements:
                found[spec.name] = spec
    return found


def _remove(name: str) -> int:
    begun = (path.name[1:].rpartition(".")[0] for path in leftovers())
    there = sorted({*installed_names(), *begun})
    if name not in there:
        near = difflib.get_close_matches(name, there, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(
            f"no environment {name!r} is installed.{guess}",
            hint=f"Installed: {', '.join(there) or 'none'}.",
        )
    for path in remove(name):
        say(f"removed {path}")
    return 0
