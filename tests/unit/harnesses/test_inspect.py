"""inspect_ai, for real, on a task of a few sums: its own process, logs and metrics."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.benchmarks.contract import Answered
from evalkit.benchmarks.data import DataAccess
from evalkit.benchmarks.registry import make_benchmark
from evalkit.errors import InfraError, ScorerError
from evalkit.recipe.schema import DataOverride
from tests.unit.harnesses.driving import FakeModel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TASK = '''
from inspect_ai import Epochs, Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import match
from inspect_ai.solver import generate


@task
def sums(n: int = 5):
    samples = [Sample(id=f"sums:[{i}]", input=f"What is {i} + 1?", target=str(i + 1)) for i in range(n)]
    return Task(dataset=MemoryDataset(samples), solver=generate(), scorer=match(numeric=True))
'''


def right_at_first(body: dict[str, Any], before: int) -> str:
    """The right sum in the first epoch; in the second for even numbers alone."""
    number = int(re.search(r"\d+", str(body["messages"]))[0])
    return str(number + 1 if before == 0 or number % 2 == 0 else number)


def make(folder: Path, **params: Any) -> tuple[Any, Sequence[Any]]:
    (folder / "sums.py").write_text(TASK)
    benchmark = make_benchmark("inspect/sums.py@sums", params, "card")
    dataset = benchmark.load(DataAccess("sums", DataOverride(), folder, limit=4))
    return benchmark, dataset.samples


def test_a_task_in_slices(tmp_path: Path) -> None:
    """Ids are exact, epochs are inspect's, and the joined metrics are those of all samples."""
    benchmark, samples = make(tmp_path, epochs=2, shard_size=3)
    assert [sample.data["ids"] for sample in samples] == [
        ["sums:[0]", "sums:[1]", "sums:[2]"],
        ["sums:[3]"],
    ]
    assert [benchmark.parts(sample) for sample in samples] == [{"answers": 6}, {"answers": 2}]
    model = FakeModel(tmp_path, right_at_first)
    answers = [
        Answered(sample, 0, asyncio.run(benchmark.solve(sample, model)), None)
        for sample in samples
    ]
    assert len(model.bodies) == 8
    out = tmp_path / "native"
    out.mkdir()
    result = benchmark.conclude(answers, tmp_path, out)
    assert (out / "merged.eval").is_file()
    [accuracy] = result.metrics
    assert (accuracy.subset, accuracy.name) == result.headline == ("sums", "match/accuracy")
    assert accuracy.value == pytest.approx(6 / 8)
    assert accuracy.stderr == pytest.approx(0.25 / 3**0.5)
    assert [(s.id, s.repeat, s.scores["match/accuracy"]) for s in result.samples[:4]] == [
        ("sums:[0]", 0, 1.0),
        ("sums:[0]", 1, 1.0),
        ("sums:[1]", 0, 1.0),
        ("sums:[1]", 1, 0.0),
    ]
    first = result.samples[0]
    assert (first.content, first.target, first.usage.completion_tokens) == ("1", "1", 3)
    assert first.messages == [{"role": "user", "content": "What is 0 + 1?"}]
    assert (result.n_samples, result.repeats) == (4, 2)
    assert result.versions["inspect_ai"] in benchmark.version


def test_a_failed_sample_fails_the_unit(tmp_path: Path) -> None:
    """inspect ends well although a request failed; the unit does not."""
    benchmark, samples = make(tmp_path)
    model = FakeModel(tmp_path, lambda body, _: 400 if "2 + 1" in str(body) else "1")
    with pytest.raises(InfraError, match="status error and .* of 4 answers"):
        asyncio.run(benchmark.solve(samples[0], model))


def test_lost_files_are_no_wrong_answers(tmp_path: Path) -> None:
    """Without the logs there is no result."""
    benchmark, samples = make(tmp_path)
    solved = asyncio.run(benchmark.solve(samples[0], FakeModel(tmp_path, right_at_first)))
    (tmp_path / solved.data["folder"]).rename(tmp_path / "elsewhere")
    with pytest.raises(ScorerError, match="1 of 1 folders that programs wrote are gone"):
        benchmark.conclude([Answered(samples[0], 0, solved, None)], tmp_path, tmp_path)
