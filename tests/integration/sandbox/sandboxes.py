"""Every sandbox that has to work where the tests run: each backend, in both modes, as two users.

Nothing is left out where it does not work: then its tests fail, and the machine lacks bubblewrap,
user namespaces or a recent kernel. Root runs everything also as an ordinary user, who may read
neither root's home nor, perhaps, this checkout: so that one gets the system's Python, and a copy of
what is shown inside.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from evalkit.scoring.sandbox.backends import (
    Backend,
    Bubblewrap,
    Command,
    Mode,
    Namespaces,
    Start,
)
from evalkit.scoring.sandbox.find import Sandbox
from evalkit.scoring.sandbox.view import INSIDE, view_of

BACKENDS = {"bwrap": Bubblewrap("bwrap"), "namespaces": Namespaces()}
CHOICES = [f"{backend}-{mode}" for backend in BACKENDS for mode in ("nested", "single")]
if os.geteuid() == 0:
    CHOICES += [f"{backend}-nested-as_nobody" for backend in BACKENDS]
LONG = frozenset({"bwrap-single", "namespaces-single", "namespaces-nested-as_nobody"})
"""Left to `make long`: a user is in one of the others, and mode `single` in the tests of sessions."""
SYSTEM_PYTHON = Path("/usr/bin/python3")


@dataclass(frozen=True, slots=True)
class AsNobody(Backend):
    """Another backend, started by an ordinary user."""

    backend: Backend
    folder: Path
    """A copy of the parent of `inside` that everybody may read."""
    name: ClassVar[str] = "as nobody"
    remedy: ClassVar[str] = ""

    def render_command(self, start: Start) -> Command:
        command = self.backend.render_command(replace(start, is_root=False))
        argv = [str(SYSTEM_PYTHON) if word == sys.executable else word for word in command.argv]
        user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
        cwd = str(self.folder) if command.cwd == str(INSIDE.parent) else command.cwd
        return Command((*user, *argv), cwd)


def make_sandbox(choice: str, folder: Path) -> Sandbox:
    """One of `CHOICES`; `folder` is an empty one that everybody may read."""
    name, mode, *user = choice.split("-")
    backend, view = BACKENDS[name], view_of(SYSTEM_PYTHON if user else Path(sys.executable))
    if user:
        shutil.copytree(INSIDE, folder / "inside", ignore=shutil.ignore_patterns("__pycache__"))
        binds = [
            (str(folder / "inside") if source == os.path.realpath(INSIDE) else source, target)
            for source, target in view.binds
        ]
        view = replace(view, binds=tuple(binds))
        backend = AsNobody(backend, folder)
    known: dict[str, Mode] = {"nested": "nested", "single": "single"}
    return Sandbox(backend, view, known[mode])
