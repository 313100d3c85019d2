"""The `namespaces` backend: new namespaces and a new root, without any program but Python.

Started on the host as `python -m inside.enter VIEW`, with the view as JSON. As root it makes the
namespaces with root's own rights, as anybody else within a user namespace; the process that goes on
inside is PID 1 of its own PID namespace and has nothing of the host but what the view names. The
steps are those of bubblewrap: an empty tmpfs becomes the root, the host's root is moved below it,
what is shown is bound from there, and then the host's root is taken away.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from . import kernel
from .places import CODE, NOBODY, SCRATCH

_NAMESPACES = (
    kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWCGROUP
)
_HOST, _NEW = "/host", "/new"
_QUIET = kernel.MS_NOSUID | kernel.MS_NODEV


def main() -> None:
    """Build, go in, and become the zygote; outside, wait for it."""
    view: dict[str, Any] = json.loads(sys.argv[1])
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(_NAMESPACES | (kernel.CLONE_NEWUSER if view["user_namespace"] else 0))
    if view["user_namespace"]:
        kernel.map_user(NOBODY, uid, gid)
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        sys.exit(min(255, abs(os.waitstatus_to_exitcode(status))))
    socket.sethostname("sandbox")
    _build(view)
    os.chdir(CODE)
    os.execv(view["argv"][0], view["argv"])


def _build(view: dict[str, Any]) -> None:
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", SCRATCH, "tmpfs", _QUIET, "mode=755")
    for folder in (_HOST, _NEW):
        Path(SCRATCH + folder).mkdir()
    kernel.pivot_root(SCRATCH, SCRATCH + _HOST)
    os.chdir("/")
    kernel.mount("tmpfs", _NEW, "tmpfs", _QUIET, "mode=755")
    for folder in ("/proc", SCRATCH):
        Path(_NEW + folder).mkdir()
    if view["scratch"] is not None:
        kernel.mount("tmpfs", _NEW + SCRATCH, "tmpfs", _QUIET, view["scratch"])
    for source, target in view["binds"]:
        _bind(_HOST + source, _NEW + target)
    for target, link in view["links"]:
        path = Path(_NEW + link)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    for device in view["devices"]:
        _bind_device(device)
    kernel.mount("proc", f"{_NEW}/proc", "proc", _QUIET | kernel.MS_NOEXEC)
    kernel.set_mount_attributes(_NEW, kernel.MS_RDONLY, recursive=False)
    kernel.unmount(_HOST)
    os.chdir(_NEW)
    kernel.pivot_root(".", ".")  # puts the old root on top of the new one, to be taken off
    kernel.unmount(".")
    os.chdir("/")


def _bind(source: str, target: str) -> None:
    path = Path(target)
    if Path(source).is_dir():
        path.mkdir(parents=True, exist_ok=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    kernel.mount(source, target, "", kernel.MS_BIND | kernel.MS_REC)
    kernel.set_mount_attributes(target, _QUIET | kernel.MS_RDONLY, recursive=True)


def _bind_device(device: str) -> None:
    path = Path(_NEW + device)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    kernel.mount(_HOST + device, str(path), "", kernel.MS_BIND)
    kernel.set_mount_attributes(str(path), kernel.MS_NOSUID | kernel.MS_NOEXEC, recursive=False)


if __name__ == "__main__":
    main()
