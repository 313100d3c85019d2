"""What a worker will start on each node of a replica that has several: for `--dry-run`.

Rendered by the same functions as the real start. What is only known there is filled in by example: the
port, the first node's address, and the names of the others.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.cluster.nodes import follower_srun_args
from evalkit.cluster.script import BatchScript
from evalkit.recipe.serving import VllmServing
from evalkit.serving.assembly import free_share
from evalkit.serving.followers import FollowerPlan, follower_command
from evalkit.serving.nodes import node_options, plan_layout
from evalkit.serving.ports import FIRST
from evalkit.serving.program import LOCALHOST, Place, render_command
from evalkit.serving.vllm import can_load_plugin, default_python, render_vllm_command

if TYPE_CHECKING:
    from evalkit.plan.model import DeploymentPlan, Plan
    from evalkit.recipe.schema import Cluster
    from evalkit.store.layout import RunFolder


def preview_parts(folder: RunFolder, plan: Plan, cluster: Cluster) -> list[BatchScript]:
    """A command for each node and each vLLM of the plan; none where replicas have one node."""
    if cluster.nodes == 1:
        return []
    penalised = {
        task.deployment
        for task in plan.tasks
        if task.generation.presence_penalty and plan.client.salvage
    }
    return [
        BatchScript(
            f"server {number} of a replica, on its node {rank} (port and names by example)",
            "started by the worker",
            shlex.join(_command(folder, deployment, cluster, rank, number in penalised)),
        )
        for number, deployment in enumerate(plan.deployments)
        if isinstance(deployment.serving, VllmServing)
        for rank in range(cluster.nodes)
    ]


def _command(
    folder: RunFolder,
    deployment: DeploymentPlan,
    cluster: Cluster,
    rank: int,
    is_penalised: bool,
) -> tuple[str, ...]:
    serving = deployment.serving
    assert isinstance(serving, VllmServing)
    place = Place(LOCALHOST, FIRST, rank, "ADDRESS_OF_NODE_0")
    fill = {"run_dir": str(folder.root.absolute()), "model": deployment.model_source}
    argv = (
        *render_command(cluster.server_prefix, fill),
        *render_vllm_command(
            serving,
            model=deployment.model_source,
            revision=deployment.revision,
            served_model_name=deployment.served_model_name,
            host=place.listen,
            port=place.port,
            launcher="serve",
            python=serving.python or default_python(cluster.server_prefix),
            can_salvage=True,
            continues_presence=can_load_plugin(serving) and is_penalised,
            part=node_options(plan_layout(serving, cluster.nodes), place),
        ),
    )
    if rank == 0:
        return argv
    return follower_command(
        FollowerPlan(
            node=f"NODE_{rank}",
            argv=argv,
            marker=f"ATTEMPT:{place.port}:node{rank}",
            srun_args=follower_srun_args(cluster),
            cache_dir=Path(f"/tmp/CACHES-node{rank}"),
            grace_s=serving.shutdown_timeout_s,
            free_gpu_memory=free_share(serving),
        )
    )
