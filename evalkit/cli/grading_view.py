"""How a grading shows in a terminal: one bar per task, and what is waited for."""

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

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import TaskID

    from evalkit.cluster.grading import GradingProgress


class GradingView:
    """Use it as a context manager; nothing is shown before something is graded."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("grading {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err(),
            disable=not err().is_terminal,
        )
        self._bars: dict[str, TaskID] = {}

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
        """Draw how far a task is."""
        if progress.task not in self._bars:
            self._bars[progress.task] = self._progress.add_task(
                progress.task, total=progress.expected, failed=""
            )
        failed = f"{progress.failed:,} failed" if progress.failed else ""
        self._progress.update(self._bars[progress.task], completed=progress.graded, failed=failed)

    def tell(self, text: str) -> None:
        """Say what is waited for."""
        say(text)
