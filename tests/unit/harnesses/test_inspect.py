"""inspect_ai, for real, on a task of a few sums: its own process, logs and metrics."""

from __future__ import annotations

import asyncio
import re
import runpy
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from evalkit.benchmarks.contract import Answered, Sample, Solution
from evalkit.benchmarks.data import DataAccess
from evalkit.benchmarks.registry import make_benchmark
from evalkit.errors import DataError, InfraError, RecipeError, ScorerError
from evalkit.harnesses.call import INSIDE
from evalkit.harnesses.inspect import InspectTask
from evalkit.recipe.schema import DataOverride
from tests.unit.harnesses.driving import FakeModel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TASK = """
from inspect_ai import Epochs, Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import match
from inspect_ai.solver import generate


@task
def sums(n: int = 5):
    samples = [Sample(id=f"sums:[{i}]", input=f"What is {i} + 1?", target=str(i + 1)) for i in range(n)]
    return Task(dataset=MemoryDataset(samples), solver=generate(), scorer=match(numeric=True))
"""


def right_at_first(body: dict[str, Any], before: int) -> str:
    """The right sum in the first epoch; in the second for even numbers alone."""
    number = int(re.search(r"\d+", str(body["messages"]))[0])
    return str(number + 1 if before == 0 or number % 2 == 0 else number)


class Planned(NamedTuple):
    """The task with its slices, and the run's folder."""

    benchmark: InspectTask
    samples: Sequence[Sample]
    folder: Path

    def solve(self, number: int, model: FakeModel) -> Answered:
        solution = asyncio.run(self.benchmark.solve(self.samples[number], model))
        return Answered(self.samples[number], 0, solution, None)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """Four of five samples in slices of three, each answered twice."""
    folder = tmp_path_factory.mktemp("inspect")
    (folder / "sums.py").write_text(TASK)
    benchmark = make_benchmark("inspect/sums.py@sums", {"epochs": 2, "shard_size": 3}, "card")
    assert isinstance(benchmark, InspectTask)
    dataset = benchmark.load(DataAccess("sums", DataOverride(), folder, limit=4))
    return Planned(benchmark, dataset.samples, folder)


@pytest.mark.timeout(300)
def test_a_task_in_slices(planned: Planned, tmp_path: Path) -> None:
    """Ids are exact, epochs are inspect's, and the joined metrics are those of all samples."""
    benchmark, samples, folder = planned
    assert [sample.data["ids"] for sample in samples] == [
        ["sums:[0]", "sums:[1]", "sums:[2]"],
        ["sums:[3]"],
    ]
    assert [benchmark.parts(sample) for sample in samples] == [{"answers": 6}, {"answers": 2}]
    model = FakeModel(folder, right_at_first)
    answers = [planned.solve(number, model) for number in (0, 1)]
    assert len(model.bodies) == 8
    result = benchmark.conclude(answers, folder, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["merged.eval"]
    [accuracy] = result.metrics
    assert (accuracy.subset, accuracy.name) == result.headline == ("", "match/accuracy")
    assert accuracy.value == pytest.approx(6 / 8)
    assert accuracy.stderr == pytest.approx(0.25 / 3**0.5)
    assert [(s.id, s.repeat) for s in result.samples] == [
        (f"sums:[{number}]", repeat) for number in range(4) for repeat in (0, 1)
    ]
    # Epochs are asked for at the same time: either may be the first one.
    right = [s.scores["match/accuracy"] for s in result.samples]
    assert [sum(right[i : i + 2]) for i in range(0, 8, 2)] == [2.0, 1.0, 2.0, 1.0]
    first = result.samples[0]
    assert (first.content, first.target, first.usage.completion_tokens) == ("1", "1", 3)
    assert first.messages == [{"role": "user", "content": "What is 0 + 1?"}]
    assert (result.n_samples, result.repeats) == (4, 2)
    assert result.versions["inspect_ai"] in benchmark.version
    # Where the files are gone, so is the result; nothing is scored as wrong.
    (folder / answers[0].solution.data["folder"]).rename(folder / "elsewhere")
    with pytest.raises(ScorerError, match="1 of 2 folders that programs wrote are gone"):
        benchmark.conclude(answers, folder, tmp_path)


def test_task_that_is_not_there(tmp_path: Path) -> None:
    """What inspect says of it, which it shows nobody by itself, and what to type."""
    benchmark = make_benchmark("inspect/nobody/has_this", {}, "card")
    with pytest.raises(DataError, match="No inspect tasks were found") as caught:
        benchmark.load(DataAccess("x", DataOverride(), tmp_path))
    assert "evalkit harness install inspect" in (caught.value.hint or "")


@pytest.mark.long
def test_a_failed_sample_fails_the_unit(planned: Planned, tmp_path: Path) -> None:
    """inspect ends with exit code 0 although a request failed; the unit does not."""
    model = FakeModel(tmp_path, lambda body, _: 400)
    with pytest.raises(InfraError, match="status error and 0 of 2 answers"):
        planned.solve(1, model)


def test_another_file_than_planned(planned: Planned, tmp_path: Path) -> None:
    """A file of tasks that changed is refused before anything is asked, and before anything is joined."""
    file = tmp_path / "sums.py"
    file.write_text(TASK + "\n")
    data = {**planned.samples[0].data, "task": f"{file}@sums"}
    with pytest.raises(InfraError, match="is not the file that was planned"):
        asyncio.run(
            planned.benchmark.solve(Sample("0", data=data), FakeModel(tmp_path, right_at_first))
        )
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "program.log").write_text("said")
    done = Solution("", data={"folder": "done", "log": "x"})
    with pytest.raises(ScorerError, match="is not the file that was planned"):
        planned.benchmark.conclude(
            [Answered(Sample("0", data=data), 0, done, None)], tmp_path, tmp_path
        )


def test_no_such_file(planned: Planned, tmp_path: Path) -> None:
    """A file that is not there is named with its path."""
    with pytest.raises(RecipeError, match=f"there is no file {tmp_path}/sums.py"):
        planned.benchmark.load(DataAccess("sums", DataOverride(), tmp_path))


def test_what_inspect_refuses_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """inspect shows nothing without a display: its reason is the script's, without its markup."""

    def refuse(*args: Any, **settings: Any) -> None:
        raise LookupError("[bold]ERROR[/bold]: no task 'products'\n[there]")

    monkeypatch.setitem(sys.modules, "inspect_ai", SimpleNamespace(eval=refuse))
    main = runpy.run_path(str(INSIDE / "inspect_driver.py"))["main"]
    with pytest.raises(SystemExit, match=r"^LookupError: ERROR: no task 'products' \[there\]$"):
        main({"do": "plan", "task": "x", "task_args": {}, "epochs": None})
