"""The ways to get a sandbox on a machine, each as the command line that starts one.

A backend only writes down what is to be started: who it is, what the view is, what the zygote is
told. Whether that works is found out by doing it (`evalkit.scoring.sandbox.find`). The four: `bwrap`
(bubblewrap), `namespaces` (the same by our own few system calls), `apptainer` for sites where it is
the only way, and `unsafe`, which isolates nothing and is used only where the recipe says so.

As root, root's own rights build the view, because an unprivileged user may not be able to read the
interpreter's parent folders; then the zygote becomes nobody. Root without the right to become
somebody else (in a container with one user) is treated as an ordinary user, which it is.
"""

from __future__ import annotations

import json
import shutil
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from evalkit.scoring.sandbox.inside.places import CODE, NOBODY, SCRATCH, scratch_options
from evalkit.scoring.sandbox.view import DEVICES, INSIDE, View, environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Mode = Literal["nested", "single", "unsafe"]
"""One sandbox for many programs, each in namespaces of its own; one for each; or none at all."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to start, and where."""

    argv: tuple[str, ...]
    cwd: str = "/"


@dataclass(frozen=True, slots=True)
class Start:
    """What is to run inside, and how the outside has to prepare it."""

    view: View
    mode: Mode
    is_root: bool
    """Really root, able to become nobody."""
    preload: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    """Preloaded where the interpreter has them."""
    scratch_bytes: int | None = None
    """In mode `single` the backend makes the scratch, in the others the keeper does."""

    def zygote_argv(self, *, mounts_proc: bool = False) -> tuple[str, ...]:
        """The command that runs inside; it can be left to the zygote to mount its own /proc."""
        targets = [target for _, target in self.view.binds]
        settings = {
            "mode": self.mode,
            "shown_in_scratch": [target for target in targets if target.startswith(f"{SCRATCH}/")],
            "preload": self.preload,
            "optional": self.optional,
            "environment": environment(self.view.interpreter),
            "mounts_proc": mounts_proc,
            "uid": NOBODY if self.is_root and self.mode != "unsafe" else None,
        }
        return (self.view.interpreter, "-s", "-B", "-m", "inside", json.dumps(settings))


class Backend(ABC):
    """One way to start a sandbox."""

    name: ClassVar[str]
    modes: ClassVar[tuple[Mode, ...]] = ("nested", "single")
    """In order of preference."""
    remedy: ClassVar[str]
    """What to do where it does not work."""

    @abstractmethod
    def render_command(self, start: Start) -> Command:
        """The command line. Pure."""


@dataclass(frozen=True, slots=True)
class Bubblewrap(Backend):
    """`bwrap`, which is small, widely installed, and made for this."""

    program: str
    name: ClassVar[str] = "bwrap"
    remedy: ClassVar[str] = (
        "Install bubblewrap (apt-get install bubblewrap, dnf install bubblewrap). Where it is "
        "there and may not make namespaces, ask for user namespaces: sysctl "
        "user.max_user_namespaces=15000; on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0."
    )

    def render_command(self, start: Start) -> Command:
        argv = [self.program, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
        argv += ["--unshare-cgroup-try", "--hostname", "sandbox", "--as-pid-1", "--new-session"]
        argv += ["--cap-drop", "ALL"]
        if start.is_root:
            # bwrap as root covers parts of /proc, and then the kernel refuses the programs' own.
            for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_SYS_ADMIN"):
                argv += ["--cap-add", capability]
        else:
            argv += ["--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY)]
        argv += ["--tmpfs", "/dev"]
        if start.scratch_bytes is None:
            argv += ["--dir", SCRATCH]
        else:
            argv += ["--perms", "1777", "--size", str(start.scratch_bytes), "--tmpfs", SCRATCH]
        for folder in _parents(start.view):
            argv += ["--dir", folder]
        for source, target in start.view.binds:
            argv += ["--ro-bind", source, target]
        for device in DEVICES:
            argv += ["--dev-bind", device, device]
        for target, link in start.view.links:
            argv += ["--symlink", target, link]
        argv += ["--dir", "/proc"] if start.is_root else ["--proc", "/proc"]
        argv += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", CODE, "--"]
        return Command((*argv, *start.zygote_argv(mounts_proc=start.is_root)))


@dataclass(frozen=True, slots=True)
class Namespaces(Backend):
    """Our own launcher, `inside/enter.py`."""

    name: ClassVar[str] = "namespaces"
    remedy: ClassVar[str] = (
        "Needs Linux 5.12 and user namespaces (or root with CAP_SYS_ADMIN): sysctl "
        "user.max_user_namespaces=15000; in a container, one that may make namespaces and whose "
        "/proc is not masked."
    )

    def render_command(self, start: Start) -> Command:
        scratch = None if start.scratch_bytes is None else scratch_options(start.scratch_bytes)
        view = {
            "argv": start.zygote_argv(),
            "binds": start.view.binds,
            "links": start.view.links,
            "devices": DEVICES,
            "scratch": scratch,
            "user_namespace": not start.is_root,
        }
        argv = (sys.executable, "-s", "-B", "-m", "inside.enter", json.dumps(view))
        return Command(argv, cwd=str(INSIDE.parent))


@dataclass(frozen=True, slots=True)
class Apptainer(Backend):
    """`apptainer exec` with the user's image, whose interpreter it is that runs.

    Its `/tmp` in mode `single` has the size that the site's `sessiondir max size` says.
    """

    program: str
    image: str
    name: ClassVar[str] = "apptainer"
    remedy: ClassVar[str] = (
        "Load Apptainer (module load apptainer) and name an image that has a Python of 3.10 or newer."
    )

    def render_command(self, start: Start) -> Command:
        argv = [self.program, "--quiet", "exec", "--containall", "--cleanenv", "--no-init"]
        argv += ["--no-home", "--net", "--network", "none", "--uts"]
        if not start.is_root:  # root needs them to become nobody, which gives them up
            argv += ["--no-privs"]
        for source, target in start.view.binds:
            argv += ["--bind", f"{source}:{target}:ro"]
        for name, value in environment(start.view.interpreter).items():
            argv += ["--env", f"{name}={value}"]
        argv += ["--pwd", CODE, self.image]
        return Command((*argv, *start.zygote_argv()))


@dataclass(frozen=True, slots=True)
class Unsafe(Backend):
    """A process group with resource limits: a model's program can read and do what the user can."""

    name: ClassVar[str] = "unsafe"
    modes: ClassVar[tuple[Mode, ...]] = ("unsafe",)
    remedy: ClassVar[str] = (
        "Say `unsafe: true` in the recipe, on a machine that has nothing to lose."
    )

    def render_command(self, start: Start) -> Command:
        return Command(start.zygote_argv(), cwd=str(INSIDE.parent))


def _parents(view: View) -> list[str]:
    """Folders that hold what is shown: bwrap would make them unreadable for anybody but root."""
    inside = [path for _, path in (*view.binds, *view.links)]
    found = {str(parent) for path in inside for parent in Path(path).parents}
    return sorted(found - {"/", "/dev", SCRATCH})


def safe_backends(env: Mapping[str, str], image: Path | None) -> Sequence[Backend]:
    """Those to try, in order. With an image it is Apptainer alone, for the interpreter is in there."""
    if image is not None:
        return [
            Apptainer(shutil.which("apptainer", path=env.get("PATH")) or "apptainer", str(image))
        ]
    bwrap = shutil.which("bwrap", path=env.get("PATH")) or "bwrap"
    return [Bubblewrap(bwrap), Namespaces()]
