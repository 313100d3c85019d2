"""submitit's parameters from a site's settings."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from evalkit.cluster.executor import make_executor
from evalkit.cluster.parameters import (
    JobShape,
    render_gather_parameters,
    render_parameters,
    render_python,
    replica_gpus,
    serving_gpus,
)
from evalkit.errors import ClusterError
from evalkit.recipe.serving import CommandServing, ExternalServing, VllmServing
from tests.unit.cluster.builders import make_cluster, make_plan

ROOT = Path("/data/runs/demo")
SHAPE = JobShape("evalkit-demo-808d8c9a", 4, ROOT)


def parameters(gpus: int = 4, **changes: Any) -> dict[str, Any]:
    return render_parameters(make_cluster(**changes), JobShape(SHAPE.name, gpus, ROOT))


def extra(**sbatch: Any) -> dict[str, Any]:
    return parameters(sbatch=sbatch)["additional_parameters"]


def test_defaults_ask_for_requeue_and_whole_minutes() -> None:
    """What submitit's signal handler and preemption need is always there."""
    found = parameters()
    assert found["time"] == 240
    assert isinstance(found["time"], int)
    assert found["signal_delay_s"] == 180
    assert found["stderr_to_stdout"] is True
    assert found["job_name"] == SHAPE.name
    assert found["additional_parameters"] == {"requeue": True, "signal": "USR2@180"}
    assert found["wckey"] is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"gres": "gpu:4"}),
        ({"gpu_type": "h100"}, {"gres": "gpu:h100:4"}),
        ({"gpu_request": "gpus_per_node"}, {"gpus_per_node": "4"}),
        ({"gpu_request": "gpus_per_node", "gpu_type": "a100"}, {"gpus_per_node": "a100:4"}),
        ({"gpu_request": "none"}, {}),
        ({"nodes": 2}, {"gres": "gpu:2"}),
    ],
)
def test_gpu_requests(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    """GPUs are asked for per node, in the site's way."""
    found = parameters(**changes)
    assert {k: v for k, v in found.items() if k in ("gres", "gpus_per_node")} == expected


def test_no_gpu_no_request() -> None:
    """A hosted endpoint asks for no GPU at all."""
    assert not {"gres", "gpus_per_node"} & set(parameters(gpus=0))


def test_gpus_that_nodes_do_not_divide_are_refused() -> None:
    """Uneven nodes are an error that names both keys."""
    with pytest.raises(ClusterError, match=r"3 GPUs .* cluster.nodes: 2"):
        parameters(gpus=3, nodes=2)


def test_one_worker_per_replica_and_cores_for_srun() -> None:
    """A replica of several nodes starts one worker; srun is told the cores that sbatch got."""
    found = parameters(nodes=2, cpus_per_task=8, srun_args=["--mpi=none"])
    expected = ["--export=ALL", "--nodes=1", "--ntasks=1", "--cpus-per-task=8", "--mpi=none"]
    assert found["srun_args"] == expected


def test_srun_hands_on_the_environment_that_sbatch_was_told_not_to() -> None:
    """`export: NONE` is for what sbatch was typed in: the script's own variables reach worker and gather."""
    for found in (
        parameters(sbatch={"export": "NONE"}),
        render_gather_parameters(make_cluster(gather={"export": "NONE"}), "name", ["1"]),
    ):
        assert found["additional_parameters"]["export"] == "NONE"
        assert found["srun_args"] == ["--export=ALL"]


def test_the_signal_is_evalkits_whatever_submitits_variable_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """submitit takes its signal from a variable; a job that was warned with it would not drain."""
    monkeypatch.setattr("submitit.slurm.slurm.SlurmJobEnvironment.USR_SIG", "USR1")
    gather = render_gather_parameters(make_cluster(), "name", ["1"])
    for found, warned in ((parameters(), "USR2@180"), (gather, "USR2@90")):
        executor = make_executor(tmp_path, make_cluster(), found)
        text = executor._make_submission_file_text(executor._submitit_command_str, "")
        assert f"#SBATCH --signal={warned}\n" in text
        assert "USR1" not in text
        before, _, _ = text.partition("# command")
        assert before.rstrip().endswith("unset SUBMITIT_PREEMPT_SIGNAL")


def test_a_worker_that_cannot_ask_is_told_kill_wait() -> None:
    """The site's KillWait travels with the job, where the submit knows it."""
    shape = JobShape("name", 0, ROOT, 5.0)
    assert "export EVALKIT_KILL_WAIT_S=5" in render_parameters(make_cluster(), shape)["setup"]
    assert not any("KILL_WAIT" in line for line in parameters()["setup"])


def test_setup_lines_come_before_variables() -> None:
    """The recipe's variables win over what modules set, and are quoted."""
    found = parameters(setup=["module load x"], env={"A": "b 'c"})
    assert found["setup"] == [
        "trap : TERM",
        "module load x",
        "export PYTHONUNBUFFERED=1",
        f"export A={shlex.quote(chr(98) + ' ' + chr(39) + 'c')}",
        "unset SUBMITIT_PREEMPT_SIGNAL",
    ]


@pytest.mark.parametrize("key", ["partition", "--partition"])
def test_free_options_win(key: str) -> None:
    """An option in `sbatch` replaces the key of the same meaning instead of standing beside it."""
    found = parameters(partition="low", sbatch={key: "high"})
    assert "partition" not in found
    assert found["additional_parameters"]["partition"] == "high"


@pytest.mark.parametrize("key", ["gpus-per-node", "gpus_per_node"])
def test_free_options_win_under_any_spelling(key: str) -> None:
    """Dashes and underscores are the same option."""
    found = parameters(gpu_request="gpus_per_node", sbatch={key: "a100:1"})
    assert "gpus_per_node" not in found
    assert found["additional_parameters"]["gpus-per-node"] == "a100:1"


def test_options_can_be_left_out() -> None:
    """null and false remove what would be set; no-requeue removes requeue."""
    signal = {"signal": "USR2@180"}
    assert extra(requeue=None) == signal
    assert extra(requeue=False) == signal
    assert extra(**{"no-requeue": True}) == {"no-requeue": True, **signal}
    assert "mem" not in parameters(mem="4GB", sbatch={"mem": None})


@pytest.mark.parametrize("key", ["time", "array", "output", "job-name", "job_name", "signal"])
def test_evalkits_own_options_are_refused(key: str) -> None:
    """Options that evalkit relies on name the key to use instead."""
    with pytest.raises(ClusterError, match=f"cluster.sbatch.{key} is set by evalkit") as caught:
        extra(**{key: 1})
    assert "Use instead" in (caught.value.hint or "")


def test_a_drain_must_fit_into_the_limit() -> None:
    """A signal before the start is refused, with what to change."""
    with pytest.raises(ClusterError, match="leaves nothing") as caught:
        parameters(time_min=3, signal_delay_s=180)
    assert "time_min" in (caught.value.hint or "")


def test_gather_runs_on_cpu_where_the_site_says() -> None:
    """The gather has its own options, and none of the GPUs, nodes or cores of a replica."""
    cluster = make_cluster(
        nodes=4, partition="gpu", account="a1", gather={"partition": "cpu", "time": 7}
    )
    found = render_gather_parameters(cluster, "name", ["11", "12"])
    assert found["dependency"] == "afterany:11:12"
    assert (found["time"], found["nodes"], found["account"]) == (7, 1, "a1")
    assert found["additional_parameters"] == {
        "requeue": True,
        "kill-on-invalid-dep": "yes",
        "signal": "USR2@90",
        "partition": "cpu",
    }
    assert not {"gres", "gpus_per_node", "partition", "constraint"} & set(found)


@pytest.mark.parametrize("time", ["1:00:00", True, 0, None])
def test_gather_time_is_minutes(time: Any) -> None:
    """Slurm's own spelling of a time is refused: submitit computes with minutes."""
    with pytest.raises(ClusterError, match=r"cluster\.gather\.time"):
        render_gather_parameters(make_cluster(gather={"time": time}), "name", ["1"])


@pytest.mark.parametrize(
    ("serving", "gpus"),
    [
        (VllmServing(), 1),
        (VllmServing(tensor_parallel_size=4, pipeline_parallel_size=2, data_parallel_size=3), 24),
        (VllmServing(tensor_parallel_size=4, gpus=8), 8),
        (VllmServing(gpus=0), 0),
        (CommandServing(kind="command", command=("serve",)), 1),
        (CommandServing(kind="command", command=("serve",), gpus=2), 2),
        (ExternalServing(kind="external", base_url="http://x/v1"), 0),
    ],
)
def test_gpus_of_a_deployment(serving: Any, gpus: int) -> None:
    """What a server needs follows from its parallel sizes, unless the recipe says it."""
    assert serving_gpus(serving) == gpus
    assert replica_gpus(make_plan(serving=serving)) == gpus


def test_python_is_quoted() -> None:
    """A path with spaces and a command with arguments both survive the shell."""
    assert render_python(make_cluster()) == shlex.quote(sys.executable)
    assert render_python(make_cluster(python="'/a b/python'")) == "'/a b/python'"
    assert render_python(make_cluster(python="apptainer exec x.sif python3")) == (
        "apptainer exec x.sif python3"
    )


def test_submitit_takes_every_parameter(tmp_path: Any) -> None:
    """submitit validates the parameters by rendering them; a wrong one is a ClusterError."""
    executor = make_executor(tmp_path, make_cluster(), parameters(qos="q", constraint="c"))
    assert executor.parameters["qos"] == "q"
    with pytest.raises(ClusterError, match="submitit refused"):
        make_executor(tmp_path, make_cluster(), {"speed": 1})
