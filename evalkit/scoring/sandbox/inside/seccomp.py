"""A filter of system calls for the model's code: no namespaces, mounts, tracing, keys or odd sockets.

Namespaces take away what a program can name; this takes away calls that no exercise needs and that
either reach around namespaces (sockets to the machine's host, kernel keyrings) or open the kernel's
least tested doors (nested user namespaces, bpf, io_uring), and two that make memory no limit counts.
Refused calls fail with EPERM, so a program sees an error and not a kill. It is a list of what is
forbidden, not of what is allowed: a new Python must not break on a call it has not made before.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import socket

from .kernel import PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, prctl

_CLONE_NAMESPACES = 0x7E020000
"""Every CLONE_NEW* flag that clone(2) takes."""

# name: (x86_64, aarch64); None where the processor does not have it.
_FORBIDDEN: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setns": (308, 268),
    "shmget": (29, 194),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
_CLONE, _CLONE3, _SOCKET = (56, 220), (435, 435), (41, 198)
_PROCESSORS = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Column above, and the kernel's name for the calling convention."""
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
"""Those that end at the program's own, empty network namespace. AF_VSOCK, for one, does not."""
_X32 = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCH_AT, _ARGUMENT_AT = 0, 4, 16
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_SECCOMP_MODE_FILTER = 2


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("yes", ctypes.c_uint8),
        ("no", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("first", ctypes.POINTER(_Instruction)))


def plan_filter(machine: str) -> list[tuple[int, int, int, int]]:
    """The filter's instructions (code, jump if true, jump if false, value) for a processor.

    Raises OSError for one whose numbers are not known: without a filter there is no sandbox.
    """
    if machine not in _PROCESSORS:
        raise OSError(errno.ENOSYS, f"no list of system calls for the processor {machine}")
    column, convention = _PROCESSORS[machine]
    refuse = (_RETURN, 0, 0, _errno(errno.EPERM))
    plan = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_EQUAL, 1, 0, convention),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    if machine == "x86_64":
        plan += [(_AT_LEAST, 0, 1, _X32), refuse]
    for numbers in _FORBIDDEN.values():
        number = numbers[column]
        if number is not None:
            plan += [(_EQUAL, 0, 1, number), refuse]
    # Its flags lie in memory, where a filter cannot look; the C library falls back to clone.
    plan += [(_EQUAL, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _errno(errno.ENOSYS))]
    plan += [
        (_EQUAL, 0, 3, _CLONE[column]),
        (_LOAD, 0, 0, _ARGUMENT_AT),
        (_ANY_BIT, 0, 1, _CLONE_NAMESPACES),
        refuse,
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    plan += [
        (_EQUAL, 0, len(_FAMILIES) + 2, _SOCKET[column]),
        (_LOAD, 0, 0, _ARGUMENT_AT),
        *((_EQUAL, len(_FAMILIES) - i, 0, int(family)) for i, family in enumerate(_FAMILIES)),
        refuse,
    ]
    return [*plan, (_RETURN, 0, 0, _ALLOW)]


def _errno(number: int) -> int:
    return 0x00050000 | number


@functools.cache
def assemble_filter() -> _Program:
    """The filter as the kernel takes it; the zygote makes it once, and every fork has it. Raises OSError."""
    plan = plan_filter(os.uname().machine)
    instructions = (_Instruction * len(plan))(*(_Instruction(*each) for each in plan))
    return _Program(len(plan), instructions)


def install_filter() -> None:
    """From here on, for this process and all it starts. Cannot be undone."""
    program = assemble_filter()
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))
