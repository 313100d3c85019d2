"""Gathering the tasks of a run together: selection, summary, log, and the refusal of a gap."""

from pathlib import Path

import orjson
import pytest

from evalkit.benchmarks.data import DataAccess
from evalkit.benchmarks.frozen import checksum, freeze, write_frozen
from evalkit.benchmarks.registry import make_benchmark
from evalkit.errors import IncompleteError, PlanError, RecipeError, UsageError
from evalkit.recipe.schema import DataOverride
from evalkit.report.gather import RunResults, gather_run
from evalkit.report.results import Results, Summary
from evalkit.store.layout import RunFolder
from tests.unit.report.run_builder import TestRun, make_plan, make_task, validate_results

FORMS = ("open", "choice")


def make_addition_run(root: Path, version: str = "1") -> TestRun:
    """A run of the registered benchmark `addition` in both forms, six questions each."""
    folder = RunFolder(root)
    tasks = []
    samples = []
    for form in FORMS:
        params = {"form": form, "n": 6}
        access = DataAccess(form, DataOverride(), root)
        loaded = make_benchmark("addition", params, "card").load(access).samples
        samples.append(list(loaded))
        task = make_task(loaded, name=form, benchmark="addition", params=params)
        tasks.append(task.model_copy(update={"benchmark_version": version}))
        write_frozen(folder.requests(form), freeze(loaded))
        assert task.requests_sha256 == checksum(freeze(loaded))
    return TestRun(folder, make_plan(*tasks), samples[0])


def write_task(run: TestRun, index: int, skip: int = 0) -> None:
    """Journal right answers for all but the last `skip` units of one task."""
    plan = run.plan
    task = plan.tasks[index]
    access = DataAccess(task.name, DataOverride(), run.folder.root)
    loaded = make_benchmark("addition", task.params, "card").load(access).samples
    only = TestRun(run.folder, plan.model_copy(update={"tasks": (task,)}), list(loaded))
    keys = only.units()
    only.write(
        only.answer(key, f"\\boxed{{{loaded[key.sample].target}}}")
        for key in keys[: len(keys) - skip]
    )


def gather(
    run: TestRun, *, allow_partial: bool = False, tasks: list[str] | None = None
) -> RunResults:
    """Gather the run at a fixed time."""
    found = gather_run(
        run.folder,
        run.plan,
        tasks=tasks,
        allow_partial=allow_partial,
        on_progress=run.progress.append,
        clock=lambda: 1_700_000_000.0,
    )
    for results in found.tasks:
        validate_results(run.folder.results(results.task))
    return found


def test_all_tasks_make_a_summary_and_a_log(tmp_path: Path) -> None:
    """A complete run: a headline per task in summary.json, a line per task in the run's log."""
    run = make_addition_run(tmp_path)
    write_task(run, 0)
    write_task(run, 1)
    found = gather(run)
    assert found.complete
    summary = Summary.model_validate_json(run.folder.summary.read_bytes())
    assert summary == found.summary
    assert summary.complete
    assert [task.headline.value for task in summary.tasks if task.headline] == [1.0, 1.0]
    assert run.folder.stdout.read_text().splitlines() == [
        "2023-11-14T22:13:20+00:00 gather open: complete, pass@1[avg-of-2] correct 100.00 %",
        "2023-11-14T22:13:20+00:00 gather choice: complete, pass@1[avg-of-2] correct 100.00 %",
    ]


def test_a_page_that_cannot_be_made_fails_no_gather(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Results and log are there, the log says why there is no page, and the old page is gone."""
    from evalkit.report.page import sources

    def not_installed(name: str) -> None:
        raise RecipeError(f"there is no benchmark {name!r}")

    run = make_addition_run(tmp_path)
    write_task(run, 0)
    gather(run, allow_partial=True)
    assert run.folder.report.exists()
    write_task(run, 1)
    monkeypatch.setattr(sources, "installed_class", not_installed)
    assert gather(run).complete
    assert orjson.loads(run.folder.summary.read_bytes())["complete"]
    assert not run.folder.report.exists()
    *_, choice, page = run.folder.stdout.read_text().splitlines()
    assert "gather choice: complete" in choice
    assert "gather there is no report.html: there is no benchmark 'addition'" in page
    assert "there is no report.html" in caplog.text


def test_a_gap_raises_after_the_artifacts_are_written(tmp_path: Path) -> None:
    """The error says what is missing where, and results.json is there to read."""
    run = make_addition_run(tmp_path)
    write_task(run, 0, skip=2)
    write_task(run, 1)
    with pytest.raises(
        IncompleteError, match="open: 2 of 12 units are missing: 2 no_record"
    ) as caught:
        gather(run)
    assert "open-4 repeat 1" in caught.value.message
    assert "choice:" not in caught.value.message
    assert caught.value.exit_code == 10
    results = Results.model_validate_json(run.folder.results("open").read_bytes())
    assert not results.complete
    assert not orjson.loads(run.folder.summary.read_bytes())["complete"]
    assert run.folder.results("choice").is_file()


def test_a_partial_gather_is_returned_when_allowed(tmp_path: Path) -> None:
    """The same gap without raising, and the caller can still insist."""
    run = make_addition_run(tmp_path)
    write_task(run, 0, skip=2)
    found = gather(run, allow_partial=True)
    assert [results.missing.count for results in found.tasks] == [2, 12]
    with pytest.raises(IncompleteError):
        found.require_complete()


def test_one_task_can_be_gathered_alone(tmp_path: Path) -> None:
    """The summary has the other task as not gathered, or as it was gathered before."""
    run = make_addition_run(tmp_path)
    write_task(run, 0)
    write_task(run, 1)
    summary = gather(run, tasks=["choice"]).summary
    assert [(task.task, task.complete) for task in summary.tasks] == [
        ("open", None),
        ("choice", True),
    ]
    assert not summary.complete
    assert gather(run, tasks=["open"]).summary.complete


def test_an_earlier_complete_result_is_kept_and_said(tmp_path: Path) -> None:
    """A lost journal makes the gather fail, and the published result stays."""
    run = make_addition_run(tmp_path)
    write_task(run, 0)
    gather(run, tasks=["open"])
    next(run.folder.journals(run.task.shards()[0]).iterdir()).unlink()
    with pytest.raises(IncompleteError, match="earlier complete artifacts were left"):
        gather(run, tasks=["open"])
    assert orjson.loads(run.folder.results("open").read_bytes())["complete"]


def test_an_unknown_task_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    """The message lists the tasks of the run."""
    with pytest.raises(UsageError, match="Tasks: open, choice"):
        gather(make_addition_run(tmp_path), tasks=["aime"])


def test_another_version_of_a_benchmark_is_refused(tmp_path: Path) -> None:
    """A run is scored by the version it was planned with, or not at all."""
    with pytest.raises(PlanError, match="version 0"):
        gather(make_addition_run(tmp_path, version="0"))
