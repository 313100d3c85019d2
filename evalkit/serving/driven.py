"""A program that asks the model: started as a server is, so that it outlives nobody, and ended soon.

Its unit runs again from the start whatever ended it, with its calls answered from the journal: so it gets
a moment to close its files, and no more.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

from evalkit.errors import FailureKind, InfraError
from evalkit.serving import tree
from evalkit.serving.server import POLL_S, Server, keeper_command, launch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

INTERRUPT_S = 1.0
"""After SIGINT, which most programs take for Ctrl-C."""
TERMINATE_S = 0.5
"""After SIGTERM, before SIGKILL."""
NO_CACHE = ".keeper-caches"
"""Never made: a program has no caches that its keeper would have to remove."""


async def run_program(
    command: Sequence[str], env: Mapping[str, str], folder: Path, log: str, mark: str
) -> int:
    """Run a program in `folder` to its end: its exit code, 128 + n after signal n.

    Output goes to the file `log` there; `mark` names its processes, for who looks for leftovers. When
    the caller is cancelled they get SIGINT, SIGTERM and SIGKILL one after the other. Raises InfraError
    where it cannot be started, ServingError where a process survives all of them.
    """
    whole = {**env, tree.MARKER: mark}
    require_program(command, env, folder)
    keeper = keeper_command(os.getpid(), TERMINATE_S, folder / NO_CACHE)
    try:
        process, start = launch(
            [*keeper, *command], whole, folder / log, stdin=subprocess.DEVNULL, cwd=folder
        )
    except OSError as error:
        raise InfraError(f"cannot start {command[0]}: {error.strerror or error}") from error
    program = Server(process, mark, folder / log, start)
    try:
        while (code := program.exit_code()) is None:
            await asyncio.sleep(POLL_S)
        return code
    finally:
        await end_program(program)


async def end_program(program: Server) -> None:
    """End what is left of it; shielded, for who ends it may be cancelled again."""
    ending = asyncio.ensure_future(_end(program))
    try:
        await asyncio.shield(ending)
    except asyncio.CancelledError:
        await asyncio.wait({ending})
        raise


async def _end(program: Server) -> None:
    if (program.exit_code() or 0) < 0:
        await program.stop(0.0)  # its keeper was killed, and has ended nothing
    if not program.is_alive:
        return  # its keeper, too, which has ended all below it
    found = await asyncio.to_thread(program.find_processes)
    tree.send([each for each in found if each.pid != program.pid], signal.SIGINT)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + INTERRUPT_S
    while program.exit_code() is None and loop.time() < deadline:
        await asyncio.sleep(POLL_S)
    await program.stop(TERMINATE_S, 2 * TERMINATE_S)


def require_program(command: Sequence[str], env: Mapping[str, str], folder: Path) -> None:
    """Raise InfraError for a program that is not there: a shell's 127 could be its own."""
    path, name = env.get("PATH", os.defpath), command[0]
    where = str(folder) if "/" in name else f"PATH: {path}"
    if shutil.which(str(folder / name) if "/" in name else name, path=path) is None:
        raise InfraError(
            f"cannot start {name}: there is no such program on this node ({where})",
            kind=FailureKind.CONFIG,
        )
