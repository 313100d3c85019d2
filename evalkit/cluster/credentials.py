"""How secrets reach a job: by name in the recipe, by value in a 0600 file beside the runs.

The file lies outside the run folder, which people copy and publish, and it is removed when the run is
complete or cancelled. Values never enter a pickle, a script, a plan, or the environment that sbatch
sends along. Nothing here encrypts: whoever can read the user's files can read the file.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import orjson

from evalkit.errors import ClusterError, RecipeError
from evalkit.recipe.serving import ExternalServing
from evalkit.redaction import spellings
from evalkit.store.publish import publish

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from evalkit.plan.model import Plan
    from evalkit.store.layout import RunFolder

OPTIONAL = ("HF_TOKEN",)
"""Secrets that travel when they are set: gated models and data sets need them."""

PASSED = "pass_env"
"""Parameter of tasks with a program of their own: names of variables that it gets, mostly keys of judges."""


def secrets_file(folder: RunFolder, plan: Plan) -> Path:
    """Where the run's secrets are while it runs."""
    return folder.root.parent / ".secrets" / f"{folder.root.name}-{plan.run_id}.json"


def required_secrets(plan: Plan) -> tuple[str, ...]:
    """Names of the variables that the run cannot do without, sorted."""
    names: set[str] = set()
    judges = [task.judge.deployment for task in plan.tasks if task.judge is not None]
    for deployment in (*plan.deployments, *judges):
        serving = deployment.serving
        names.update(serving.secrets)
        if isinstance(serving, ExternalServing) and serving.api_key_env:
            names.add(serving.api_key_env)
    for task in plan.tasks:
        names.update(_key_names(task.params))
    return tuple(sorted(names))


def collect_secrets(plan: Plan, env: Mapping[str, str]) -> dict[str, str]:
    """The run's secrets from `env`. Raises RecipeError naming a variable that is not set."""
    required = required_secrets(plan)
    missing = [name for name in required if not env.get(name)]
    if missing:
        raise RecipeError(
            f"{'variables' if len(missing) > 1 else 'variable'} {', '.join(missing)} not set: "
            "the recipe names them in serving.secrets, api_key_env or pass_env",
            hint="Export them, or give a file of them with --env-file, and submit again.",
        )
    optional = [name for name in OPTIONAL if env.get(name)]
    return {name: env[name] for name in (*required, *optional)}


def run_secrets(plan: Plan, env: Mapping[str, str]) -> tuple[str, ...]:
    """Values that no record of the run may show, in all their spellings."""
    names = {*required_secrets(plan), *OPTIONAL}
    return spellings(value for name in names if (value := env.get(name)))


def write_secrets(path: Path, secrets: Mapping[str, str]) -> None:
    """Write the file, readable by its owner alone from its first byte on. Raises StoreError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    before = os.umask(0o077)
    try:
        publish(path, orjson.dumps(dict(secrets)))
    finally:
        os.umask(before)


def read_secrets(path: Path, plan: Plan) -> dict[str, str]:
    """The secrets on a node. Raises ClusterError when the run needs some and they are not there."""
    try:
        secrets: dict[str, str] = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        secrets = {}
    except (OSError, orjson.JSONDecodeError) as error:
        raise ClusterError(f"cannot read the run's secrets in {path}: {error}") from error
    missing = [name for name in required_secrets(plan) if name not in secrets]
    if missing:
        raise ClusterError(
            f"no value for {', '.join(missing)} in {path}",
            hint="The file goes when a run is complete or cancelled; `evalkit submit` writes it again.",
        )
    return secrets


def remove_secrets(path: Path) -> None:
    """Remove the file, and its folder when that was the last one."""
    path.unlink(missing_ok=True)
    try:
        path.parent.rmdir()
    except OSError:  # other runs still have theirs
        return


def _key_names(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, below in value.items():
            if key == "api_key_env" and isinstance(below, str):
                yield below
            elif key == PASSED and isinstance(below, list | tuple):
                yield from (name for name in below if isinstance(name, str))
            else:
                yield from _key_names(below)
    elif isinstance(value, list | tuple):
        for below in value:
            yield from _key_names(below)
