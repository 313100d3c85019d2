"""From a site's settings to the parameters of submitit's executor (see `evalkit.cluster.executor`).

`render_parameters` and `render_gather_parameters` are pure; what they fix, and why:

- time is a whole number of minutes: submitit's signal handler computes with it;
- `requeue` is asked for, or a preempted job would end where the site's default is not to requeue;
- srun does not take over `--cpus-per-task` of sbatch since Slurm 22.05, so it is given to both;
- a replica of several nodes starts one worker, on the first node; it reaches the others itself;
- keys in `cluster.sbatch` win, under whatever spelling, over what is computed;
- a signal that comes while Python still loads is ignored: its default action would end the job, which
  nobody requeues when it was preempted with a grace time. What is meant comes again with the end of it;
- the signal is USR2, whatever submitit's own variable says: it is the one that evalkit hears;
- srun hands the job's environment to the worker also where sbatch was told to export none of its own.
"""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.benchmarks.registry import benchmark_class
from evalkit.cluster.batch import FORGET, OUTLIVE, render_gather_teardown, render_teardown
from evalkit.errors import ClusterError
from evalkit.recipe.serving import CommandServing, ExternalServing, VllmServing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from evalkit.plan.model import Plan
    from evalkit.recipe.schema import Cluster
    from evalkit.recipe.section import Scalar
    from evalkit.recipe.serving import AnyServing

SIGNAL = "USR2"
KILL_WAIT = "EVALKIT_KILL_WAIT_S"
"""Variable with the site's KillWait (s), for a worker that cannot ask Slurm for it."""
GATHER_WARNING_S = 90
GATHER_TIME_MIN = 120
"""A gather of a million records takes about a minute; graders that run code or judges take longer."""
GATHER_MEMORY = "2GB"
GRADING_TIME_MIN = 720
GRADING_MEMORY = "32GB"
GRADING_CPUS = 8
"""For a gather that runs programs first: as many at once as it has cores, up to 4 GiB each."""
OWN_OPTIONS = {
    "array": "cluster.replicas",
    "time": "cluster.time_min (minutes)",
    "signal": "cluster.signal_delay_s (seconds)",
    "job_name": "nothing: it is how evalkit finds its jobs again",
    "output": "nothing: logs are in the run folder",
    "error": "nothing: logs are in the run folder",
    "open_mode": "nothing: logs are always appended to",
    "dependency": "nothing: a run depends on no other job",
}
"""sbatch options that evalkit needs for itself, and what to use in their place."""
EXPORT = "--export=ALL"
"""`sbatch --export=NONE` holds for srun too, which would not hand on what the script has set up."""
UNSAFE_PATH = re.compile(r"[%\\\n\r]")
"""sbatch expands % in file names, a backslash turns that off, and a line break ends an option."""


@dataclass(frozen=True, slots=True)
class JobShape:
    """What a job needs besides the site's settings."""

    name: str
    """Job name."""
    gpus: int
    """GPUs of one replica."""
    root: Path
    """The run folder."""
    kill_wait_s: float | None = None
    """The site's KillWait (s), where it is known."""


@dataclass(frozen=True, slots=True)
class GatherShape:
    """What the job behind the replicas has to do beside gathering."""

    runs_programs: bool = False
    asks_judge: bool = False
    judge_gpus: int = 0
    """GPUs of a judge that it serves itself."""

    @classmethod
    def of(cls, plan: Plan) -> GatherShape:
        """Of the run's tasks. Raises PlanError, RecipeError for a benchmark that is not installed."""
        graders = {benchmark_class(task.benchmark).grader for task in plan.tasks}
        judges = [task.judge.deployment.serving for task in plan.tasks if task.judge is not None]
        return cls(
            "sandbox" in graders, "judge" in graders, max(map(serving_gpus, judges), default=0)
        )

    @property
    def time_min(self) -> int:
        """Its time limit, where the site does not give one."""
        return GRADING_TIME_MIN if self.runs_programs or self.asks_judge else GATHER_TIME_MIN


JUST_GATHERS = GatherShape()


def replica_gpus(plan: Plan) -> int:
    """GPUs of one replica: what the largest deployment of the run needs."""
    return max(serving_gpus(deployment.serving) for deployment in plan.deployments)


def serving_gpus(serving: AnyServing) -> int:
    """GPUs a deployment needs. A command that does not say so is taken to need one."""
    match serving:
        case ExternalServing():
            return 0
        case VllmServing() if serving.gpus is None:
            return (
                serving.tensor_parallel_size
                * serving.pipeline_parallel_size
                * serving.data_parallel_size
            )
        case CommandServing() if serving.gpus is None:
            return 1
        case _:
            return serving.gpus or 0


def check_folder(root: Path) -> None:
    """Raise ClusterError when Slurm could not write into a run folder of this name."""
    found = UNSAFE_PATH.search(str(root))
    if found is not None:
        raise ClusterError(
            f"the run folder {str(root)!r} has {found[0]!r} in its path, which sbatch interprets",
            hint="Choose another output.dir or output.name, without %, backslashes and line breaks.",
        )


def render_parameters(cluster: Cluster, shape: JobShape) -> dict[str, Any]:
    """Parameters of `SlurmExecutor.update_parameters` for the replicas. Raises ClusterError."""
    if cluster.signal_delay_s >= cluster.time_min * 60:
        raise ClusterError(
            f"cluster.signal_delay_s ({cluster.signal_delay_s} s) leaves nothing of "
            f"cluster.time_min ({cluster.time_min} min)",
            hint="Raise time_min, or lower signal_delay_s; 180 s is enough for most servers.",
        )
    extra: dict[str, Any] = {"requeue": True, "signal": f"{SIGNAL}@{cluster.signal_delay_s}"}
    root, python = shape.root.absolute(), render_python(cluster)
    parameters: dict[str, Any] = {
        "job_name": shape.name,
        "time": cluster.time_min,
        "nodes": cluster.nodes,
        "ntasks_per_node": 1,
        "signal_delay_s": cluster.signal_delay_s,
        "stderr_to_stdout": True,
        "array_parallelism": cluster.array_parallelism or cluster.replicas,
        "wckey": None,
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "exclude": cluster.exclude,
        "cpus_per_task": cluster.cpus_per_task,
        "mem": cluster.mem,
        "comment": cluster.comment,
        "setup": [OUTLIVE, *render_setup(cluster, shape.kill_wait_s), FORGET],
        "teardown": render_teardown(root, python, cluster.max_failures),
        "srun_args": render_srun_args(cluster),
        **gpu_parameters(cluster, shape.gpus),
    }
    return apply_options(parameters, extra, cluster.sbatch, "cluster.sbatch")


def render_gather_parameters(
    cluster: Cluster, name: str, after: list[str], shape: GatherShape = JUST_GATHERS
) -> dict[str, Any]:
    """Parameters of the gather job, which runs when the jobs `after` have ended: on CPU, except for a
    judge that it serves."""
    extra: dict[str, Any] = {"requeue": True, "kill-on-invalid-dep": "yes"}
    extra["signal"] = f"{SIGNAL}@{GATHER_WARNING_S}"
    # a site's limits are seldom below that of the replicas
    longest = max(GATHER_TIME_MIN, min(shape.time_min, cluster.time_min))
    time_min = cluster.gather.get("time", longest)
    if not isinstance(time_min, int) or isinstance(time_min, bool) or time_min < 1:
        raise ClusterError(
            f"cluster.gather.time is {time_min!r}", hint="It is a whole number of minutes."
        )
    parameters: dict[str, Any] = {
        "job_name": name,
        "time": time_min,
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": GRADING_CPUS if shape.runs_programs else 1,
        "mem": GRADING_MEMORY if shape.runs_programs else GATHER_MEMORY,
        "stderr_to_stdout": True,
        "wckey": None,
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "comment": cluster.comment,
        **({"dependency": "afterany:" + ":".join(after)} if after else {}),
        "setup": [OUTLIVE, *render_setup(cluster), FORGET],
        "teardown": render_gather_teardown(),
        "srun_args": [EXPORT, *cluster.srun_args],
    }
    if shape.judge_gpus:
        parameters |= _judge_parameters(cluster, shape)
    options = {key: value for key, value in cluster.gather.items() if key != "time"}
    merged = apply_options(parameters, extra, options, "cluster.gather")
    given = {k.replace("-", "_"): v for k, v in merged["additional_parameters"].items()}
    cpus = given.get("cpus_per_task", merged.get("cpus_per_task"))
    if cpus not in (None, 1):
        merged["srun_args"] = [*merged["srun_args"], f"--cpus-per-task={cpus}"]
    return merged


def _judge_parameters(cluster: Cluster, shape: GatherShape) -> dict[str, Any]:
    """What a judge that is served needs: GPUs of one node, and at least the host of a replica."""
    on_one_node = cluster.model_copy(update={"nodes": 1})
    least = GRADING_CPUS if shape.runs_programs else 1
    return gpu_parameters(on_one_node, shape.judge_gpus) | {
        "cpus_per_task": max(cluster.cpus_per_task or 1, least),
        "mem": cluster.mem or (GRADING_MEMORY if shape.runs_programs else None),
        "constraint": cluster.constraint,
        "exclude": cluster.exclude,
    }


def apply_options(
    parameters: dict[str, Any],
    extra: dict[str, Any],
    options: Mapping[str, Scalar | None],
    where: str,
) -> dict[str, Any]:
    """Free sbatch options over computed ones; null or false leaves an option out."""
    result, extra = dict(parameters), dict(extra)
    for key, value in options.items():
        name = key.strip("-").replace("-", "_")
        if name in OWN_OPTIONS:
            raise ClusterError(
                f"{where}.{key} is set by evalkit", hint=f"Use instead: {OWN_OPTIONS[name]}."
            )
        result.pop(name, None)
        extra.pop(name.replace("_", "-"), None)
        if name == "no_requeue" and value:
            extra.pop("requeue", None)
        if value is not None and value is not False:
            extra[name.replace("_", "-")] = value
    # submitit would print its own default for a key that is absent
    return {**result, "wckey": None, "additional_parameters": extra}


def gpu_parameters(cluster: Cluster, gpus: int) -> dict[str, Any]:
    """The GPU request of one replica, per node. Raises ClusterError when nodes do not divide it."""
    if gpus == 0 or cluster.gpu_request == "none":
        return {}
    if gpus % cluster.nodes:
        raise ClusterError(
            f"{gpus} GPUs per replica cannot be spread evenly over cluster.nodes: {cluster.nodes}",
            hint="Change serving.gpus or the parallel sizes, or cluster.nodes.",
        )
    per_node = gpus // cluster.nodes
    typed = f"{cluster.gpu_type}:{per_node}" if cluster.gpu_type else str(per_node)
    if cluster.gpu_request == "gres":
        return {"gres": f"gpu:{typed}"}
    return {"gpus_per_node": typed}


def render_setup(cluster: Cluster, kill_wait_s: float | None = None) -> list[str]:
    """Shell lines before the worker starts: the site's own, then the recipe's variables."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in cluster.env.items()]
    ours = ["export PYTHONUNBUFFERED=1"]
    if kill_wait_s is not None:
        ours.append(f"export {KILL_WAIT}={kill_wait_s:g}")
    return [*cluster.setup, *ours, *exports]


def render_srun_args(cluster: Cluster) -> list[str]:
    """Arguments of the srun that starts the worker."""
    one_worker = ["--nodes=1", "--ntasks=1"] if cluster.nodes > 1 else []
    cpus = [f"--cpus-per-task={cluster.cpus_per_task}"] if cluster.cpus_per_task else []
    return [EXPORT, *one_worker, *cpus, *cluster.srun_args]


def render_python(cluster: Cluster) -> str:
    """The interpreter as a shell command; `cluster.python` may be one with arguments."""
    return shlex.join(shlex.split(cluster.python) if cluster.python else [sys.executable])
