"""The filter of system calls, played through instruction by instruction for both processors."""

from __future__ import annotations

import errno
import socket

import pytest

from evalkit.scoring.sandbox.inside.seccomp import plan_filter

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
CONVENTION = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def decide(machine: str, number: int, argument: int = 0, convention: int | None = None) -> int:
    """What the kernel would do with a call."""
    memory = {0: number, 4: CONVENTION[machine] if convention is None else convention, 16: argument}
    plan, at, value = plan_filter(machine), 0, 0
    while True:
        code, yes, no, operand = plan[at]
        at += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            value = memory[operand]
            continue
        holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[code]
        at += yes if holds else no


@pytest.mark.parametrize(
    ("machine", "calls"),
    [
        ("x86_64", {"read": 0, "execve": 59, "futex": 202, "openat": 257, "close_range": 436}),
        ("aarch64", {"read": 63, "execve": 221, "futex": 98, "openat": 56, "close_range": 436}),
    ],
)
def test_ordinary_calls(machine: str, calls: dict[str, int]) -> None:
    """What programs do all the time is allowed."""
    assert {decide(machine, number) for number in calls.values()} == {ALLOW}


@pytest.mark.parametrize(
    ("machine", "calls"),
    [
        (
            "x86_64",
            {"ptrace": 101, "mount": 165, "unshare": 272, "bpf": 321, "keyctl": 250, "iopl": 172},
        ),
        ("aarch64", {"ptrace": 117, "mount": 40, "unshare": 97, "bpf": 280, "keyctl": 219}),
    ],
)
def test_forbidden_calls(machine: str, calls: dict[str, int]) -> None:
    """What reaches around the namespaces fails with EPERM."""
    assert {decide(machine, number) for number in calls.values()} == {EPERM}


@pytest.mark.parametrize(("machine", "clone"), [("x86_64", 56), ("aarch64", 220)])
def test_clone(machine: str, clone: int) -> None:
    """Processes and threads can be made, namespaces cannot, and clone3 does not exist."""
    thread, process, user_namespace = 0x3D0F00, 17, 0x10000011
    assert decide(machine, clone, thread) == decide(machine, clone, process) == ALLOW
    assert decide(machine, clone, user_namespace) == EPERM
    assert decide(machine, 435) == ENOSYS


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 41), ("aarch64", 198)])
def test_sockets(machine: str, number: int) -> None:
    """Families that the network namespace holds are allowed, all others are not."""
    allowed = {n for n in range(50) if decide(machine, number, n) == ALLOW}
    assert allowed == {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}
    assert decide(machine, number, 40) == EPERM  # AF_VSOCK


def test_other_calling_conventions() -> None:
    """32-bit calls, whose numbers mean other things, end the program; x32 calls fail."""
    assert decide("x86_64", 0, convention=0x40000003) == KILL
    assert decide("x86_64", 0x40000000 + 165) == EPERM


def test_unknown_processor() -> None:
    """Where the numbers are not known there is no filter, and so no sandbox."""
    with pytest.raises(OSError, match="processor riscv64"):
        plan_filter("riscv64")
