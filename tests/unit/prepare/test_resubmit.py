"""A recipe that is submitted again: what may change takes effect, and nothing else changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import huggingface_hub
import orjson
import pytest
import yaml

from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.prepare import PreparedRun, prepare_runs
from evalkit.errors import FingerprintMismatchError
from evalkit.recipe.load import LoadedRecipe, load_recipe
from evalkit.store.run import load_plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EXTERNAL: dict[str, Any] = {"kind": "external", "base_url": "http://127.0.0.1:9/v1"}
TASKS: dict[str, Any] = {
    "open": {"benchmark": "addition", "params": {"n": 6}},
    "choice": {"benchmark": "addition", "params": {"n": 6, "form": "choice"}},
}


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., LoadedRecipe]:
    """A recipe of a hosted model and two tasks, with changes at the top level."""

    def _load(*overrides: str, **changes: Any) -> LoadedRecipe:
        recipe = {
            "name": "test",
            "models": {"m": {"id": "m"}},
            "serving": EXTERNAL,
            "tasks": TASKS,
            "output": {"dir": str(tmp_path / "runs")},
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe | changes))
        return load_recipe(path, env={}, overrides=overrides)

    return _load


def prepare(loaded: LoadedRecipe, said: list[str] | None = None) -> PreparedRun:
    """The recipe's run; what is said on the way goes to `said`."""
    [run] = prepare_runs(
        loaded,
        env={},
        command=["evalkit", "prepare", "sk-proj-1234567890abcdef"],
        clock=SYSTEM_CLOCK,
        on_progress=(said if said is not None else []).append,
    )
    return run


VLLM: dict[str, Any] = {"kind": "vllm", "load_format": "dummy", "max_model_len": 512}


def get(plan: Any, dotted: str) -> Any:
    """A value of the plan, or of its first server."""
    section, key = dotted.split(".")
    return getattr(plan.client if section == "client" else plan.deployments[0].serving, key)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("client.parallelism", 3),
        ("client.timeout_s", 7.0),
        ("client.max_retries", 0),
        ("serving.ready_timeout_s", 5.0),
        ("serving.max_restarts", 0),
        ("serving.gpu_memory_utilization", 0.5),
        ("serving.tensor_parallel_size", 4),
        ("serving.gpus", 8),
        ("serving.base_url", "http://elsewhere:8000/v1"),
    ],
)
def test_free_setting_takes_effect(
    load: Callable[..., LoadedRecipe], tmp_path: Path, key: str, value: Any
) -> None:
    """A setting that moves no score is used by what starts next; the plan's file stays as it was."""
    changes: dict[str, Any] = {}
    if key.startswith("serving.") and key != "serving.base_url":
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "config.json").write_text("{}")
        changes = {"serving": VLLM, "models": {"m": {"path": "model"}}}
    first = prepare(load(**changes))
    before = first.folder.plan.read_bytes()
    again = prepare(load(f"{key}={value}", **changes))
    assert not again.is_new
    assert get(again.plan, key) == value != get(first.plan, key)
    assert load_plan(again.folder) == again.plan
    assert again.folder.plan.read_bytes() == before
    assert again.plan.tasks == first.plan.tasks
    assert again.plan.run_id == first.plan.run_id
    back = prepare(load(**changes))
    assert back.plan == first.plan


def test_task_gets_a_server_of_its_own(load: Callable[..., LoadedRecipe]) -> None:
    """One task's own address splits the servers; tasks, shards and their order stay."""
    first = prepare(load()).plan
    tasks = {**TASKS, "open": {**TASKS["open"], "serving": {"base_url": "http://elsewhere/v1"}}}
    again = prepare(load(tasks=tasks)).plan
    assert (len(first.deployments), len(again.deployments)) == (1, 2)
    assert [(t.name, t.n_shards, t.identity) for t in again.tasks] == [
        (t.name, t.n_shards, t.identity) for t in first.tasks
    ]
    urls = {
        t.name: again.deployments[t.deployment].serving.model_dump()["base_url"]
        for t in again.tasks
    }
    assert urls == {"open": "http://elsewhere/v1", "choice": EXTERNAL["base_url"]}


def test_other_settings_are_refused(load: Callable[..., LoadedRecipe]) -> None:
    """Another fingerprint is refused, a missing task in one line, and free settings with it too."""
    run = prepare(load())
    before = run.folder.plan.read_bytes()
    with pytest.raises(FingerprintMismatchError) as caught:
        prepare(load("~tasks.choice", "open.params.n=5", "client.parallelism=3"))
    assert caught.value.message == (
        f"{run.folder.root} was made with other settings:\n"
        "  tasks.choice: there, not in this recipe\n"
        "  tasks.open.params.n: 6 there, 5 now\n"
        "  tasks.open.samples: 6 there, 5 now"
    )
    assert run.folder.plan.read_bytes() == before
    assert load_plan(run.folder) == run.plan


def test_server_variables_are_no_free_setting(load: Callable[..., LoadedRecipe]) -> None:
    """A variable of the server, and the model an endpoint is asked for, make another run."""
    prepare(load())
    for override, key in (
        ("serving.env.A=b", "serving.env.A"),
        ("serving.served_model_name=x", "serving.served_model_name"),
    ):
        with pytest.raises(FingerprintMismatchError) as caught:
            prepare(load(override))
        assert set(caught.value.differences) == {f"tasks.{t}.{key}" for t in TASKS}


def test_unpinned_hub_model(
    load: Callable[..., LoadedRecipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of a hub model keeps the commit it began with, whatever the hub or the cache say later."""
    answers: list[str | Exception] = [ConnectionError(), *("a" * 40, "b" * 40)]

    def model_info(*_: Any, **__: Any) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(sha=answer)

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(model_info=model_info))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    models = {"m": {"hub": "owner/model"}}
    said: list[str] = []
    unknown = prepare(load(models=models), said)
    assert unknown.plan.deployments[0].revision is None
    assert any(line.startswith("warning: models.m is not pinned") for line in said)
    assert not prepare(load(models=models)).is_new
    pinned = prepare(load("output.name=pinned", models=models))
    again = prepare(load("output.name=pinned", models=models))
    assert not again.is_new
    assert again.plan.model.revision == pinned.plan.deployments[0].revision == "a" * 40
    assert answers == ["b" * 40]


def test_recorded_recipe_loads_again(load: Callable[..., LoadedRecipe], tmp_path: Path) -> None:
    """The run's `recipe.yaml` is a recipe: its paths start at the run folder, and it means the same."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    run = prepare(load(serving=VLLM, models={"m": {"path": "model"}}))
    again = prepare(load_recipe(run.folder.recipe, env={}))
    assert (again.folder, again.is_new) == (run.folder, False)


def test_recorded_texts_hold_no_key(load: Callable[..., LoadedRecipe], tmp_path: Path) -> None:
    """A key in a comment, or typed on the command line, is masked in what is recorded."""
    load()
    path = tmp_path / "recipe.yaml"
    path.write_text(path.read_text() + "# export KEY=sk-proj-1234567890abcdef\n")
    run = prepare(load_recipe(path, env={}))
    assert "# export KEY=sk-... (24 characters)" in run.folder.recipe_as_given.read_text()
    assert (
        orjson.loads(run.folder.provenance.read_bytes())["command"]
        == "evalkit prepare sk-... (24 characters)"
    )
