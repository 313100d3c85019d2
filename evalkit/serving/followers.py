"""The part of a server on a further node of its replica.

It is started with one `srun --overlap`: its keeper runs on that node, ends the part when the other end
of its standard input is gone, and needs nobody who could come and look. srun is asked for nothing by
a signal, except at the very end: on SIGTERM it kills the step at once.
"""

from __future__ import annotations

import asyncio
import math
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit.errors import ServingError
from evalkit.serving import keeper, tree
from evalkit.serving.gpus import check_command
from evalkit.serving.server import Server, keeper_command, launch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# The step has to be taken down by Slurm too; a container makes that slower.
STEP_MARGIN_S = 10.0
ABORT_S = 10.0
# What Slurm sets for one step and srun would take for the wishes of the next.
STEP_VARIABLES = re.compile(
    r"(SLURM|SRUN)_(STEP.*|NTASKS.*|NPROCS|NNODES|CPUS_PER_.*|MEM_PER_.*|MEM_BIND.*|CPU_BIND.*"
    r"|DISTRIBUTION|TASKS_PER_NODE|GPUS_PER_TASK|TRES_PER_TASK|EXPORT_ENV|HOSTFILE|NODEID"
    r"|PROCID|LOCALID|GTIDS|COMM_.*|TASK_PID)"
)
DEVICES = (
    "CUDA_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
)


@dataclass(frozen=True, slots=True)
class FollowerPlan:
    """One further part of a server, before its start."""

    node: str
    """As Slurm calls it."""
    argv: tuple[str, ...]
    """What runs there, prefix included."""
    marker: str
    """The marker of the part's processes. srun, a process of this node, has another one."""
    srun_args: tuple[str, ...]
    """How srun reaches a further node; without the node itself."""
    cache_dir: Path
    """Folder for compile caches on that node; its keeper makes and removes it."""
    grace_s: float
    """Between SIGTERM and SIGKILL, where the order to stop does not say."""
    free_gpu_memory: float
    """Share of each GPU's memory that must be free there; 0 looks at no GPU."""


class Follower(Server):
    """A part on another node. Create it with `start_follower`."""

    @property
    def was_oom_killed(self) -> bool:
        """Always False: kills on its node are counted there."""
        return False

    async def stop(self, grace_s: float, within_s: float = math.inf) -> None:
        """As `Server.stop`; a step that does not end is killed, for which srun takes SIGTERM."""
        now = asyncio.get_running_loop().time
        deadline = now() + within_s
        if self.is_alive:
            self._ask_to_stop(grace_s)
        await self._wait(min(within_s, grace_s + STEP_MARGIN_S))
        if self.is_alive:
            self._process.terminate()
            await self._wait(min(deadline - now(), ABORT_S))
        self._hang_up(b"")
        await super().stop(0.0, max(0.0, deadline - now()))

    def _ask_to_stop(self, grace_s: float) -> None:
        self._hang_up(b"%s %g\n" % (keeper.STOP, grace_s))

    def _hang_up(self, last_words: bytes) -> None:
        pipe = self._process.stdin
        if pipe is None or pipe.closed:
            return
        try:
            pipe.write(last_words)
            pipe.close()
        except BrokenPipeError:  # it has ended
            pass


def follower_command(plan: FollowerPlan) -> tuple[str, ...]:
    """argv of the srun that starts a part. It holds no secret: those travel in the environment."""
    return (
        *("srun", *plan.srun_args, f"--nodelist={plan.node}"),
        *("env", f"{tree.MARKER}={plan.marker}"),
        *keeper_command(keeper.STDIN, plan.grace_s, plan.cache_dir),
        *(check_command(plan.free_gpu_memory) if plan.free_gpu_memory else ()),
        *plan.argv,
    )


def step_environment(env: Mapping[str, str]) -> dict[str, str]:
    """`env` without what Slurm has set for the step on the first node: for srun and what it starts.

    GPUs are Slurm's to name on each node; where it names none, what the site or the recipe says holds
    for all nodes.
    """
    by_slurm = "SLURM_JOB_GPUS" in env or "SLURM_STEP_GPUS" in env
    hidden = DEVICES if by_slurm else ()
    return {k: v for k, v in env.items() if not STEP_VARIABLES.fullmatch(k) and k not in hidden}


def start_follower(plan: FollowerPlan, env: Mapping[str, str], log_path: Path) -> Follower:
    """Start a part. `env` holds the marker of srun. Raises ServingError where there is no srun."""
    try:
        process, log_start = launch(follower_command(plan), env, log_path, stdin=subprocess.PIPE)
    except FileNotFoundError as error:
        raise ServingError(
            "a replica of several nodes needs srun, which is not on PATH where the worker runs",
            hint="In a container, mount Slurm's client programs, its configuration and munge's "
            "socket; or run the worker outside and put the container into cluster.server_prefix.",
        ) from error
    return Follower(process, env[tree.MARKER], log_path, log_start)
