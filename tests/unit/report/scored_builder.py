"""Makes complete tasks with given scores, as comparisons read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from evalkit.benchmarks.contract import BenchmarkParams
from evalkit.report.scored import AnyTask, LoadedRun, SampleScores, ScoredTask, Unscored
from evalkit.report.statistics import Interval
from tests.unit.report.run_builder import Echo, make_run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from evalkit.report.results import Results


class Halves(Echo):
    """The headline is the mean of two subsets, whatever their sizes."""

    sums: ClassVar[Mapping[str, Mapping[str, float]]] = {"halves": {"even": 0.5, "odd": 0.5}}

    def subset_weights(self, totals: Mapping[str, float]) -> Mapping[str, Mapping[str, float]]:
        """Without one of them, something else."""
        return (
            self.sums if {"even", "odd"} <= totals.keys() else {"rest": dict.fromkeys(totals, 1.0)}
        )


class Tasks:
    """Makes tasks from one gathered run's results."""

    def __init__(self, folder: Path) -> None:
        run = make_run(folder)
        run.write_all()
        self.results: Results = run.gather()

    def scored(
        self,
        rows: Mapping[str, Sequence[float]],
        *,
        cls: type[Echo] = Echo,
        headline: Mapping[str, Any] | None = None,
        samples: Mapping[str, Mapping[str, Any]] | None = None,
        **changes: Any,
    ) -> ScoredTask:
        """A task with these scores by sample; `samples` changes fields of some of them."""
        repeats = len(next(iter(rows.values())))
        basics = {"weight": 1.0, "subset": None, "cluster": None, "target": None}
        made = {
            name: SampleScores(tuple(row), **{**basics, **(samples or {}).get(name, {})})
            for name, row in rows.items()
        }
        update = {
            "repeats": repeats,
            "n_samples": len(rows),
            "metric": "correct",
            **(headline or {}),
        }
        results = self.results.model_copy(
            update={"headline": self.results.headline.model_copy(update=update), **changes}
        )
        return ScoredTask(results, made, cls(BenchmarkParams(), "card"))

    def missing(self, low: float, high: float, **changes: Any) -> Unscored:
        """A task of which units are missing."""
        update = {"value": None, "bounds": Interval(low, high)}
        results = self.results.model_copy(
            update={
                "complete": False,
                "headline": self.results.headline.model_copy(update=update),
                **changes,
            }
        )
        return Unscored("incomplete: 3 of 9 units are missing", results)


def loaded(label: str, **tasks: AnyTask) -> LoadedRun:
    """A run of these tasks, all of the benchmark that has their name."""
    return LoadedRun(label, "0" * 8, tasks, {name: name for name in tasks})
