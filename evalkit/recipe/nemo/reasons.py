"""Why keys of a launcher file have no effect in evalkit, in a sentence each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.recipe.document import Path

CONTAINERS = "no container is started"
REASONS: Mapping[str, str] = {
    "execution.mode": "tasks share one queue and one server",
    "execution.extra_docker_args": CONTAINERS,
    "execution.mounts": f"{CONTAINERS}; set HF_HOME where data and models are kept elsewhere",
    "execution.evaluation_gpu_visible": CONTAINERS,
    "execution.proxy": "every server has a worker of its own, and all share one queue",
    "execution.subproject": "jobs are named after the run",
    "execution.ntasks_per_node": "evalkit starts the processes of a node itself",
    "execution.deployment": "evalkit starts the parts of a server itself",
    "execution.env_vars": "variables belong to deployment, evaluation and tasks",
    "execution.auto_export": "evalkit writes its artifacts into the run folder and exports none",
    "execution.endpoint_readiness_timeout": "no server is started",
    "export": "evalkit writes its artifacts into the run folder and exports none",
    "deployment.port": "evalkit chooses a free port",
    "deployment.endpoints": "evalkit knows the paths of the OpenAI API",
    "deployment.cache_path": CONTAINERS,
    "deployment.env_prefix": "no proxy stands before the server",
    "auxiliary_deployments": "no task that is run refers to it",
    "container": CONTAINERS,
    "dataset_dir": "give the task's data with -o TASK.data.path=FILE",
    "dataset_mount_path": CONTAINERS,
    "request_timeout": "a total time would cut long answers off; a server that makes no token for "
    "client.stall_timeout_s is found, and client.timeout_s is a total time",
    "tokenizer": "the server counts tokens",
    "tokenizer_backend": "the server counts tokens",
    "use_sandbox": "programs of a model always run in the sandbox",
    "skip_data_dir_check": "data is fetched and checked when a run is prepared",
    "data_dir": "give the task's data with -o TASK.data.path=FILE",
    "random_seed": "verdicts are asked for with the benchmark's own seed",
    "generation_type": "the benchmark knows how its answers are judged",
    "judge": "no judge is asked",
    "output_dir": "artifacts lie in the run folder",
    "supported_endpoint_types": "evalkit asks chat endpoints",
    "stream": "evalkit decides how answers are sent",
}
"""By dotted path, or by any key on the way to it. The longest path wins, then the last key."""


def reason_of(path: Path) -> str:
    """Why a key has no effect."""
    names = [str(key) for key in path]
    for length in range(len(names), 0, -1):
        if (whole := ".".join(names[:length])) in REASONS:
            return REASONS[whole]
    for name in reversed(names):
        if name in REASONS:
            return REASONS[name]
    return "evalkit has no such setting"
