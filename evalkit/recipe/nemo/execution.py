"""`execution`: where a run executes, as a recipe's `cluster` and `output`."""

from __future__ import annotations

import math
import re
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from evalkit.recipe.nemo.times import seconds_of
from evalkit.recipe.problems import found_value

if TYPE_CHECKING:
    from evalkit.recipe.document import Path
    from evalkit.recipe.nemo.deployment import Served
    from evalkit.recipe.nemo.draft import Draft
    from evalkit.recipe.nemo.source import Source

TYPES = ("local", "slurm")
IGNORED: tuple[Path, ...] = (("execution", "hostname"), ("execution", "username"))
"""Keys that may stay unset: evalkit submits where it is typed."""
HF_CACHE = ".cache/huggingface"
"""How the folder ends, inside a container, that the Hugging Face libraries keep files in."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
PLAIN = (
    ("partition", "partition"),
    ("account", "account"),
    ("sbatch_comment", "comment"),
)
"""Keys that only have another name in `cluster`."""


def read_execution(source: Source, draft: Draft, served: Served) -> None:
    """Cluster, output folder and start deadline."""
    kind = source.get("execution", "type")
    if source.is_missing("execution", "type"):
        return
    if kind not in TYPES:
        source.problem(
            ("execution", "type"),
            f"evalkit runs on this machine (local) or through Slurm (slurm), not on '{kind}'",
        )
        return
    _output(source, draft)
    _deadline(source, served)
    _put(source, draft, "type", ("template",), "local" if kind == "local" else "default")
    if kind == "slurm":
        _slurm(source, draft)
        _nodes(source, draft, served)
        _mounts(source, draft)


def output_of(folder: str) -> dict[str, str]:
    """A run folder as `output.dir` and, where it can be one, `output.name`."""
    path = PurePath(folder)
    if NAME.fullmatch(path.name):
        return {"dir": str(path.parent), "name": path.name}
    return {"dir": str(path)}


def _output(source: Source, draft: Draft) -> None:
    """The run folder is the launcher's output folder itself."""
    value = source.get("execution", "output_dir")
    if value is None:
        return
    place = source.document.where(("execution", "output_dir"))
    for key, text in output_of(str(value)).items():
        draft.put(("output", key), text, place)
    if source.get("execution", "type") == "slurm" and not PurePath(str(value)).is_absolute():
        source.problem(
            ("execution", "output_dir"),
            f"must be an absolute path that the nodes see, found {found_value(str(value))}",
        )
    source.note(
        ("execution", "output_dir"),
        "is the run folder itself: the same command again goes on with it, and adds no folder per call",
    )


def _deadline(source: Source, served: Served) -> None:
    seconds = source.get("execution", "endpoint_readiness_timeout")
    if served.serving.get("kind") == "external":
        return
    if seconds is not None:
        served.serving["ready_timeout_s"] = seconds


def _slurm(source: Source, draft: Draft) -> None:
    for key, name in PLAIN:
        value = source.get("execution", key)
        if value is not None:
            _put(source, draft, key, (name,), str(value))
    cpu = source.get("execution", "cpu_partition")
    if cpu is not None:
        _put(source, draft, "cpu_partition", ("gather", "partition"), str(cpu))
    seconds = _duration(source, "walltime")
    if seconds is not None:
        _put(source, draft, "walltime", ("time_min",), max(1, math.ceil(seconds / 60)))
    seconds = _duration(source, "max_walltime")
    if seconds is not None:
        hours = seconds / 3600
        _put(
            source,
            draft,
            "max_walltime",
            ("max_hours",),
            int(hours) if hours.is_integer() else hours,
        )
    _flags(source, draft)


def _flags(source: Source, draft: Draft) -> None:
    """Free options of sbatch, and what needs none."""
    flags = source.get("execution", "sbatch_extra_flags") or {}
    given = {name: value for name, value in flags.items() if value is not False}
    if given:
        _put(source, draft, "sbatch_extra_flags", ("sbatch",), given)
    for path in IGNORED:
        source.use(*path)
        if source.is_given(*path):
            source.ignore(path, "evalkit submits where it is typed, without ssh")


def _nodes(source: Source, draft: Draft, served: Served) -> None:
    nodes = source.get("execution", "num_nodes") or 1
    instances = source.get("execution", "num_instances") or 1
    if nodes % instances:
        source.problem(
            ("execution", "num_instances"),
            f"{nodes} nodes cannot be shared by {instances} instances",
        )
        return
    if served.serving.get("kind") != "external":
        _put(source, draft, "num_instances", ("replicas",), instances)
        if nodes > instances:
            _put(source, draft, "num_nodes", ("nodes",), nodes // instances)
    asked = source.get("execution", "gres")
    kinds = re.fullmatch(r"gpu:([A-Za-z][\w.-]*)(?::\d+)?", str(asked or ""))
    if kinds is not None:
        _put(source, draft, "gres", ("gpu_type",), kinds[1])
    for key in ("gres", "gpus_per_node"):
        if source.is_given("execution", key):
            source.note(
                ("execution", key),
                "evalkit asks for the GPUs that the parallel sizes need",
            )


def _mounts(source: Source, draft: Draft) -> None:
    mounts = source.peek("execution", "mounts", "deployment")
    for host, inside in (mounts or {}).items() if isinstance(mounts, dict) else []:
        if str(inside).endswith(HF_CACHE):
            path: Path = ("execution", "mounts", "deployment", host)
            source.note(path, "without a container it is HF_HOME of the jobs")
            place = source.document.where(path)
            draft.put(("cluster", "env"), {"HF_HOME": host}, place)


def _duration(source: Source, key: str) -> int | None:
    value: Any = source.get("execution", key)
    if value is None:
        return None
    seconds = seconds_of(value)
    if not seconds:
        source.problem(
            ("execution", key),
            f"expected minutes, MM:SS, HH:MM:SS or D-HH:MM:SS, found {found_value(value)}",
        )
    return seconds


def _put(source: Source, draft: Draft, key: str, path: tuple[str, ...], value: Any) -> None:
    draft.put(("cluster", *path), value, source.document.where(("execution", key)))
