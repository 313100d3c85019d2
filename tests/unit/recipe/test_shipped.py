"""Shipped files in a checkout and in an installed package."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from evalkit.recipe.load import load_recipe
from evalkit.recipe.nemo.tasks import lm_eval_targets
from evalkit.recipe.resolve import resolve_generation, resolve_serving
from evalkit.recipe.template import load_template
from evalkit.shipped import package_folder, shipped_files, shipped_recipes, shipped_templates
from tests.unit.vectors import SHARED

if TYPE_CHECKING:
    from pathlib import Path

BASE = "local_nvidia-nemotron-3-nano-30b-a3b-base.yaml"


def test_checkout() -> None:
    """The recipes of the checkout are found by name."""
    assert {"demo", "nano", "nano-nvfp4", "nano-tools"} <= set(shipped_recipes())
    assert all(path.parent.name == "recipes" for path in shipped_recipes().values())
    assert package_folder().name == "evalkit"


def test_wheel(tmp_path: Path) -> None:
    """In an installed package the files lie inside it, and only those count."""
    package = tmp_path / "site-packages" / "evalkit"
    for folder, name in ((package / "_shipped", "ours"), (package.parent, "theirs")):
        (folder / "recipes").mkdir(parents=True)
        (folder / "recipes" / f"{name}.yaml").write_text("")
    assert list(shipped_files("recipes", package)) == ["ours"]
    assert shipped_files("slurm_templates", package) == {}


def test_neither(tmp_path: Path) -> None:
    """A folder beside the package is not ours unless it is a checkout."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "theirs.yaml").write_text("")
    assert shipped_files("recipes", tmp_path / "evalkit") == {}


@pytest.mark.parametrize("name", shipped_recipes())
def test_each_recipe_resolves(name: str) -> None:
    """Each shipped recipe is valid for every pair of a model and a task."""
    recipe = load_recipe(name, env={}).recipe
    for model in recipe.models:
        for task in recipe.tasks:
            assert resolve_serving(recipe, model, task).kind == recipe.serving.kind
            generation = resolve_generation({}, recipe, model, task)
            assert (generation.max_tokens is None) == (name in ("nano-tools", "nano-base"))
    assert recipe.description


def test_each_template_loads() -> None:
    """Each shipped template is valid on its own and says what it is for."""
    for name in shipped_templates():
        assert load_template(name)["description"]


def test_nano_is_the_published_recipe() -> None:
    """The generation settings and repeats are the published ones."""
    recipe = load_recipe("nano", env={}).recipe
    assert {name: task.repeats for name, task in recipe.tasks.items()} == {
        "mmlu_pro": 1,
        "gpqa_diamond": 8,
        "aime2025": 64,
        "livecodebench_v6": 8,
        "scicode": 8,
        "ifbench": 8,
        "hle": 1,
        "bfcl_v4": 1,
    }
    bfcl = resolve_generation({}, recipe, "nano-bf16", "bfcl_v4")
    assert (bfcl.temperature, bfcl.top_p, bfcl.max_tokens) == (0.6, 0.95, 8192)
    judge = recipe.judges["gpt-4o"]
    assert (judge.id, judge.parallelism, recipe.tasks["hle"].judge) == ("gpt-4o", 16, "gpt-4o")
    assert recipe.generation.model_dump(exclude_unset=True) == {
        "temperature": 0.99999,
        "top_p": 0.99999,
        "max_tokens": 131072,
    }
    assert recipe.serving.model_dump()["max_model_len"] == 262144


def test_nano_tools_is_the_published_recipe() -> None:
    """Sampling and repeats are the published ones, no token limit, and a server that parses tools."""
    recipe, plain = (load_recipe(name, env={}).recipe for name in ("nano-tools", "nano"))
    assert {name: task.repeats for name, task in recipe.tasks.items()} == {
        "aime2025_tools": 64,
        "gpqa_diamond_tools": 8,
    }
    assert recipe.generation.model_dump(exclude_unset=True) == {
        "temperature": 0.99999,
        "top_p": 0.99999,
        "max_tokens": None,
    }
    assert recipe.serving == plain.serving
    assert recipe.models == plain.models
    assert recipe.serving.model_dump()["tool_call_parser"] == "qwen3_coder"
    assert not recipe.scoring.unsafe


def test_demo_checkpoint_is_in_the_checkout() -> None:
    """The demo's path leads to a checkpoint."""
    loaded = load_recipe("demo", env={})
    assert (loaded.base / loaded.recipe.models["demo"].source / "config.json").is_file()


def test_nano_nvfp4_differs_in_the_checkpoint_alone() -> None:
    """The published recipe for the quantised checkpoint: the same tasks, fewer requests at once."""
    recipe, plain = (load_recipe(name, env={}).recipe for name in ("nano-nvfp4", "nano"))
    [model] = recipe.models.values()
    assert model.hub == "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-NVFP4"
    assert recipe.client.parallelism == 32
    same = ("serving", "generation", "tasks", "judges", "profile", "scoring")
    assert [getattr(recipe, key) for key in same] == [getattr(plain, key) for key in same]


def test_nano_base_has_the_published_tasks() -> None:
    """All 16, in their order, with the parameters of the table that launcher files are read by."""
    published = yaml.safe_load((SHARED / "nemo_recipes" / "nemotron" / BASE).read_text())
    recipe = load_recipe("nano-base", env={}).recipe
    assert list(recipe.tasks) == [task["name"] for task in published["evaluation"]["tasks"]]
    assert len(recipe.tasks) == 16
    assert recipe.unavailable == {}
    for name, task in recipe.tasks.items():
        target = lm_eval_targets()[name]
        assert (task.benchmark, task.params) == (target.benchmark, target.params)
