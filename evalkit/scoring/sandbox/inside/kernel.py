"""The system calls that Python lacks, each as a function that raises OSError with what was tried.

Only Linux, through the C library that the interpreter has loaded anyway; the few calls that it does
not wrap go by number, which is the same on both processors we know. Nothing here decides anything.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24
PR_SET_NO_NEW_PRIVS = 38

_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_CAPABILITY_VERSION_3 = 0x20080522
_MOUNT_SETATTR = 442
"""One number on every processor, from Linux 5.12 on."""
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Leave the namespaces that ``flags`` name for new ones."""
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2)."""
    arguments = (os.fsencode(source), os.fsencode(target), kind.encode(), flags, data.encode())
    _check(_libc.mount(*arguments), f"mount {kind or 'bind'} {source} on {target}")


def unmount(target: str) -> None:
    """Take a mount away, at once for everybody who looks and in full when nobody uses it."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")


def set_mount_attributes(target: str, attributes: int, *, recursive: bool) -> None:
    """Add MS_RDONLY, MS_NOSUID, MS_NODEV or MS_NOEXEC to a mount, keeping what it has."""
    # struct mount_attr: attr_set, attr_clr, propagation, userns_fd. The four bits are those of MS_*.
    structure = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    result = _libc.syscall(
        ctypes.c_long(_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        ctypes.c_char_p(os.fsencode(target)),
        ctypes.c_uint(_AT_RECURSIVE if recursive else 0),
        structure,
        ctypes.c_size_t(ctypes.sizeof(structure)),
    )
    _check(result, f"mount_setattr {target}")


def pivot_root(new: str, old: str) -> None:
    """Make ``new`` the root of this mount namespace and show the old one at ``old``."""
    number = _PIVOT_ROOT[os.uname().machine]
    result = _libc.syscall(
        ctypes.c_long(number),
        ctypes.c_char_p(os.fsencode(new)),
        ctypes.c_char_p(os.fsencode(old)),
    )
    _check(result, f"pivot_root {new}")


def prctl(option: int, argument: int, pointer: int = 0) -> int:
    """prctl(2) with at most two arguments."""
    result: int = _libc.prctl(
        ctypes.c_int(option),
        ctypes.c_ulong(argument),
        ctypes.c_ulong(pointer),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
    )
    _check(result, f"prctl {option}")
    return result


def drop_capabilities() -> None:
    """Give up every capability, for this process and whatever it starts."""
    drop_bounding_set()
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _check(_libc.capset(header, nothing), "capset")


def drop_bounding_set() -> None:
    """Let nothing that this process starts have capabilities; those it has itself, it keeps."""
    capability = 0
    while _libc.prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0:
        # Where the set may not be changed, no_new_privs still keeps anything from gaining.
        _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
        capability += 1


def map_user(inside: int, uid: int, gid: int) -> None:
    """In a fresh user namespace: be ``inside`` there, for who was ``uid`` and ``gid`` outside."""
    me = Path("/proc/self")
    (me / "setgroups").write_text("deny")
    (me / "uid_map").write_text(f"{inside} {uid} 1")
    (me / "gid_map").write_text(f"{inside} {gid} 1")
