"""The Python API over a small finished run: the same answers as the commands, and nothing printed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

import evalkit
from evalkit import Run, load_recipe, make_plans, prepare
from evalkit.errors import (
    FingerprintMismatchError,
    IncompleteError,
    RecipeError,
    StoreError,
    UsageError,
)
from tests.builders import answer_all
from tests.unit.cli.conftest import RECIPE

if TYPE_CHECKING:
    from evalkit.recipe.load import LoadedRecipe


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedRecipe:
    """A recipe of four sums, loaded in its folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return load_recipe("recipe.yaml", overrides=["addition.repeats=2"], env={})


@pytest.fixture
def run(recipe: LoadedRecipe) -> Run:
    """Its run, every unit answered rightly."""
    [prepared] = prepare(recipe)
    answer_all(prepared.folder)
    return prepared


def test_load_recipe(recipe: LoadedRecipe) -> None:
    """Overrides, a choice of tasks and limits work as on the command line."""
    assert recipe.recipe.tasks["addition"].repeats == 2
    assert load_recipe("recipe.yaml", limit=3, env={}).recipe.tasks["addition"].limit == 3
    assert list(load_recipe("recipe.yaml", tasks=["addition"], env={}).recipe.tasks) == ["addition"]
    with pytest.raises(RecipeError):
        load_recipe("recipe.yaml", overrides=["addition.repeat=2"], env={})


def test_environment_is_the_process_own(
    recipe: LoadedRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `env`, variables come from the process; with it, from there alone."""
    monkeypatch.setenv("SUMS", "7")
    override = ["addition.params.n=${env:SUMS}"]
    loaded = load_recipe("recipe.yaml", overrides=override)
    assert loaded.recipe.tasks["addition"].params["n"] == 7
    with pytest.raises(RecipeError, match="SUMS is not set"):
        load_recipe("recipe.yaml", overrides=override, env={})


def test_plan_writes_nothing(recipe: LoadedRecipe, tmp_path: Path) -> None:
    """A plan is a value; no folder is made for it."""
    [planned] = make_plans(recipe)
    assert planned.n_units == 8
    assert not (tmp_path / "runs").exists()


def test_prepare_twice(recipe: LoadedRecipe) -> None:
    """Preparing again finds the same run; with other settings it is refused."""
    [first], [second] = prepare(recipe), prepare(recipe)
    assert first.plan == second.plan == make_plans(recipe)[0]
    assert repr(first) == f"Run('{first.plan.run_id}', '{first.folder.root}')"
    with pytest.raises(FingerprintMismatchError) as caught:
        prepare(load_recipe("recipe.yaml", env={}))
    assert caught.value.differences == {"tasks.addition.repeats": ("2", "1")}


def test_finding_a_run(run: Run, tmp_path: Path) -> None:
    """A run is found by folder, by name and by id; what is none is refused with those there are."""
    for name in (run.folder.root, "test", run.plan.run_id):
        assert Run(name).folder == run.folder
    with pytest.raises(UsageError, match="Runs in runs: test"):
        Run("nope")


def test_before_gathering(run: Run) -> None:
    """Status counts what is journaled; there are no results yet."""
    status = run.status()
    assert (status.done, status.expected) == (8, 8)
    assert run.results() == {}


def test_gathered_run(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Gather returns what it publishes, and the samples come as a table and as a frame."""
    gathered = run.gather()
    results = run.results()["addition"]
    assert list(gathered.tasks) == [results]
    assert results.complete
    assert results.headline.percent == 100.0
    assert run.report() == run.folder.report
    table = run.samples("addition")
    assert table.num_rows == 8
    assert table.column("id").to_pylist()[:2] == ["open-0", "open-0"]
    frame = run.samples_frame("addition")
    assert len(frame) == 8
    assert set(frame["repeat"]) == {0, 1}
    assert set(frame["outcome"]) == {"ok"}
    assert capsys.readouterr() == ("", "")


def test_export(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """As the command does it: the same files, options and errors; another profile's results lie apart."""
    run.gather()
    assert run.export("csv") == [
        str(run.folder.root / "exports" / "csv" / name) for name in ("metrics.csv", "addition.csv")
    ]
    with pytest.raises(StoreError, match="there are no results") as missing:
        run.export("csv", profile="fixed")
    assert missing.value.hint == f"`evalkit score {run.folder.root} --profile fixed` makes them."
    run.score(profile="fixed")
    own = Path(run.export("csv", profile="fixed")[0])
    assert own == run.folder.root / "exports" / "csv-fixed" / "metrics.csv"
    assert f"{run.plan.run_id}-fixed," in own.read_text()
    with pytest.raises(UsageError, match="--offline has no effect on an export to csv"):
        run.export("csv", offline=True)
    with pytest.raises(UsageError, match="no kind of export is called 'excel'"):
        run.export("excel")
    assert capsys.readouterr() == ("", "")


def test_incomplete_run(run: Run) -> None:
    """Missing units raise unless they are allowed; samples of an unknown task are refused."""
    next(run.folder.root.glob("journal/addition/00001/*.jsonl")).unlink()
    with pytest.raises(IncompleteError, match="units are missing"):
        run.gather()
    assert not run.gather(allow_partial=True).tasks[0].complete
    with pytest.raises(StoreError, match="check the task's name"):
        run.samples("nope")


def test_sweep_is_no_run(recipe: LoadedRecipe, tmp_path: Path) -> None:
    """A folder of several runs names them instead of choosing one."""
    changed = {**RECIPE, "models": {"a": {"id": "x"}, "b": {"id": "y"}}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(changed))
    assert len(prepare(load_recipe("recipe.yaml", env={}))) == 2
    with pytest.raises(UsageError, match=r"test is a sweep; name one of its runs: .*/test/a"):
        Run("test")


def test_names_of_the_package() -> None:
    """What the package promises is there, and nothing else answers to its name."""
    assert {getattr(evalkit, name) for name in evalkit.__all__}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = evalkit.nothing
