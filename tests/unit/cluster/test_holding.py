"""GPUs that an attempt holds, by the variables of every maker."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evalkit.cluster.holding import held_gpus
from evalkit.cluster.job import current_job


@pytest.mark.parametrize(
    ("env", "held"),
    [
        ({"ROCR_VISIBLE_DEVICES": "0,1"}, 4),
        ({"HIP_VISIBLE_DEVICES": "0"}, 2),
        ({"GPU_DEVICE_ORDINAL": "0,1,2"}, 6),
        ({"ROCR_VISIBLE_DEVICES": ""}, 0),
        ({}, 0),
    ],
)
def test_gpus_of_other_makers(env: dict[str, str], held: int) -> None:
    """Where Slurm does not set CUDA's variable, it sets another; on all nodes of the replica."""
    job = replace(current_job(), gpus=None, nodes=("n1", "n2"))
    assert held_gpus(job, 8, {"PATH": "", **env}) == held
    assert held_gpus(replace(job, gpus="0"), 8, {"PATH": "", **env}) == 2, "CUDA's own goes first"
