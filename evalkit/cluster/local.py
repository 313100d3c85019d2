"""Replicas as background processes of this machine, through submitit's local executor.

submitit starts a controller per job that stays in the terminal's process group, so Ctrl-C in a
watching command would end the run; hands every job the same first GPUs, or none; and shell `setup`
lines break its idea of its own process id where the shell replaces itself by the last command. Here
a controller has a session of its own, its replica's GPUs, and the process id that was recorded.
Nothing here limits memory or cores.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submitit import LocalExecutor
from submitit.local.local import LocalJob

from evalkit.cluster import env as environment
from evalkit.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_detached: list[subprocess.Popen[bytes]] = []
"""Controllers we started: they outlive us on purpose, which Python would report as a leak."""


class DetachedExecutor(LocalExecutor):
    """submitit's local executor; parameters: timeout_min, signal_delay_s, setup, cuda_devices."""

    def _submit_command(self, command: str) -> LocalJob[Any]:
        given = self.parameters
        variables = {
            "SUBMITIT_LOCAL_NTASKS": "1",
            "SUBMITIT_LOCAL_COMMAND": command,
            "SUBMITIT_LOCAL_TIMEOUT_S": str(60 * given["timeout_min"]),
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": str(given["signal_delay_s"]),
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_STDERR_TO_STDOUT": "1",
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_WITH_SHELL": "",
            "CUDA_VISIBLE_DEVICES": given["cuda_devices"],
        }
        controller = [sys.executable, "-m", "submitit.local._local", str(self.folder)]
        script = "\n".join([*given["setup"], f"exec {shlex.join(controller)}"])
        with (Path(self.folder) / "local.log").open("ab") as log:
            process = subprocess.Popen(
                ["bash", "-c", script],
                env={**environment.read_environment(), **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _detached.append(process)
        return LocalJob(folder=self.folder, job_id=str(process.pid), process=process, tasks=[0])


def visible_gpus(env: Mapping[str, str], devices: Path = Path("/dev")) -> list[str]:
    """GPUs that replicas may use: those of CUDA_VISIBLE_DEVICES, or all of the machine."""
    named = env.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip() not in ("", "-1")]
    numbers = [re.fullmatch(r"nvidia(\d+)", path.name) for path in devices.glob("nvidia*")]
    return [str(number) for number in sorted(int(found[1]) for found in numbers if found)]


def assign_gpus(gpus: list[str], replicas: int, each: int, held: Collection[str] = ()) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each replica. Raises ClusterError when there are too few GPUs.

    `held` are those of replicas that run. A machine without any GPU gets "": servers there are CPU
    builds.
    """
    if not gpus or each == 0:
        return [""] * replicas
    free = [gpu for gpu in gpus if gpu not in held]
    if len(free) < replicas * each:
        taken = f" {len(gpus)}, of which {len(free)} are free" if held else f" {len(gpus)}"
        raise ClusterError(
            f"{replicas} replicas of {each} GPUs need {replicas * each}; here are{taken}",
            hint="Lower cluster.replicas or serving.gpus, or use a template with executor: slurm.",
        )
    return [",".join(free[i * each : (i + 1) * each]) for i in range(replicas)]
