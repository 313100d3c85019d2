"""The published files of the launcher, and small ones of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from evalkit.recipe.document import Document, walk
from evalkit.recipe.load import LoadedRecipe, load_recipe
from evalkit.recipe.nemo.compose import compose
from evalkit.recipe.nemo.read import NemoOptions
from evalkit.recipe.nemo.source import Source
from tests.unit.vectors import SHARED

if TYPE_CHECKING:
    from pathlib import Path

NEMO = SHARED / "nemo_recipes"
NAMES = ["HF_TOKEN", "JUDGE_API_KEY", "HF_HOME", "NGC_API_KEY", "HF_TOKEN_FOR_GPQA_DIAMOND", "USER"]
ENV = {name: f"value-of-{name}" for name in NAMES}
"""Variables that the published files ask for."""
URL = (
    "nemo_evaluator_config.config.params.extra.judge.url=https://judge.example/v1/chat/completions"
)


def needs(path: Path) -> list[str]:
    """Overrides for the values that a published file leaves to its user."""
    text = path.read_text("utf-8")
    given = []
    if "account: ???" in text:
        given += ["execution.account=someone", "execution.output_dir=/shared/results"]
    if "checkpoint_path: ???" in text:
        given.append("deployment.checkpoint_path=/shared/model")
    if "name: ns_hle" in text:
        given.append(f"evaluation.tasks.ns_hle.{URL}")
    return given


def load_file(path: Path, *overrides: str, tasks: tuple[str, ...] = ()) -> LoadedRecipe:
    """A published file with what it asks for, without the tasks that evalkit has not got."""
    return load_recipe(
        path,
        overrides=[*needs(path), *overrides],
        tasks=tasks,
        env=ENV,
        nemo=NemoOptions(skip_unsupported=True),
    )


def hosted(*tasks: Any, **sections: Any) -> dict[str, Any]:
    """A small configuration of a hosted model with these tasks (names, or whole entries)."""
    return {
        "defaults": [{"execution": "local"}, {"deployment": "none"}, "_self_"],
        "execution": {"output_dir": "./out"},
        "target": {
            "api_endpoint": {"model_id": "o/m", "url": "https://x/v1", "api_key_name": "KEY"}
        },
        "evaluation": {
            "tasks": [{"name": t} if isinstance(t, str) else t for t in tasks or ("ns_gpqa",)]
        },
        **sections,
    }


def served(deployment: dict[str, Any], **execution: Any) -> dict[str, Any]:
    """A small configuration of a served model, on Slurm."""
    kind = deployment.get("type", "vllm")
    return {
        "defaults": [{"execution": "slurm/default"}, {"deployment": kind}, "_self_"],
        "execution": {"account": "a", "output_dir": "/out", **execution},
        "deployment": {"served_model_name": "m", "checkpoint_path": "/m", **deployment},
        "evaluation": {"tasks": [{"name": "ns_gpqa"}]},
    }


def task(name: str, extra: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
    """An entry of the task list with parameters."""
    values = {**params, **({"extra": extra} if extra is not None else {})}
    return {"name": name, "nemo_evaluator_config": {"config": {"params": values}}}


def document(data: Any) -> Document:
    """Data as if it stood in a file, with one place for all."""
    return Document(data, dict.fromkeys(walk(data), "file.yaml:1"))


def composed(data: Any, **env: str) -> Source:
    """A configuration over its groups."""
    return Source(compose(document(data)), env)


def write(folder: Path, data: Any) -> Path:
    """A configuration as a file."""
    path = folder / "launcher.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), "utf-8")
    return path


def load(folder: Path, data: Any, *overrides: str, **options: Any) -> LoadedRecipe:
    """A configuration of our own, loaded; `env` and `tasks` as for recipes, else options of `NemoOptions`."""
    env, tasks = options.pop("env", {}), options.pop("tasks", ())
    return load_recipe(
        write(folder, data), overrides=overrides, tasks=tasks, env=env, nemo=NemoOptions(**options)
    )
