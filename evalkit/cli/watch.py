"""Following a run: a live view on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.text import Text

from evalkit.cli.console import err
from evalkit.cli.status_view import status_line, status_view
from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.passing_faults import PassingFaults
from evalkit.cluster.status import RunStatus, StatusReader
from evalkit.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console, RenderableType

    from evalkit.store.layout import RunFolder

LOCAL_POLL_S = 0.5
POLL_S = 2.0
"""Of files, as often as workers write them. Slurm is asked much less often: see `StatusReader`."""
LINE_EVERY_S = 15.0
BLIND_FOR_S = 75.0
"""Where nobody can be asked, replicas have the time of a stale heartbeat and more to be heard."""


def watch(folder: RunFolder, *, poll_s: float = POLL_S) -> RunStatus:
    """Show a run's status until it is over, or nobody here can tell any more; returns the last one.

    Raises StoreError when the run cannot be read, and that does not pass.
    """
    console = err()
    reader = StatusReader(folder, clock=SYSTEM_CLOCK)
    if not console.is_terminal:
        return _watch_lines(reader, poll_s)
    patience, faults = Patience(), PassingFaults()
    shown: RenderableType = ""
    with Live(console=console, refresh_per_second=4) as live:
        while True:
            status = faults.look(reader.read)
            if isinstance(status, StoreError):
                # above: what is too long for the terminal is cut below
                live.update(Group(Text(_unread(status), style="red"), shown), refresh=True)
            elif patience.is_over(status):
                live.update(status_view(status))  # the last one stays, whole
                return status
            else:
                live.update(shown := _fitting(status, console))
            time.sleep(poll_s)


def _unread(error: StoreError) -> str:
    return f"{error.message}; looking again"


@dataclass(slots=True)
class Patience:
    """When to stop watching."""

    monotonic: Callable[[], float] = SYSTEM_CLOCK.monotonic
    blind_since: float | None = None

    def is_over(self, status: RunStatus) -> bool:
        """The run is over, or nothing could be known of it for a while."""
        if not status.is_blind:
            self.blind_since = None
            return status.is_over
        now = self.monotonic()
        self.blind_since = now if self.blind_since is None else self.blind_since
        return now - self.blind_since >= BLIND_FOR_S


def _fitting(status: RunStatus, console: Console) -> RenderableType:
    return status_view(status, height=console.height)


def _watch_lines(reader: StatusReader, poll_s: float) -> RunStatus:
    console = err()
    said, when = "", float("-inf")
    patience, faults = Patience(), PassingFaults()
    while True:
        status = faults.look(reader.read)
        if isinstance(status, StoreError):
            line, ending = _unread(status), None
        else:
            line = status_line(status)
            ending = status if patience.is_over(status) else None
        now = SYSTEM_CLOCK.monotonic()
        if ending or (line != said and now - when >= LINE_EVERY_S):
            console.print(Text(line), soft_wrap=True)
            said, when = line, now
        if ending:
            return ending
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
                live.update(_fitting(reader.read(), console))
            if is_last:
                break


def _local_line(reader: StatusReader) -> str:
    try:
        return status_line(reader.read())
    except StoreError as error:
        return error.message
