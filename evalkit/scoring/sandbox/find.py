"""Which sandbox works on this machine: found out by running a program in it, not by asking for versions.

Sites differ in too many ways to tell from settings whether namespaces can be made: kernels, sysctls,
security modules, containers around us. So each backend runs one small program in each of its modes,
and the first that answers is used. Where none does, the error is the manual: it says per backend what
happened and what to do.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import FailureKind, ScorerError
from evalkit.scoring.sandbox.backends import Backend, Mode, Start, Unsafe, safe_backends
from evalkit.scoring.sandbox.inside.places import NOBODY
from evalkit.scoring.sandbox.program import Ending, Program, to_job, to_result
from evalkit.scoring.sandbox.view import View, image_view, view_of
from evalkit.scoring.sandbox.zygote import Zygote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

HELLO = Program(source="print(6 * 7)", wall_s=30.0, cpu_s=30)
ANSWER_GRACE_S = 30.0
"""Beyond a program's own time: what making and ending an enclosure takes on a node that is full."""
_PER_NAMESPACE = (5, 14)
"""From this Linux on RLIMIT_NPROC counts the processes of one user namespace, not all of the user's."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A backend that works here, and what it shows."""

    backend: Backend
    view: View
    mode: Mode

    @property
    def name(self) -> str:
        """For people and records."""
        return self.backend.name if self.mode != "single" else f"{self.backend.name} (single)"

    def zygote(self, preload: Sequence[str] = (), optional: Sequence[str] = ()) -> Zygote:
        """Its running form, with modules of the interpreter imported ahead (`optional`: if it has them)."""
        start = Start(self.view, self.mode, is_root(), tuple(preload), tuple(optional))
        return Zygote(self.backend, start)

    def processes_beside(self) -> int:
        """Processes and threads of others that the kernel counts against a program's limit."""
        if self.mode == "nested" and _linux() >= _PER_NAMESPACE:
            return 0
        return _tasks_of(NOBODY if self.mode != "unsafe" and is_root() else os.getuid())


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one backend on this machine."""

    backend: Backend
    sandbox: Sandbox | None
    reason: str
    """Why there is none, or empty."""


def find_sandbox(
    env: Mapping[str, str],
    *,
    interpreter: Path | None = None,
    readonly: Sequence[Path] = (),
    image: Path | None = None,
    unsafe: bool = False,
) -> Sandbox:
    """The best sandbox that works here; `env` gives the PATH that programs are looked for on.

    `interpreter` is the Python that programs run in (evalkit's own by default; with an Apptainer
    `image`, its `/usr/bin/python3`), `readonly` are further paths they may read. With `unsafe`, no
    isolation at all is the last resort. Raises ScorerError that says what does not work, and why.
    """
    view = _view(interpreter, readonly, image)
    findings = []
    for finding in probe(safe_backends(env, image), view):
        if finding.sandbox is not None:
            return finding.sandbox
        findings.append(finding)
    if unsafe:
        [finding] = probe([Unsafe()], view_of(interpreter or Path(sys.executable), readonly))
        if finding.sandbox is not None:
            return finding.sandbox
        findings.append(finding)
    raise ScorerError(
        "no sandbox for model-written code works on this machine:\n" + _table(findings),
        hint="\n".join([*(f"{f.backend.name}: {f.backend.remedy}" for f in findings)])
        + ("" if unsafe else f"\n{Unsafe.name}: {Unsafe.remedy}"),
        kind=FailureKind.CONFIG,
    )


def probe(backends: Sequence[Backend], view: View) -> Iterator[Finding]:
    """Try each backend with a program that says hello, one after the other."""
    for backend in backends:
        reasons = []
        for mode in backend.modes:
            sandbox = Sandbox(backend, view, mode)
            reason = _say_hello(sandbox)
            if reason is None:
                yield Finding(backend, sandbox, "")
                break
            reasons.append(reason)
        else:
            yield Finding(backend, None, "; then ".join(dict.fromkeys(reasons)))


def is_root() -> bool:
    """Root that can become nobody; root of a container with a single user cannot."""
    if os.geteuid() != 0:
        return False
    ranges = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return any(int(first) <= NOBODY < int(first) + int(n) for first, _, n in ranges)


def _view(interpreter: Path | None, readonly: Sequence[Path], image: Path | None) -> View:
    if image is not None:
        return image_view(interpreter or Path("/usr/bin/python3"), readonly)
    return view_of(interpreter or Path(sys.executable), readonly)


def _say_hello(sandbox: Sandbox) -> str | None:
    """Why it does not work, or None."""
    try:
        with sandbox.zygote() as zygote, zygote.open(HELLO.limits.scratch_bytes) as channel:
            job = to_job(HELLO, sandbox.processes_beside())
            result = to_result(channel.ask(job, HELLO.wall_s + ANSWER_GRACE_S))
    except ScorerError as error:
        return error.message
    if result.ended is Ending.OK and result.stdout == b"42\n":
        return None
    said = result.stderr.decode(errors="replace").strip().splitlines()
    return f"a first program ended as {result.ended}" + (f": {said[-1]}" if said else "")


def _table(findings: Sequence[Finding]) -> str:
    return "\n".join(f"  {finding.backend.name}: {finding.reason}" for finding in findings)


def _linux() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])


def _tasks_of(uid: int) -> int:
    """Threads of all processes of a user."""
    count = 0
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):  # it has ended since
                if process.stat().st_uid == uid:
                    count += sum(1 for _ in (process / "task").iterdir())
    return count
