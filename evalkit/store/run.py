"""A run's written-once files: created together, plan last, and read back with clear errors.

A folder is a run exactly when it holds `plan.json`. What was written before it is overwritten by the
next try; what came after it never is. What a later recipe may change freely (servers' places and
sizes, how requests are sent) is kept beside it, in `cluster/`, and laid over the plan when it is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from pydantic import ValidationError

from evalkit.errors import PlanError, StoreError, UsageError
from evalkit.plan.model import PLAN_VERSION, Plan
from evalkit.recipe.schema import Cluster
from evalkit.store.publish import publish, publish_once

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from evalkit.store.layout import RunFolder

_OURS = frozenset(
    {"recipe.yaml", "recipe.given.yaml", "provenance.json", "tasks", "cluster", "logs", "leases"}
)


def is_run(folder: RunFolder) -> bool:
    """Whether the folder holds a plan. Raises StoreError where that cannot be seen."""
    try:
        return folder.plan.is_file()
    except OSError as error:
        raise StoreError(f"cannot look into {folder.root}: {error.strerror}") from error


def load_plan(folder: RunFolder) -> Plan:
    """The run's plan, as it is to be executed now: with what the last `save_execution` gave it.

    Raises UsageError where there is no run, StoreError for an unreadable one.
    """
    plan = _read_plan(
        folder.plan, "The file is written once and never changed: restore it, or start a new run."
    )
    if plan is None:
        raise UsageError(
            f"{folder.root} is not a run: there is no {folder.plan.name} in it",
            hint="Name a run folder, or make one with `evalkit prepare RECIPE`.",
        )
    current = _read_plan(
        folder.current_plan, "Delete it, and prepare or submit the recipe again: it is made anew."
    )
    return plan if current is None else plan.executed_as(current)


def load_first_plan(folder: RunFolder) -> Plan:
    """The run's plan as it was made, before later recipes gave it other servers. Raises as `load_plan`."""
    return _read_plan(folder.plan, "Restore it, or start a new run.") or load_plan(folder)


def save_execution(folder: RunFolder, plan: Plan) -> None:
    """Let the run go on with the servers and the client settings of `plan`, if it is the same run.

    `plan.json` stays as it is. Raises StoreError.
    """
    before = load_plan(folder)
    after = before.executed_as(plan)
    if after != before:
        publish(folder.current_plan, after.model_dump_json(indent=1).encode() + b"\n")


def _read_plan(path: Path, hint: str) -> Plan | None:
    """The plan in a file, None without the file. `hint` says what to do about one that is none."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        raw = orjson.loads(content)
        if raw.get("version") != PLAN_VERSION:
            raise StoreError(
                f"{path} has version {raw.get('version')}, this evalkit reads {PLAN_VERSION}",
                hint="Use the evalkit that made the run (provenance.json), or start a new run.",
            )
        return Plan.model_validate_json(content)
    except (orjson.JSONDecodeError, AttributeError, ValidationError) as error:
        said = "; ".join(line.strip() for line in str(error).splitlines()[:4])
        raise StoreError(f"{path} is not a plan: {said}", hint=hint) from error


def check_creatable(folder: RunFolder) -> None:
    """Raise StoreError when a run cannot be made here: not writable, or somebody else's files."""
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
        foreign = sorted(
            path.name
            for path in folder.root.iterdir()
            if path.name not in _OURS and not path.name.startswith(".")
        )
    except OSError as error:
        raise StoreError(
            f"cannot create the run folder {folder.root}: {error.strerror or error}",
            hint="Set output.dir to a folder that can be written.",
        ) from error
    if foreign:
        raise StoreError(
            f"{folder.root} holds files that are no run: {', '.join(foreign[:5])}",
            hint="Choose another output.dir or output.name; nothing was changed.",
        )


def create_run(folder: RunFolder, plan: Plan, texts: Mapping[Path, bytes]) -> bool:
    """Write `texts` (by path in the run folder), then the plan; False when a plan is there.

    Raises StoreError; PlanError, and nothing is written, for a plan that could not be read back.
    """
    content = plan.model_dump_json(indent=1).encode() + b"\n"
    try:
        Plan.model_validate_json(content)
    except ValidationError as error:
        raise PlanError(
            f"this plan could not be read back, so it is not written: {error}"
        ) from error
    for path, text in texts.items():
        publish(path, text)
    return publish_once(folder.plan, content)


def save_cluster(folder: RunFolder, cluster: Cluster) -> None:
    """Keep the cluster settings that the next replicas run with. Raises StoreError."""
    publish(folder.cluster_settings, cluster.model_dump_json(indent=1).encode() + b"\n")


def load_cluster(folder: RunFolder) -> Cluster:
    """Settings of the last submission; defaults before the first one. Raises StoreError."""
    try:
        return Cluster.model_validate_json(folder.cluster_settings.read_bytes())
    except FileNotFoundError:
        return Cluster()
    except (OSError, ValidationError) as error:
        raise StoreError(f"cannot read {folder.cluster_settings}: {error}") from error
