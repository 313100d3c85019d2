"""What `--dry-run` shows of servers of several nodes."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.cluster.preview import preview_parts
from evalkit.recipe.schema import Client, Generation
from evalkit.recipe.serving import CommandServing, VllmServing
from evalkit.serving.vllm import PLUGIN
from evalkit.store.layout import RunFolder
from tests.unit.cluster.builders import make_cluster, make_plan, make_task

if TYPE_CHECKING:
    from pathlib import Path

SITE = {
    "cpus_per_task": 8,
    "srun_args": ["--container-image=a b.sqsh"],
    "server_prefix": ["apptainer", "exec", "--bind={run_dir}", "x.sif"],
}


def test_a_command_for_each_node(tmp_path: Path) -> None:
    """The first node's server, and for the other an srun with the site's arguments and the prefix."""
    plan = make_plan(serving=VllmServing(tensor_parallel_size=4))
    first, second = preview_parts(RunFolder(tmp_path), plan, make_cluster(nodes=2, **SITE))
    inside = ["apptainer", "exec", f"--bind={tmp_path}", "x.sif", "python3", "-m"]
    assert shlex.split(first.text)[:6] == inside
    words = shlex.split(second.text)
    assert words[:8] == [
        *("srun", "--overlap", "--nodes=1", "--ntasks=1", "--mem=0", "--export=ALL"),
        *("--cpus-per-task=8", "--container-image=a b.sqsh"),
    ]
    assert words[8] == "--nodelist=NODE_1"
    start = words.index("apptainer")
    assert words[start : start + 6] == inside
    assert words[-1] == "--headless"
    assert "on its node 1" in second.title


def test_nothing_for_one_node_or_a_command(tmp_path: Path) -> None:
    """One node needs no srun, and a command starts its other parts itself."""
    folder = RunFolder(tmp_path)
    command = make_plan(serving=CommandServing(kind="command", command=("x",)))
    assert preview_parts(folder, make_plan(), make_cluster()) == []
    assert preview_parts(folder, command, make_cluster(nodes=2)) == []


@pytest.mark.parametrize(
    ("penalty", "salvage", "extra", "loads"),
    [
        (1.0, True, {}, True),
        (1.0, False, {}, False),
        (None, True, {}, False),
        (1.0, True, {"speculative-config.model": "ngram"}, False),
    ],
    ids=["penalty", "without salvage", "no penalty", "beside speculation"],
)
def test_processor_of_penalties(
    tmp_path: Path, penalty: float | None, salvage: bool, extra: dict[str, Any], loads: bool
) -> None:
    """vLLM loads ours only where an interrupted answer would need it, and may have it."""
    task = make_task().model_copy(update={"generation": Generation(presence_penalty=penalty)})
    serving = VllmServing(
        tensor_parallel_size=2, extra_args={**extra, "logits-processors": "their:own"}
    )
    plan = make_plan(task, serving=serving).model_copy(update={"client": Client(salvage=salvage)})
    first, _ = preview_parts(RunFolder(tmp_path), plan, make_cluster(nodes=2))
    words = shlex.split(first.text)
    at = words.index("--logits-processors") + 1
    assert words[at : at + 1 + loads] == [*([PLUGIN] if loads else []), "their:own"]
