"""The nodes of a replica: which a recipe may ask for, which a job has, and how srun reaches them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.errors import ClusterError, FailureKind, RecipeError
from evalkit.recipe.resolve import resolve_serving
from evalkit.recipe.serving import ExternalServing, VllmServing
from evalkit.serving.nodes import plan_layout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.cluster.job import JobInfo
    from evalkit.recipe.schema import Cluster, Recipe


def check_nodes(recipe: Recipe, cluster: Cluster) -> None:
    """Raise RecipeError for several nodes that a server of the recipe cannot use."""
    if cluster.nodes == 1:
        return
    if cluster.executor == "local":
        raise RecipeError(
            f"cluster.nodes is {cluster.nodes}, and executor: local has only this machine",
            hint="Set cluster.nodes: 1, or use executor: slurm.",
        )
    for model, task in ((model, task) for model in recipe.models for task in recipe.tasks):
        serving = resolve_serving(recipe, model, task)
        if isinstance(serving, ExternalServing):
            raise RecipeError(
                f"cluster.nodes is {cluster.nodes}, and serving.kind external starts nothing on "
                f"any node (models.{model}, tasks.{task})",
                hint="Set cluster.nodes: 1; cluster.replicas gives more workers.",
            )
        if isinstance(serving, VllmServing):
            try:
                plan_layout(serving, cluster.nodes)
            except RecipeError as error:
                where = f"(models.{model}, tasks.{task})"
                raise RecipeError(f"{error.message} {where}", hint=error.hint) from error


def replica_nodes(cluster: Cluster, job: JobInfo, env: Mapping[str, str]) -> tuple[str, ...]:
    """Nodes of a replica that has several, this one first; else none. `env` is the job's.

    Raises ClusterError when the job has fewer than the recipe asks for.
    """
    if len(job.nodes) < cluster.nodes:
        raise ClusterError(
            f"a replica of this run has {cluster.nodes} nodes (cluster.nodes), and this job has "
            f"{len(job.nodes)}",
            hint="Several nodes need Slurm: `evalkit submit` with executor: slurm.",
            kind=FailureKind.CONFIG,
        )
    here = env.get("SLURMD_NODENAME", job.nodes[0])
    return tuple(sorted(job.nodes, key=lambda node: node != here)) if cluster.nodes > 1 else ()


def follower_srun_args(cluster: Cluster) -> tuple[str, ...]:
    """Arguments of the srun that starts a part of a server on one further node of a replica.

    `--overlap`: the worker's own step holds the job's resources. `--mem=0`: all that the job has there.
    `--export=ALL`: sites that start jobs without the user's environment would hide ours too.
    """
    one_part = ("--overlap", "--nodes=1", "--ntasks=1", "--mem=0", "--export=ALL")
    cpus = (f"--cpus-per-task={cluster.cpus_per_task}",) if cluster.cpus_per_task else ()
    return (*one_part, *cpus, *cluster.srun_args)
