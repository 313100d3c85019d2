"""What the job behind the replicas is given, by what it has to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from evalkit.cluster.parameters import GatherShape, render_gather_parameters
from evalkit.recipe.schema import Cluster
from evalkit.recipe.serving import ExternalServing, VllmServing

if TYPE_CHECKING:
    from collections.abc import Mapping

GRADES = GatherShape(runs_programs=True)
JUDGES = GatherShape(asks_judge=True)
SERVES = GatherShape(asks_judge=True, judge_gpus=2)


def rendered(shape: GatherShape, after: tuple[str, ...] = ("7",), **cluster: Any) -> dict[str, Any]:
    """Parameters of the gather."""
    return render_gather_parameters(Cluster(**cluster), "name", list(after), shape)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (GatherShape(), {"time": 120, "cpus_per_task": 1, "mem": "2GB"}),
        (GRADES, {"time": 720, "cpus_per_task": 8, "mem": "32GB"}),
        (JUDGES, {"time": 720, "cpus_per_task": 1, "mem": "2GB"}),
    ],
)
def test_time_and_size(shape: GatherShape, expected: Mapping[str, Any]) -> None:
    """A plain gather is small; programs get cores and memory; no GPU for any of them."""
    found = rendered(shape, time_min=2000)
    assert {key: found[key] for key in expected} == expected
    assert "gpus_per_node" not in found


def test_no_longer_than_replicas() -> None:
    """Where jobs of replicas may last so long, a grading may, too."""
    assert rendered(GRADES, time_min=240)["time"] == 240
    assert rendered(GRADES, time_min=30)["time"] == 120


def test_steps_get_the_cores_of_their_job() -> None:
    """srun does not take over what sbatch was told, so both are told."""
    assert "--cpus-per-task=8" in rendered(GRADES)["srun_args"]
    assert "--cpus-per-task=2" in rendered(GRADES, gather={"cpus-per-task": 2})["srun_args"]
    assert not any("cpus" in word for word in rendered(GatherShape())["srun_args"])


def test_site_decides() -> None:
    """What `cluster.gather` says stands."""
    found = rendered(GRADES, gather={"time": 30, "cpus-per-task": 2, "mem": "4GB"})
    assert found["time"] == 30
    assert found["additional_parameters"]["cpus-per-task"] == 2
    assert "cpus_per_task" not in found


def test_judge_of_ours_gets_gpus() -> None:
    """As many as it needs, on one node, with the memory of a replica."""
    found = rendered(SERVES, nodes=2, mem="64GB", cpus_per_task=12, gpu_request="gpus_per_node")
    assert (found["gpus_per_node"], found["nodes"]) == ("2", 1)
    assert (found["mem"], found["cpus_per_task"]) == ("64GB", 12)
    both = GatherShape(runs_programs=True, asks_judge=True, judge_gpus=2)
    found = rendered(both, gpu_request="gpus_per_node", constraint="big", exclude="n1")
    assert (found["mem"], found["cpus_per_task"]) == ("32GB", 8)
    assert (found["constraint"], found["exclude"]) == ("big", "n1")


def test_nothing_to_wait_for() -> None:
    """Where all answers are there, the gather depends on no job."""
    assert "dependency" not in rendered(GRADES, after=())
    assert rendered(GRADES)["dependency"] == "afterany:7"


@pytest.mark.parametrize(
    ("serving", "gpus"),
    [
        (VllmServing(tensor_parallel_size=2), 2),
        (ExternalServing(kind="external", base_url="http://x/v1"), 0),
    ],
)
def test_shape_of_a_plan(serving: Any, gpus: int) -> None:
    """From the graders of its tasks and the servers of its judges."""
    from evalkit.plan.build import plan_deployment, plan_judge
    from evalkit.plan.model import ModelIdentity
    from evalkit.recipe.schema import Generation
    from tests.builders import make_plan

    plan = make_plan()
    assert GatherShape.of(plan) == GatherShape()
    judge = plan_judge(
        ModelIdentity(name="j", source="j"),
        plan_deployment(serving, "j", "j", revision=None),
        Generation(),
        parallelism=4,
        is_hub=False,
    )
    task = plan.tasks[0].model_copy(update={"benchmark": "hle", "judge": judge})
    judged = plan.model_copy(update={"tasks": (task,)})
    assert GatherShape.of(judged) == GatherShape(asks_judge=True, judge_gpus=gpus)
