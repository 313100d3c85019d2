"""Tasks that a harness scores as a whole: its numbers, its samples, and what is withheld."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from evalkit.benchmarks.native import NativeMetric, NativeResult, NativeSample
from evalkit.benchmarks.registry import benchmark_class
from evalkit.cluster.progress import ProgressReader
from evalkit.errors import RecipeError, ScorerError
from evalkit.report.page.sources import RunReport, TaskReport, read_run
from evalkit.report.page.views import score_points
from evalkit.report.page.write import make_page
from evalkit.report.scored import ScoredTask, load_scored
from evalkit.report.whole import UNCOUNTED
from evalkit.store.records import RELAYED, Outcome, UnitRecord
from tests.unit.report.run_builder import (
    Echo,
    echo,
    make_call,
    make_failure,
    make_run,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from evalkit.benchmarks.contract import Answered


class Whole(Echo):
    """A harness with two subtasks; an answer `boom` makes it fail."""

    whole = True
    metric = "acc"
    changed: NativeResult | None = None

    def conclude(self, answers: Sequence[Answered], run: Path, out: Path) -> NativeResult:
        """Right is what equals the target."""
        if any(each.solution.text == "boom" for each in answers):
            raise ScorerError("the harness failed", hint="type this")
        if any(each.solution.text == "bug" for each in answers):
            raise KeyError("a bug")
        if any(each.solution.text == "unreadable" for each in answers):
            (run / "gone.json").read_bytes()
        (out / "logs").mkdir()
        (out / "logs" / "native.json").write_text("{}")
        self.asked = [(each.sample.id, each.repeat) for each in answers]
        samples = [
            NativeSample(
                id=each.sample.id,
                repeat=each.repeat,
                subset=each.sample.subset,
                scores={"acc": float(each.solution.text == each.sample.target)},
                content=each.solution.text,
                answer=each.solution.text,
                messages=each.sample.messages,
                target=each.sample.target,
            )
            for each in answers
        ]
        mean = sum(s.scores["acc"] for s in samples) / len(samples)
        found = NativeResult(
            metrics=[NativeMetric(subset="echo", name="acc", value=mean, stderr=0.25)],
            headline=("echo", "acc"),
            versions={"toy": "1.0"},
            samples=samples,
            n_samples=len({s.id for s in samples}),
            repeats=2,
        )
        return found if self.changed is None else replace(self.changed, samples=samples)


def whole(changed: NativeResult | None = None) -> Whole:
    """With another result than its own."""
    made = echo(Whole)
    assert isinstance(made, Whole)
    made.changed = changed
    return made


def test_complete(tmp_path: Path) -> None:
    """The number is the harness's, error and interval ours; answers come in plan order."""
    run = make_run(tmp_path, metric="acc")
    run.write_all(wrong=run.units()[:2])
    benchmark = whole()
    results = run.gather(benchmark)
    assert benchmark.asked == [(f"s{i}", k) for i in range(4) for k in range(2)]
    assert results.complete
    headline = results.headline
    assert (headline.value, headline.percent, headline.shown) == (0.75, 75.0, 75.0)
    assert headline.name == "pass@1[avg-of-2] acc"
    assert (headline.n_samples, headline.repeats) == (4, 2)
    assert headline.standard_error_method == "se_items_clustered"
    assert results.statistics is not None
    assert headline.standard_error == results.statistics["acc"].se_items_clustered
    assert results.subsets is not None
    assert set(results.subsets) == {"even", "odd"}
    assert results.native is not None
    assert results.native.versions == {"toy": "1.0"}
    assert results.native.files == ("logs/native.json",)
    assert (run.folder.native("echo") / "logs" / "native.json").read_text() == "{}"
    kept = run.folder.native("echo")
    assert kept.stat().st_mode == kept.parent.stat().st_mode, "who reads the results reads this"
    assert results.native.differences == ()
    assert (results.counts.expected, results.counts.scored, results.counts.no_answer) == (8, 8, 0)
    lines = run.read_samples()
    assert [(line["id"], line["sample"], line["repeat"]) for line in lines[:3]] == [
        ("even/s0", 0, 0),
        ("even/s0", 0, 1),
        ("odd/s1", 1, 0),
    ]
    assert lines[0]["scores"] == {"acc": 0.0}
    assert run.gather(whole()) == results


def test_missing_units(tmp_path: Path) -> None:
    """While a unit is missing the harness is not asked, and there is no number."""
    run = make_run(tmp_path, metric="acc")
    run.write(run.answer(key) for key in run.units()[:-1])
    run.write([make_failure(run.units()[-1])])
    benchmark = whole()
    results = run.gather(benchmark)
    assert not hasattr(benchmark, "asked")
    assert not results.complete
    assert results.headline.value is None
    assert results.headline.bounds is None
    assert results.native is None
    assert results.missing.by_reason["infra_error"].count == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("boom", "the harness failed (type this)"),
        ("bug", "echo failed: KeyError: 'a bug'"),
        ("unreadable", "echo failed: [Errno 2] No such file or directory: '{run}/gone.json'"),
    ],
)
def test_a_harness_that_fails(tmp_path: Path, text: str, message: str) -> None:
    """Nothing is scored, with the reason; the files of an earlier result stay."""
    run = make_run(tmp_path, metric="acc")
    run.write_all()
    run.write([])
    first = run.units()[0]
    broken = make_run(tmp_path / "broken", metric="acc")
    broken.write(broken.answer(key, text if key == first else None) for key in broken.units())
    results = broken.gather(whole())
    assert not results.complete
    assert results.counts.scored == 0
    assert results.missing.by_reason["scorer_error"].message == message.replace(
        "{run}", str(broken.folder.root)
    )
    assert not broken.folder.native("echo").exists()


def test_numbers_that_are_no_means(tmp_path: Path) -> None:
    """A number of the harness's own keeps its own error, and is not shown in percent: neither in words, however
    large, nor as a point on an axis."""
    run = make_run(tmp_path, metric="acc")
    run.write_all()
    changed = NativeResult(
        metrics=[
            NativeMetric(subset="wiki", name="perplexity", value=12.5, stderr=2.0),
            NativeMetric(subset="even", name="acc", value=0.25),
        ],
        headline=("wiki", "perplexity"),
        versions={},
    )
    results = run.gather(whole(changed))
    assert results.headline.name == "native perplexity of wiki"
    assert results.native is not None
    assert results.native.problems == (UNCOUNTED,)
    assert (results.headline.value, results.headline.percent) == (12.5, None)
    assert (results.headline.shown, results.headline.words) == (12.5, "12.5")
    large = results.headline.model_copy(update={"value": 887266960903541659390705664.0})
    assert large.words == "8.873e+26"
    task = TaskReport(run.task, results)
    assert score_points([RunReport(run.folder, run.plan, (task,), ())], [results.task]) == []
    assert results.headline.standard_error == 2.0
    assert results.headline.standard_error_method == "the harness's own"
    interval = results.headline.interval
    assert interval is not None
    assert interval.low == pytest.approx(12.5 - 1.959964 * 2.0)
    assert results.native is not None
    assert [(d.subset, d.native, d.recomputed) for d in results.native.differences] == [
        ("even", 0.25, 1.0)
    ]


def test_number_of_one_subset(tmp_path: Path) -> None:
    """Its error is of its own samples, also where the mean over all happens to be the same."""
    run = make_run(tmp_path, metric="acc")
    units = run.units()
    run.write_all(wrong=[units[0], units[3], units[5], units[7]])
    changed = NativeResult(
        metrics=[NativeMetric(subset="even", name="acc", value=0.75)],
        headline=("even", "acc"),
        versions={},
        repeats=2,
    )
    results = run.gather(whole(changed))
    assert results.subsets is not None
    own = results.subsets["even"].statistics["acc"]
    assert own.avg == 0.75
    assert results.headline.name == "pass@1[avg-of-2] acc of even"
    assert results.headline.n_samples == 2
    assert results.headline.standard_error == own.se_items_clustered
    assert results.native is not None
    assert results.native.differences == ()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none(tmp_path: Path, value: float) -> None:
    """What is not a finite number is no result."""
    run = make_run(tmp_path, metric="acc")
    run.write_all()
    changed = NativeResult(
        metrics=[NativeMetric(subset="echo", name="acc", value=value)],
        headline=("echo", "acc"),
        versions={},
    )
    results = run.gather(whole(changed))
    assert results.headline.value is None
    assert "acc = " in str(results.missing.by_reason["scorer_error"].message)


def test_harness_that_is_gone(tmp_path: Path) -> None:
    """What is finished is compared and shown from its artifacts, and what is not is counted."""
    run = make_run(tmp_path, metric="acc", benchmark="nvidia-gone/sums")
    run.write_all(wrong=[key for key in run.units() if key.sample == 0])
    with pytest.raises(RecipeError, match="unknown harness 'nvidia-gone'"):
        benchmark_class(run.task.benchmark)
    assert ProgressReader(run.folder, run.plan).read(run.task).done == 8
    results = run.gather(whole())
    task = load_scored(run.folder.results("echo"))
    assert isinstance(task, ScoredTask)
    assert task.value(list(task.samples)) == results.headline.value == 0.75
    assert task.samples["even/s0"].scores == (0.0, 0.0)
    (shown,) = read_run(run.folder, run.plan).tasks
    assert (shown.title, shown.is_restricted) == ("Echo", False)
    assert b"Echo" in make_page([read_run(run.folder, run.plan)], "run").content


def test_unfinished_task_of_a_harness_that_is_gone(tmp_path: Path) -> None:
    """Calls that a program made are no units, whoever could say so; nothing is shown of its data."""
    run = make_run(tmp_path, metric="acc", benchmark="nvidia-gone/sums")
    first, second, *_ = run.units()
    run.write(make_call(key, "said", call=RELAYED + n) for n, key in enumerate([first, second]))
    run.write([UnitRecord(*first, Outcome.OK, "", relayed=(RELAYED,))])
    progress = ProgressReader(run.folder, run.plan).read(run.task)
    assert (progress.done, dict(progress.outcomes)) == (1, {"ok": 1})
    benchmark = whole()
    vars(benchmark)["single_call"] = False
    run.gather(benchmark)
    (shown,) = read_run(run.folder, run.plan).tasks
    assert (shown.title, shown.is_restricted) == ("nvidia-gone/sums", True)
