"""How a grading shows: one bar per task on a terminal, a line now and then elsewhere, and what is waited
for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from evalkit.cli.console import err, say
from evalkit.cli.watch import LINE_EVERY_S
from evalkit.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from rich.progress import TaskID

    from evalkit.cluster.grading import GradingProgress


class GradingView:
    """Use it as a context manager; nothing is shown before something is graded."""

    def __init__(self, monotonic: Callable[[], float] = SYSTEM_CLOCK.monotonic) -> None:
        self._progress = Progress(
            TextColumn("grading {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err(),
            disable=not err().is_terminal,
        )
        self._bars: dict[str, TaskID] = {}
        self._monotonic = monotonic
        self._began: dict[str, float] = {}
        self._said: dict[str, tuple[float, str]] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, progress: GradingProgress) -> None:
        """Draw how far a task is; without a terminal, say it every `LINE_EVERY_S` and at the end."""
        task, now = progress.task, self._monotonic()
        rate = progress.now / max(now - self._began.setdefault(task, now), 1.0)
        said = ", ".join(_words(progress, rate))
        if task not in self._bars:
            self._bars[task] = self._progress.add_task(task, total=progress.expected, said="")
        self._progress.update(self._bars[task], completed=progress.graded, said=said)
        if self._progress.disable:
            self._say(progress, said, now)

    def _say(self, progress: GradingProgress, said: str, now: float) -> None:
        when, before = self._said.setdefault(progress.task, (now, ""))
        line = f"grading {progress.task}: {progress.graded:,}/{progress.expected:,}"
        line = ", ".join(filter(None, (line, said)))
        is_last = progress.graded + progress.failed >= progress.expected
        if line != before and (is_last or now - when >= LINE_EVERY_S):
            say(line)
            self._said[progress.task] = (now, line)

    def tell(self, text: str) -> None:
        """Say what is waited for."""
        say(text)


def _words(progress: GradingProgress, rate: float) -> Iterator[str]:
    """What stands beside the counts."""
    if progress.now:
        yield f"{rate:.1f}/s"
    if progress.failed:
        yield f"{progress.failed:,} failed"
    if progress.score is not None:
        yield f"score so far {100 * progress.score:.1f}"
