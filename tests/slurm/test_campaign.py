"""A short campaign on a real Slurm: what preempts, kills and cancels jobs changes no result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.campaign.real import OPTIONS, play_real
from tests.faults.campaign.report import render_report
from tests.faults.campaign.slurm_faults import SLURM_CATALOGUE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.slurm.conftest import SlurmCluster

SEED = 5
FEW = [
    "slurm: preempted by an urgent job",
    "server: kill -9",
    "worker: SIGKILL, resume",
    "slurm: node dies",
]
"""The others have tests of their own with a real worker: cancel, requeue, warning, late replicas."""
ALL = [fault.name for fault in SLURM_CATALOGUE.values() if not fault.slow]


@pytest.mark.long  # test_requeue has preemption, killed workers and dead nodes one by one
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kinds", [pytest.param(FEW, id="few"), pytest.param(ALL, id="all")])
def test_faults_of_slurm(
    launch_cluster: Callable[..., SlurmCluster], tmp_path: Path, kinds: list[str]
) -> None:
    """Some, or all but the two slow ones: artifacts as undisturbed, nothing finished paid twice."""
    cluster = launch_cluster(*OPTIONS)
    outcomes = play_real(cluster, tmp_path, "fault server", kinds, SEED, print)
    played = [fault.kind for outcome in outcomes for fault in outcome.injected]
    assert sorted(played) == sorted(kinds)
    assert sum(outcome.bill.continued_calls for outcome in outcomes) > 0
    print(render_report(outcomes, 0.0))


@pytest.mark.vllm
@pytest.mark.timeout(900)
@pytest.mark.long
def test_a_preempted_vllm(launch_cluster: Callable[..., SlurmCluster], tmp_path: Path) -> None:
    """Long generations of a real vLLM, preempted: continued to the byte, with tokens saved."""
    cluster = launch_cluster(*OPTIONS)
    kinds = ["slurm: preempted by an urgent job"]
    (outcome,) = play_real(cluster, tmp_path, "vllm", kinds, SEED, print)
    assert outcome.run_counts["continued"] > 0
    assert outcome.run_counts["saved"] > 0
