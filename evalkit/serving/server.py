"""One server process: started, watched and ended for certain.

It knows nothing of HTTP or models. The danger it exists for is a process tree that outlives us, see
`evalkit.serving.keeper`, through which the server is started.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from evalkit.errors import FailureKind, ServingError
from evalkit.serving import keeper, logs, tree
from evalkit.serving.memory import oom_kills

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

# The keeper needs a moment to notice the signal, and another to see the last process gone.
KEEPER_MARGIN_S = 2.0
POLL_S = 0.05


class Server:
    """A running server. Create it with `start_server`."""

    def __init__(
        self, process: subprocess.Popen[bytes], marker: str, log_path: Path, log_start: int
    ) -> None:
        self._process = process
        self._marks = tree.Marks(marker, log_path, tree.read_process(process.pid))
        self._log_start = log_start
        self._kills_before = oom_kills()
        self.log_path = log_path

    @property
    def pid(self) -> int:
        """The keeper's pid; the server is its child."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def exit_code(self) -> int | None:
        """Exit code of the server, 128 + n after signal n; None while it runs."""
        return self._process.poll()

    def find_processes(self) -> set[tree.Process]:
        """All that it consists of now, with its keeper."""
        # An ended keeper is no root: its pid may be another's by now, and it has no children.
        return tree.find_tree({self.pid} if self.is_alive else set(), self._marks)

    def log(self) -> list[str]:
        """What this server has written last, as lines."""
        return logs.read_end(self.log_path, self._log_start)

    @property
    def was_oom_killed(self) -> bool:
        """Whether it has ended, and the kernel killed for memory in our control group since its start.

        Whatever its exit code: the kernel takes the largest process, a server's engine mostly, and the
        one we started ends with a code of its own for want of it.
        """
        return not self.is_alive and (oom_kills() or 0) > (self._kills_before or 0)

    async def stop(self, grace_s: float, within_s: float = math.inf) -> None:
        """TERM, KILL after `grace_s`; returns when no process of the tree is left.

        After `within_s` (s) KILL comes at once, without the keeper's margin. Raises ServingError when
        one survives SIGKILL.
        """
        if self.is_alive:
            self._ask_to_stop(grace_s)
        await self._wait(min(within_s, grace_s + KEEPER_MARGIN_S))
        # The keeper may have been killed, or was given a longer grace: end what is left at once.
        roots = {self.pid} if self.is_alive else set()
        left = await asyncio.to_thread(tree.end_tree, roots, self._marks, 0.0)
        self._process.poll()  # a keeper that was killed here is still to be reaped
        if left:
            raise unendable(left)

    def _ask_to_stop(self, grace_s: float) -> None:
        """Tell the keeper; it has a grace period of its own."""
        self._process.terminate()

    async def _wait(self, limit_s: float) -> None:
        """Return when the process has ended, or the time is over."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        while self.is_alive and loop.time() < deadline:
            await asyncio.sleep(POLL_S)


def unendable(left: Iterable[tree.Process]) -> ServingError:
    """SIGKILL was not enough. The node is to blame, whatever was wrong with the server before."""
    pids = ", ".join(str(process.pid) for process in sorted(left))
    return ServingError(
        f"processes of the server survive SIGKILL: {pids}",
        hint="They hang in the kernel (driver or file system): look at the node, exclude it.",
        kind=FailureKind.SERVER_HANG,
    )


def describe_code(code: int) -> str:
    """`exit code 137 (SIGKILL)`."""
    if code <= 128:
        return f"exit code {code}" if code >= 0 else describe_code(128 - code)
    try:
        return f"exit code {code} ({signal.Signals(code - 128).name})"
    except ValueError:
        return f"exit code {code}"


def keeper_command(parent: int | str, grace_s: float, cache_dir: Path) -> tuple[str, ...]:
    """argv that goes before the server's own. `parent`: our process id, or `keeper.STDIN`."""
    own = (str(parent), str(grace_s), str(cache_dir))
    return (sys.executable, "-I", "-S", keeper.__file__, *own)


def start_server(
    command: Sequence[str], env: Mapping[str, str], log_path: Path, grace_s: float, cache_dir: Path
) -> Server:
    """Start a command through a keeper. `env` holds the marker, see `tree.MARKER`.

    `cache_dir` is made, for us alone; the keeper removes it when we are killed.
    Call it from a thread that lives as long as the program.
    """
    cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    whole = [*keeper_command(os.getpid(), grace_s, cache_dir), *command]
    process, log_start = launch(whole, env, log_path, stdin=subprocess.DEVNULL)
    return Server(process, env[tree.MARKER], log_path, log_start)


def launch(
    command: Sequence[str],
    env: Mapping[str, str],
    log_path: Path,
    *,
    stdin: int,
    cwd: Path | None = None,
) -> tuple[subprocess.Popen[bytes], int]:
    """A process in a session of its own that logs to a file, and where in the file it begins."""
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        log_start = log.tell()
        # The mask is inherited: SIGUSR2 cannot kill the keeper before it ignores the signal.
        old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        try:
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)
    return process, log_start
