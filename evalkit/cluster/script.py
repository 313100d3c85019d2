"""The batch scripts of a run exactly as submitit will write them, without submitting anything.

The text comes from submitit's own renderer with the parameters and the command that a submit uses;
a test on a real cluster compares it with the file that a submit left. What is not known before a
submit, the id of the replicas' job in the gather's dependency, is `REPLICAS_JOB_ID`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.cluster.jobs import job_name
from evalkit.cluster.parameters import (
    GatherShape,
    JobShape,
    check_folder,
    render_gather_parameters,
    render_parameters,
    replica_gpus,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.plan.model import Plan
    from evalkit.recipe.schema import Cluster
    from evalkit.store.layout import RunFolder

REPLICAS_JOB_ID = "REPLICAS_JOB_ID"


@dataclass(frozen=True, slots=True)
class BatchScript:
    """One batch script, and the command that hands it to Slurm."""

    title: str
    """`replicas r0 to r3` or `gather`."""
    command: str
    """What submitit runs; the script's name has the job id, which Slurm gives."""
    text: str


def split_replicas(replicas: int, max_array_size: int) -> list[range]:
    """Replica numbers by array: Slurm refuses arrays above its MaxArraySize."""
    size = max(1, max_array_size)
    return [range(first, min(first + size, replicas)) for first in range(0, replicas, size)]


def share_parallelism(most: int, parts: list[range]) -> list[int]:
    """How many elements of each array may run at once, for `most` of all of them together.

    One of each at least: Slurm has no limit over several arrays.
    """
    shares, left = [], sum(len(part) for part in parts)
    for part in parts:
        shares.append(max(1, most * len(part) // left))
        most, left = max(0, most - shares[-1]), left - len(part)
    return shares


def render_scripts(
    folder: RunFolder,
    plan: Plan,
    cluster: Cluster,
    *,
    max_array_size: int,
    kill_wait_s: float | None = None,
) -> list[BatchScript]:
    """All batch scripts of a submit of the whole run. Raises ClusterError for impossible settings.

    `kill_wait_s` is the site's, where it is known.
    """
    check_folder(folder.root)
    name = job_name(plan)
    shape = JobShape(name, replica_gpus(plan), folder.root, kill_wait_s)
    replicas = render_parameters(cluster, shape)
    gather = render_gather_parameters(cluster, name, [REPLICAS_JOB_ID], GatherShape.of(plan))
    command = f"sbatch {folder.cluster.absolute()}/<job id>_submission.sh"
    parts = split_replicas(cluster.replicas, max_array_size)
    shares = share_parallelism(replicas["array_parallelism"], parts)
    arrays = [
        BatchScript(
            _title(part),
            command,
            render_script(folder, cluster, {**replicas, "array_parallelism": most}, len(part)),
        )
        for part, most in zip(parts, shares, strict=True)
    ]
    return [*arrays, BatchScript("gather", command, render_script(folder, cluster, gather, 1))]


def render_script(
    folder: RunFolder, cluster: Cluster, parameters: Mapping[str, Any], count: int
) -> str:
    """The script of one sbatch call for `count` replicas; one replica is no array."""
    # submitit, for which replicas of this machine, previewed by the same code, have no use
    from evalkit.cluster.executor import make_executor

    executor = make_executor(folder.cluster, cluster, parameters)
    if count > 1:
        executor.parameters["map_count"] = count
    text: str = executor._make_submission_file_text(executor._submitit_command_str, "")
    return text


def _title(part: range) -> str:
    return f"replica r{part[0]}" if len(part) == 1 else f"replicas r{part[0]} to r{part[-1]}"
