"""From a recipe to runs on disk: what a plug-in does wrong is said, and nothing is half made."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from filelock import SoftFileLock

from evalkit.benchmarks.contract import BenchmarkParams, Dataset, Sample
from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster import prepare as prepare_module
from evalkit.cluster import resolved
from evalkit.cluster.prepare import PreparedRun, prepare_runs
from evalkit.errors import DataError, FingerprintMismatchError, PlanError, StoreError
from evalkit.plan.model import DataProvenance
from evalkit.recipe.load import LoadedRecipe, load_recipe
from evalkit.store.run import load_cluster
from tests.unit.report.run_builder import Echo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

RECIPE: dict[str, Any] = {
    "name": "test",
    "models": {"m": {"id": "m"}},
    "serving": {"kind": "external", "base_url": "http://127.0.0.1:9/v1"},
    "tasks": {"addition": {"params": {"n": 4}}},
    "output": {"dir": "runs"},
    "cluster": {"executor": "local"},
}


def load(folder: Path, **changes: Any) -> LoadedRecipe:
    """A recipe in a folder of its own."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "output": {"dir": str(folder / "runs")}, **changes}))
    return load_recipe(path, env={})


def prepare(loaded: LoadedRecipe) -> list[PreparedRun]:
    """Its runs."""
    return prepare_runs(
        loaded, env={}, command=["test"], clock=SYSTEM_CLOCK, on_progress=lambda text: None
    )


@pytest.fixture
def samples_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[Sample]], None]:
    """Let every benchmark have these samples."""

    def install(samples: Sequence[Sample]) -> None:
        class Fixed(Echo):
            def load(self, access: object) -> Dataset:
                provenance = DataProvenance(
                    source="x", sha256="0" * 64, n_rows=len(samples), licence="x"
                )
                return Dataset(samples, provenance)

        made = Fixed(BenchmarkParams(), "card")
        monkeypatch.setattr(resolved, "make_benchmark", lambda *_: made)

    return install


@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        ([], DataError, "tasks.addition: the data set has no samples"),
        ([Sample("a"), Sample("a")], DataError, "tasks.addition: the data set has 1 repeated ids"),
        (
            [Sample("a", target={1, 2})],
            PlanError,
            "tasks.addition: echo made a sample that is not JSON: ",
        ),
    ],
    ids=["none", "twice", "no JSON"],
)
def test_data_that_makes_no_plan(
    tmp_path: Path,
    samples_of: Callable[[Sequence[Sample]], None],
    samples: list[Sample],
    error: type[Exception],
    message: str,
) -> None:
    """Samples that would make a result meaningless are refused before anything is written."""
    samples_of(samples)
    with pytest.raises(error) as caught:
        prepare(load(tmp_path))
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "runs").exists()


def test_a_run_on_disk(tmp_path: Path) -> None:
    """Everything that is written once is there; a second time nothing but the settings is written."""
    [run] = prepare(load(tmp_path))
    assert run.is_new
    files = {
        str(path.relative_to(run.folder.root)): path.read_bytes()
        for path in run.folder.root.rglob("*")
        if path.is_file()
    }
    assert set(files) == {
        "recipe.yaml",
        "recipe.given.yaml",
        "provenance.json",
        "plan.json",
        "tasks/addition/requests.jsonl.zst",
        "cluster/settings.json",
    }
    [again] = prepare(load(tmp_path, cluster={"executor": "local", "replicas": 3}))
    assert not again.is_new
    assert again.plan == run.plan
    after = {name: (run.folder.root / name).read_bytes() for name in files}
    assert {name for name in files if files[name] != after[name]} == {"cluster/settings.json"}


def test_image_is_where_every_node_finds_it(tmp_path: Path) -> None:
    """An image is relative to the recipe; a run goes on with the one that the recipe names now."""
    [first] = prepare(load(tmp_path))
    assert (first.plan.scoring.unsafe, first.plan.scoring.image) == (False, None)
    [again] = prepare(load(tmp_path, scoring={"image": "images/python.sif", "unsafe": True}))
    assert not again.is_new
    assert again.plan.scoring.image == str(tmp_path.resolve() / "images/python.sif")
    assert again.plan.scoring.unsafe


def test_broken_start_is_begun_anew(tmp_path: Path) -> None:
    """Without its plan a folder is no run: what an earlier, killed start left is replaced."""
    [run] = prepare(load(tmp_path))
    run.folder.plan.unlink()
    [again] = prepare(load(tmp_path, tasks={"addition": {"params": {"n": 5}}}))
    assert again.is_new
    assert again.plan.n_units == 5


def test_two_who_start_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds that another made the run while it waited compares again, and replaces nothing."""
    [run] = prepare(load(tmp_path))
    frozen = run.folder.requests("addition")
    before = run.folder.plan.read_bytes(), frozen.read_bytes()
    answers = iter([False])  # at the first look there was no run yet
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "is_run", lambda folder: next(answers, True))
        patch.setattr(prepare_module, "check_creatable", lambda folder: None)
        with pytest.raises(FingerprintMismatchError, match="made with other settings"):
            prepare(load(tmp_path, tasks={"addition": {"params": {"n": 5}}}))
    assert (run.folder.plan.read_bytes(), frozen.read_bytes()) == before


def test_a_second_start_waits_and_says_for_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While somebody else prepares the run, nothing is written, and the error names the lock."""
    [run] = prepare(load(tmp_path))
    monkeypatch.setattr(prepare_module, "LOCK_WAIT_S", 0.0)
    lock = SoftFileLock(run.folder.root / ".prepare.lock")
    with lock, pytest.raises(StoreError, match="another evalkit prepares") as caught:
        prepare(load(tmp_path, cluster={"executor": "local", "replicas": 3}))
    assert lock.lock_file in str(caught.value)
    assert load_cluster(run.folder).replicas == 1


def test_no_run_of_a_sweep_is_made_when_one_is_refused(tmp_path: Path) -> None:
    """All models are compared before the first folder is made."""
    models = {name: {"id": name} for name in "ab"}
    [_, second] = prepare(load(tmp_path, models=models))
    changed = {"addition": {"params": {"n": 5}}}
    shutil.rmtree(second.folder.root.parent / "a")
    with pytest.raises(FingerprintMismatchError, match="made with other settings"):
        prepare(load(tmp_path, models=models, tasks=changed))
    assert not (second.folder.root.parent / "a" / "plan.json").exists()


def test_secrets_are_recorded_by_name(tmp_path: Path) -> None:
    """What comes from the environment is in no file: the recipe keeps its name."""
    path = tmp_path / "recipe.yaml"
    serving = {**RECIPE["serving"], "base_url": "${env:MY_URL}"}
    path.write_text(
        yaml.safe_dump({**RECIPE, "serving": serving, "output": {"dir": str(tmp_path / "runs")}})
    )
    [run] = prepare(load_recipe(path, env={"MY_URL": "http://127.0.0.1:9/v1"}))
    assert "${env:MY_URL}" in run.folder.recipe.read_text()
    assert run.folder.recipe_as_given.read_text() == path.read_text()
