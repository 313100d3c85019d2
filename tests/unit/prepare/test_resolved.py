"""What a recipe means before any data is loaded, and settings without effect, which are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from evalkit.benchmarks.data import DataAccess, DataSource
from evalkit.cluster.planning import plan_runs
from evalkit.cluster.resolved import cluster_settings, describe
from evalkit.errors import RecipeError
from evalkit.recipe.load import LoadedRecipe, load_recipe
from evalkit.recipe.schema import DataOverride

if TYPE_CHECKING:
    from pathlib import Path


def load(folder: Path, **changes: Any) -> LoadedRecipe:
    """A recipe in this folder."""
    recipe = {"name": "test", "models": {"m": {"id": "m"}}, "tasks": {"addition": {}}}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe | changes))
    return load_recipe(path, env={})


def test_description_is_the_plan(tmp_path: Path) -> None:
    """What `info` shows of a task is what its plan has."""
    loaded = load(
        tmp_path,
        serving={"kind": "external", "base_url": "http://x/v1"},
        generation={"temperature": 0.5},
        tasks={"addition": {"repeats": 3, "params": {"n": 4}, "generation": {"top_p": 0.9}}},
    )
    described = describe(loaded, {})
    task = described["tasks"]["addition"]
    [planned] = plan_runs(loaded, lambda text: None)
    [plan] = planned.plan.tasks
    assert (task["benchmark"], task["version"], task["profile"], task["repeats"]) == (
        plan.benchmark,
        plan.benchmark_version,
        plan.profile,
        plan.repeats,
    )
    assert task["params"] == plan.params
    assert task["models"]["m"] == {
        "generation": plan.generation.model_dump(mode="json"),
        "request": plan.request.model_dump(mode="json"),
        "reasoning": plan.reasoning.model_dump(mode="json"),
        "serving": planned.plan.deployments[0].serving.model_dump(mode="json"),
    }
    assert described["cluster"]["time_min"] == 240


COMMAND = {"kind": "command", "command": ["serve"]}


EXTERNAL = {"kind": "external", "base_url": "http://x/v1"}


@pytest.mark.parametrize(
    ("serving", "cluster", "message"),
    [
        ({}, {}, "does not divide the server's tensor_parallel_size 1"),
        ({"data_parallel_size": 3}, {}, "3 copies cannot be shared out evenly"),
        (EXTERNAL, {}, "serving.kind external starts nothing on any node"),
        (COMMAND, {"executor": "local"}, "executor: local has only this machine"),
    ],
    ids=["one-gpu", "odd-copies", "external", "local"],
)
def test_nodes_without_a_use(
    tmp_path: Path, serving: dict[str, Any], cluster: dict[str, Any], message: str
) -> None:
    """Nodes that a server would not use are refused before anything is submitted."""
    loaded = load(tmp_path, serving=serving, cluster={"nodes": 2, **cluster})
    with pytest.raises(RecipeError) as caught:
        cluster_settings(loaded, {})
    assert message in caught.value.message
    assert "cluster.nodes" in str(caught.value.hint)


@pytest.mark.parametrize("key", ["tensor_parallel_size", "data_parallel_size"])
def test_nodes_of_vllm(tmp_path: Path, key: str) -> None:
    """vLLM may have several nodes where its parallel sizes divide over them."""
    loaded = load(tmp_path, serving={key: 4}, cluster={"nodes": 2})
    assert cluster_settings(loaded, {}).nodes == 2


def test_nodes_of_a_command(tmp_path: Path) -> None:
    """A command that starts its own parts may have several nodes, from a template too."""
    loaded = load(tmp_path, serving=COMMAND, cluster={"template": "multi-node"})
    assert cluster_settings(loaded, {}).nodes == 2


def test_one_task_of_another_kind(tmp_path: Path) -> None:
    """One task that could not use the nodes is enough, and is named."""
    tasks = {"addition": {}, "other": {"benchmark": "addition", "serving": {"kind": "vllm"}}}
    loaded = load(tmp_path, serving=COMMAND, tasks=tasks, cluster={"nodes": 2})
    with pytest.raises(RecipeError, match=r"tasks\.other"):
        cluster_settings(loaded, {})


@pytest.mark.parametrize("key", ["path", "revision", "allow_altered", "sha256"])
def test_data_of_a_benchmark_that_makes_its_own(tmp_path: Path, key: str) -> None:
    """Data for questions that are made from a seed would change nothing, and is refused."""
    value = {"allow_altered": True, "sha256": "0" * 64}.get(key, "x")
    loaded = load(tmp_path, tasks={"addition": {"data": {key: value}}})
    with pytest.raises(RecipeError) as caught:
        plan_runs(loaded, lambda text: None)
    assert str(caught.value).startswith(
        f"tasks.addition.data.{key}: this benchmark makes its own questions"
    )


@pytest.mark.parametrize(
    ("source", "override", "message"),
    [
        (DataSource(url="http://x/d.csv", file="d.csv"), {"revision": "r"}, "in no hub repository"),
        (DataSource(), {"revision": "r"}, "in no hub repository"),
        (DataSource(hub="o/n", file="f"), {"revision": "r", "path": "x"}, "beside tasks.t.data.path"),
    ],
)  # fmt: skip
def test_revision_without_effect(
    tmp_path: Path, source: DataSource, override: dict[str, Any], message: str
) -> None:
    """A revision belongs to a hub repository that is really read."""
    access = DataAccess("t", DataOverride(**override), tmp_path)
    with pytest.raises(RecipeError, match=r"tasks\.t\.data\.revision: ") as caught:
        access.refuse_useless(source)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("source", "override"),
    [
        (DataSource(hub="o/n", file="f"), {"revision": "r"}),
        (DataSource(url="http://x/d.csv", file="d.csv"), {"sha256": "0" * 64}),
        (DataSource(), {"path": "x", "allow_altered": True}),
        (DataSource(generated=True), {}),
    ],
)
def test_data_with_an_effect(tmp_path: Path, source: DataSource, override: dict[str, Any]) -> None:
    """What has an effect is taken."""
    access = DataAccess("t", DataOverride(**override), tmp_path)
    access.refuse_useless(source)
    assert access.base == tmp_path


JUDGE_OF_CARD = {
    "id": "gpt-4o",
    "serving": {"kind": "external", "base_url": "https://j/v1", "api_key_env": "JUDGE_API_KEY"},
}


def test_judge_of_a_task(tmp_path: Path) -> None:
    """Who it is, where, and how it is asked; null where nobody judges."""
    judges = {"card": JUDGE_OF_CARD, "mine": {"path": "./judge"}}
    tasks = {
        "hle": {"judge": "card"},
        "again": {"benchmark": "hle", "profile": "fixed", "judge": "mine"},
        "addition": {},
    }
    found = describe(load(tmp_path, judges=judges, tasks=tasks), {})["tasks"]
    assert found["addition"]["judge"] is None
    generation = found["hle"]["judge"].pop("generation")
    assert (generation["temperature"], generation["presence_penalty"]) == (0.0, 1.0)
    assert found["hle"]["judge"] == {
        "name": "card",
        "where": "hosted",
        "source": "gpt-4o",
        "model": "gpt-4o",
        "base_url": "https://j/v1",
        "api_key_env": "JUDGE_API_KEY",
        "parallelism": 16,
    }
    mine = found["again"]["judge"]
    assert mine["generation"]["presence_penalty"] == 0.0
    assert (mine["name"], mine["model"], mine["source"]) == ("mine", "mine", "./judge")
    assert mine["where"] == "served by evalkit, once the answers are there"


def test_judge_that_is_not_named(tmp_path: Path) -> None:
    """As for a plan: it is said what to write."""
    with pytest.raises(RecipeError, match=r"tasks\.hle: answers to hle are judged by a model"):
        describe(load(tmp_path, tasks={"hle": {}}), {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"gpqa_diamond": {"params": {"prompt": "eval/aai/mcq-4choice"}}},
            "tasks.gpqa_diamond: there is no prompt 'eval/aai/mcq-4choice'",
        ),
        (
            {"aime2025": {"params": {"prompt": "generic/hle-system"}}},
            "tasks.aime2025: prompt generic/hle-system: the template never shows {problem}",
        ),
        ({"hle": {}}, "tasks.hle: answers to hle are judged by a model"),
    ],
)
def test_what_needs_no_data_is_found_before_any_is_read(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """Of the last task, too, before the first one's data, which may take minutes."""
    loaded = load(tmp_path, tasks={"mmlu_pro": {"data": {"path": "nowhere"}}, **changes})
    said: list[str] = []
    with pytest.raises(RecipeError) as caught:
        plan_runs(loaded, said.append)
    assert message in caught.value.message
    assert said == []
