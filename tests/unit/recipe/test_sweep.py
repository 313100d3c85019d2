"""One recipe that means several runs: patterns in paths, matrices and variants of overrides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import RecipeError
from evalkit.recipe.load import LoadedRecipe, load_recipe
from evalkit.recipe.sweep import natural

if TYPE_CHECKING:
    from pathlib import Path


def load(folder: Path, overrides: tuple[str, ...] = (), **keys: Any) -> LoadedRecipe:
    """A recipe file of these keys, in `folder`."""
    recipe = {"models": {"m": {"path": "./run/step-*"}}, "tasks": {"addition": {}}} | keys
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return load_recipe(folder / "r.yaml", overrides=overrides, env={"WHERE": "./run"})


def checkpoints(folder: Path, *names: str) -> None:
    """Folders that look like checkpoints from afar."""
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")


def labels(loaded: LoadedRecipe) -> list[str]:
    """Names of all runs, in their order."""
    return [cell.label(model) for cell in loaded.cells for model in cell.recipe.models]


def test_a_model_for_each_folder(tmp_path: Path) -> None:
    """Numbers sort as people count; files and folders without a config.json are not checkpoints."""
    checkpoints(tmp_path / "run", "step-900", "step-1000", "step-50", "other")
    (tmp_path / "run" / "step-7").mkdir()
    (tmp_path / "run" / "step-8").write_text("a file")
    loaded = load(tmp_path, models={"m": {"path": "./run/step-*", "serving": {"dtype": "half"}}})
    assert {name: model.path for name, model in loaded.recipe.models.items()} == {
        "m-step-50": "./run/step-50",
        "m-step-900": "./run/step-900",
        "m-step-1000": "./run/step-1000",
    }
    assert loaded.families == {"m-step-50", "m-step-900", "m-step-1000"}
    assert loaded.recipe.models["m-step-50"].serving == {"dtype": "half"}
    assert loaded.sources["models.m-step-900.serving.dtype"].startswith(str(tmp_path / "r.yaml"))
    assert labels(loaded) == ["m-step-50", "m-step-900", "m-step-1000"]


def test_patterns_of_all_kinds(tmp_path: Path) -> None:
    """In the middle of a path, from the environment, as a short form, beside a plain model."""
    checkpoints(tmp_path / "run", "step-1/hf", "step-2/hf")
    checkpoints(tmp_path, "plain")
    loaded = load(
        tmp_path, models={"a": {"path": "${env:WHERE}/step-[12]/hf"}, "b": {"path": "./plain"}}
    )
    assert labels(loaded) == ["a-step-1-hf", "a-step-2-hf", "b"]
    assert loaded.families == {"a-step-1-hf", "a-step-2-hf"}
    (tmp_path / "short.yaml").write_text("model: ./run/step-*/hf\ntasks: [addition]\n")
    short = load_recipe(tmp_path / "short.yaml", env={})
    assert list(short.recipe.models) == ["hf-step-1-hf", "hf-step-2-hf"]


def test_one_match_is_a_sweep_all_the_same(tmp_path: Path) -> None:
    """Its run must not move when the next checkpoint appears."""
    checkpoints(tmp_path / "run", "step-1")
    assert labels(load(tmp_path)) == ["m-step-1"]
    assert labels(load(tmp_path, models={"m": {"path": "./run/step-1"}})) == [""]


def test_a_folder_whose_name_has_a_wildcard(tmp_path: Path) -> None:
    """It is that folder, and nothing else."""
    checkpoints(tmp_path / "run", "step-[1]", "step-1")
    loaded = load(tmp_path, models={"m": {"path": "./run/step-[1]"}})
    assert loaded.recipe.models["m"].path == "./run/step-[1]"
    assert loaded.families == frozenset()


def test_nothing_matches(tmp_path: Path) -> None:
    """What was looked for, and where."""
    with pytest.raises(RecipeError, match=r"models\.m\.path: no checkpoint matches \./run/step-\*"):
        load(tmp_path)
    checkpoints(tmp_path / "run", "step-1")
    with pytest.raises(RecipeError, match="two models would be called m-step-1"):
        load(tmp_path, models={"m": {"path": "./run/step-*"}, "m-step-1": {"id": "x"}})


def test_a_run_for_each_combination(tmp_path: Path) -> None:
    """Keys as in -o, a task's name first where it is one; values over what the recipe says."""
    checkpoints(tmp_path / "run", "step-1", "step-2")
    matrix = {"generation.temperature": [0, 0.6], "addition.repeats": [1, 4]}
    loaded = load(tmp_path, sweep={"matrix": matrix}, generation={"temperature": 1, "top_p": 0.9})
    found = [
        (cell.recipe.generation.temperature, cell.recipe.tasks["addition"].repeats)
        for cell in loaded.cells
    ]
    assert found == [(0, 1), (0, 4), (0.6, 1), (0.6, 4)]
    assert all(cell.recipe.generation.top_p == 0.9 for cell in loaded.cells)
    assert labels(loaded)[:3] == [
        "m-step-1-temperature=0,repeats=1",
        "m-step-2-temperature=0,repeats=1",
        "m-step-1-temperature=0,repeats=4",
    ]
    one = loaded.cells[0]
    assert "sweep" not in one.raw
    assert one.raw["generation"] == {"temperature": 0, "top_p": 0.9}
    assert one.sources["generation.temperature"].startswith(str(tmp_path / "r.yaml"))


def test_variants_have_names(tmp_path: Path) -> None:
    """Each with each combination of the matrix; from the command line as well."""
    models = {"m": {"id": "x"}}
    variants = {"greedy": {"generation.temperature": 0}, "hot": {"generation": {"temperature": 1}}}
    sweep = {"variants": variants, "matrix": {"addition.limit": [1, 2]}}
    loaded = load(tmp_path, models=models, sweep=sweep)
    assert labels(loaded) == ["greedy,limit=1", "greedy,limit=2", "hot,limit=1", "hot,limit=2"]
    assert loaded.cells[2].recipe.generation.temperature == 1
    typed = load(tmp_path, ("sweep.matrix={profile: [card, fixed]}",), models=models)
    assert [cell.recipe.profile for cell in typed.cells] == ["card", "fixed"]


def test_keys_are_as_short_as_they_may_be(tmp_path: Path) -> None:
    """Two keys that end alike keep what tells them apart."""
    matrix = {"generation.seed": [1], "tasks.addition.generation.seed": [2], "profile": ["card"]}
    loaded = load(tmp_path, models={"m": {"id": "x"}}, sweep={"matrix": matrix})
    assert labels(loaded) == ["generation.seed=1,addition.generation.seed=2,profile=card"]


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({"matrix": {"generation.temprature": [1]}}, "Did you mean 'temperature'"),
        ({"matrix": {"output.name": ["a"]}}, "output.name cannot vary within a recipe"),
        ({"matrix": {"models.m.id": ["a"]}}, "models.m.id cannot vary"),
        ({"matrix": {"profile": ["card", "card"]}}, "two variants would be called 'profile=card'"),
        ({"matrix": {"profile": []}}, "sweep.matrix.profile: give at least one value"),
        ({"matrix": {"profile": "card"}}, "sweep.matrix.profile"),
        ({"matrix": {"profile": ["best"]}}, "profile: expected one of"),
        ({"grid": {}}, "unknown key 'grid'"),
        ({"matrix": {"addition.limit": [*range(1, 1002)]}}, "1,001 combinations"),
    ],
)
def test_what_cannot_vary(tmp_path: Path, sweep: dict[str, Any], said: str) -> None:
    """The key, and what is allowed."""
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, models={"m": {"id": "x"}}, sweep=sweep)
    assert said in str(caught.value)


@given(st.lists(st.integers(0, 10**9), unique=True))
def test_names_sort_by_their_numbers(steps: list[int]) -> None:
    """Whatever the number of digits."""
    names = [f"step-{step}" for step in steps]
    assert sorted(names, key=natural) == [f"step-{step}" for step in sorted(steps)]
