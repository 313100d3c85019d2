"""What `--dry-run` shows of servers of several nodes."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from evalkit.cluster.preview import preview_parts
from evalkit.recipe.serving import CommandServing, VllmServing
from evalkit.store.layout import RunFolder
from tests.unit.cluster.builders import make_cluster, make_plan

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
