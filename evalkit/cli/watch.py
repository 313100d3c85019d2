"""Following a run: a live view on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from rich.live import Live
from rich.text import Text

from evalkit.cli.console import err
from evalkit.cli.status_view import status_line, status_view
from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.status import RunStatus, StatusReader
from evalkit.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evalkit.store.layout import RunFolder

LOCAL_POLL_S = 0.5
SLURM_POLL_S = 5.0
"""Slurm's controller is shared by everybody; progress itself is read from files."""
LINE_EVERY_S = 15.0


def watch(folder: RunFolder, *, poll_s: float = SLURM_POLL_S) -> RunStatus:
    """Show a run's status until it is over; returns the last one."""
    console = err()
    reader = StatusReader(folder, clock=SYSTEM_CLOCK)
    if not console.is_terminal:
        return _watch_lines(reader, poll_s)
    status = reader.read()
    with Live(status_view(status), console=console, refresh_per_second=4) as live:
        while not status.is_over:
            time.sleep(poll_s)
            status = reader.read()
            live.update(status_view(status))
    return status


def _watch_lines(reader: StatusReader, poll_s: float) -> RunStatus:
    console = err()
    said, when = "", float("-inf")
    while True:
        status = reader.read()
        line, now = status_line(status), SYSTEM_CLOCK.monotonic()
        if status.is_over or (line != said and now - when >= LINE_EVERY_S):
            console.print(Text(line), soft_wrap=True)
            said, when = line, now
        if status.is_over:
            return status
        time.sleep(poll_s)


@contextlib.contextmanager
def watching_here(folder: RunFolder) -> Iterator[None]:
    """Show a run's status beside work that this process does itself."""
    stop = threading.Event()
    thread = threading.Thread(target=_show_until, args=(folder, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _show_until(folder: RunFolder, stop: threading.Event) -> None:
    console = err()
    reader = StatusReader(folder, clock=SYSTEM_CLOCK)
    if not console.is_terminal:
        said = ""
        while not stop.wait(LINE_EVERY_S):
            line = _local_line(reader)
            if line != said:
                console.print(Text(line), soft_wrap=True)
                said = line
        return
    with Live(console=console, refresh_per_second=4) as live:
        while True:
            is_last = stop.wait(LOCAL_POLL_S)
            with contextlib.suppress(StoreError):  # the work itself reports what is wrong on disk
                live.update(status_view(reader.read()))
            if is_last:
                break


def _local_line(reader: StatusReader) -> str:
    try:
        return status_line(reader.read())
    except StoreError as error:
        return error.message
