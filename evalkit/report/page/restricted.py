"""What artifacts withhold of data that may not be republished, for a page that was asked to show it.

Questions and targets come from the run's frozen requests, the words of a judge from its journals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.benchmarks.frozen import load_frozen
from evalkit.benchmarks.registry import benchmark_for
from evalkit.plan.model import UnitKey
from evalkit.report.findings import Findings
from evalkit.store.gradings import answer_hash

if TYPE_CHECKING:
    from evalkit.report.page.sources import RunReport, TaskReport


class Restorer:
    """Completes the lines of one task's samples."""

    def __init__(self, run: RunReport, task: TaskReport) -> None:
        """Raises StoreError where requests or journals cannot be read."""
        self._samples = load_frozen(run.folder, task.plan)
        self._found: dict[tuple[UnitKey, str], Any] = {}
        findings = Findings.of(run.folder, run.plan, task.plan, benchmark_for(task.plan))
        for shard in task.plan.shards():
            gradings = findings.read(shard).gradings
            if gradings is not None:
                self._found |= gradings.found

    def complete(self, line: dict[str, Any]) -> dict[str, Any]:
        """The line with messages, target and grading."""
        sample = self._samples[line["sample"]]
        key = UnitKey(line["sample"], line["repeat"])
        name = answer_hash(line["content"], line["outcome"], line["data"])
        grading = self._found.get((key, name))
        return {**line, "messages": sample.messages, "target": sample.target, "grading": grading}
