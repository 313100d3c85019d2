"""submitit's Slurm executor as evalkit uses it.

Apart from what it is given (`evalkit.cluster.parameters`): submitit is not imported by commands that
neither submit nor show a script.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from submitit import SlurmExecutor

from evalkit.cluster.batch import DEAF
from evalkit.cluster.parameters import render_python
from evalkit.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from evalkit.recipe.schema import Cluster

MAX_TIMEOUTS = 50
"""submitit wants a number. It is not consulted for replicas, which requeue themselves: see
`evalkit.cluster.requeue` for what bounds that."""


class RenderingExecutor(SlurmExecutor):
    """submitit's executor, also where Slurm is not installed: `--dry-run` works on a laptop."""

    @classmethod
    def affinity(cls) -> int:
        """Always available."""
        return 2


def make_executor(
    folder: Path, cluster: Cluster, parameters: Mapping[str, Any]
) -> RenderingExecutor:
    """submitit's Slurm executor over `<run>/cluster`. Raises ClusterError for a bad parameter."""
    python = f"{shlex.join(DEAF)} {render_python(cluster)}"
    executor = RenderingExecutor(folder, max_num_timeout=MAX_TIMEOUTS, python=python)
    try:
        executor.update_parameters(**parameters)
    except (ValueError, TypeError) as error:
        raise ClusterError(f"submitit refused the job's parameters: {error}") from error
    return executor
