"""Batch scripts: whole texts against golden files, and as shell over the matrix of options."""

from __future__ import annotations

import itertools
import os
import shlex
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.cluster.batch import DEAF, ENDED_CODE, REQUEUE_CODE, TERMINATED
from evalkit.cluster.deaths import deaths_file, read_deaths
from evalkit.cluster.script import (
    REPLICAS_JOB_ID,
    render_scripts,
    share_parallelism,
    split_replicas,
)
from evalkit.errors import ClusterError
from evalkit.recipe.serving import VllmServing
from evalkit.recipe.template import load_template
from evalkit.shipped import shipped_templates
from evalkit.store.layout import RunFolder
from tests.unit.cluster.builders import make_cluster, make_plan

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "cluster"
FOLDER = RunFolder(Path("/data/runs/demo"))
PYTHON = "/data/venv/bin/python"
HOSTILE = ["a_0", "a 0", 'a"=0"', "a'; echo foo", "$(touch x)", "`id`", "a&b|c;d", "é-ü"]


def texts(cluster: Any, *, gpus: int = 4, folder: RunFolder = FOLDER) -> list[str]:
    plan = make_plan(serving=VllmServing(gpus=gpus))
    return [s.text for s in render_scripts(folder, plan, cluster, max_array_size=1001)]


def check_shell(text: str, path: Path) -> None:
    path.write_text(text)
    parsed = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert parsed.returncode == 0, parsed.stderr
    # SC1091: files to source are on the cluster; SC2016: values are meant literally
    linted = subprocess.run(
        ["shellcheck", "-e", "SC1091,SC2016", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize("template", sorted(set(shipped_templates()) - {"local"}))
def test_scripts_of_shipped_templates_are_golden(template: str, tmp_path: Path) -> None:
    """Each shipped template gives exactly the scripts on file, and they are clean shell."""
    cluster = make_cluster(
        **{k: v for k, v in load_template(template).items() if k != "description"},
    )
    cluster = cluster.model_copy(update={"python": cluster.python or PYTHON})
    for name, text in zip(("replicas", "gather"), texts(cluster), strict=True):
        golden = GOLDEN / f"{template}.{name}.sh"
        assert text == golden.read_text(), f"{golden} differs"
        check_shell(text, tmp_path / "script.sh")


MATRIX: dict[str, list[Any]] = {
    "replicas": [1, 5],
    "gpu_request": ["gres", "gpus_per_node", "none"],
    "nodes": [1, 2],
    "cpus_per_task": [None, 8],
    "sbatch": [{}, {"exclusive": True, "comment": "it's", "wckey": None, "requeue": None}],
    "setup": [[], ["module load cuda || exit 1", "ulimit -n 65536 || true"]],
}


@pytest.mark.parametrize("values", list(itertools.product(*MATRIX.values())))
def test_every_combination_is_clean_shell(values: tuple[Any, ...], tmp_path: Path) -> None:
    """`bash -n` accepts what any combination of settings renders."""
    cluster = make_cluster(**dict(zip(MATRIX, values, strict=True)), env={"A": "b 'c' $d"})
    for text in texts(cluster):
        path = tmp_path / "script.sh"
        path.write_text(text)
        ended = subprocess.run(["bash", "-n", str(path)], capture_output=True, check=False)
        assert ended.returncode == 0, ended.stderr


def test_the_richest_combination_passes_shellcheck(tmp_path: Path) -> None:
    """Everything at once has nothing that shellcheck would warn of."""
    last = {key: values[-1] for key, values in MATRIX.items()}
    cluster = make_cluster(**last, env={"A": "b 'c' $d"}, gpu_type="h100", account="1234")
    for text in texts(cluster):
        check_shell(text, tmp_path / "script.sh")


@pytest.mark.parametrize("name", HOSTILE)
def test_paths_are_quoted(name: str, tmp_path: Path) -> None:
    """A run folder of any name arrives whole as the last argument of the command."""
    root = tmp_path / name
    text = texts(make_cluster(python=PYTHON), folder=RunFolder(root))[0]
    check_shell(text, tmp_path / "script.sh")
    command = next(line for line in text.splitlines() if line.startswith("srun"))
    shown = subprocess.run(
        ["bash", "-c", f"srun() {{ printf '%s\\0' \"$@\"; }}\n{command}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split("\0")[-2] == str(root / "cluster")


@pytest.mark.parametrize("name", ["a%j", "a\\b", "a\nb"])
def test_paths_that_sbatch_would_change_are_refused(name: str) -> None:
    """A path that sbatch would expand is an error that names it, before anything is submitted."""
    with pytest.raises(ClusterError, match="which sbatch interprets"):
        texts(make_cluster(), folder=RunFolder(Path("/runs") / name))


@dataclass(frozen=True)
class Node:
    """Where a batch script runs: its programs are stand-ins that say what they were asked."""

    dir: Path
    folder: RunFolder

    def put(self, name: str, line: str) -> None:
        """A program of this name."""
        program = self.dir / name
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)

    def script(self, **changes: Any) -> list[str]:
        """argv of the batch script of replicas."""
        path = self.dir / "script.sh"
        path.write_text(texts(make_cluster(python="work", **changes), folder=self.folder)[0])
        return ["bash", str(path)]

    def env(self, element: str = "", restarts: int = 0) -> dict[str, str]:
        """What Slurm sets."""
        env = {"PATH": f"{self.dir}:/usr/bin:/bin", "SLURM_JOB_ID": "12", "SLURMD_NODENAME": "n1"}
        if restarts:
            env["SLURM_RESTART_COUNT"] = str(restarts)
        if element:
            env |= {"SLURM_ARRAY_JOB_ID": "10", "SLURM_ARRAY_TASK_ID": element}
        return env

    def run(self, code: int, element: str = "", restarts: int = 0, **changes: Any) -> list[str]:
        """What the programs said after a worker that ended so; the code stays the job's."""
        self.put("srun", f"exit {code}")
        ended = subprocess.run(
            self.script(**changes),
            env=self.env(element, restarts),
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == code
        return ended.stderr.splitlines()


SILENT = 'case "$*" in -o*) exit 1;; esac; echo "$@" >&2'


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node with a Slurm that takes every order, and no evalkit."""
    found = Node(tmp_path, RunFolder(tmp_path / "it's" / "demo"))
    found.folder.cluster.mkdir(parents=True)
    found.put("scontrol", SILENT)
    return found


@pytest.mark.parametrize(
    ("code", "element", "requeued"),
    [
        (0, "", ""),
        (ENDED_CODE, "", ""),
        (TERMINATED, "4", ""),
        (REQUEUE_CODE, "", "12"),
        (REQUEUE_CODE, "4", "10_4"),
        (REQUEUE_CODE, "0", "10_0"),
    ],
)
def test_a_code_that_a_worker_chose_is_obeyed(
    code: int, element: str, requeued: str, node: Node
) -> None:
    """Only the worker's code for it makes the script requeue its job; nothing else is asked."""
    assert node.run(code, element) == ([f"requeue incomplete {requeued}"] if requeued else [])


def test_the_batch_script_asks_a_slow_controller_again(node: Node) -> None:
    """A requeue that fails is tried three times in all."""
    node.put("scontrol", f"{SILENT}; exit 1")
    node.put("sleep", 'echo "pause $1" >&2')
    asked = "requeue incomplete 12"
    expected = [asked, "pause 2", asked, "pause 8", asked, "pause 0"]
    assert node.run(REQUEUE_CODE) == expected


def test_a_job_at_its_time_limit_is_meant(node: Node) -> None:
    """Slurm does nothing about a job that ends when it is asked for incomplete ones, and calls it done."""
    job = "JobId=12 JobState=COMPLETING Reason=TimeLimit Requeue=1"
    node.put("scontrol", f'case "$*" in -o*) echo "{job}";; *) echo "$@" >&2;; esac')
    assert node.run(REQUEUE_CODE) == ["requeue 12"]


@pytest.mark.parametrize(
    ("verdict", "orders"),
    [(TERMINATED, []), (ENDED_CODE, []), (REQUEUE_CODE, ["requeue incomplete 10_4"])],
)
@pytest.mark.parametrize("code", [1, 127, 137, 139])
def test_a_code_of_nobodys_choice_is_decided_in_python(
    code: int, verdict: int, orders: list[str], node: Node
) -> None:
    """evalkit is asked on the node, with folder and code, and the script does what it says."""
    node.put("work", f'shift; echo "$@" >&2; exit {verdict}')
    asked = f"evalkit.cluster.aftermath {node.folder.root} {code}"
    assert node.run(code, "4") == [asked, *orders]
    assert not deaths_file(node.folder, "10_4").exists()


def test_where_python_does_not_run_the_script_goes_on_alone(node: Node) -> None:
    """So often as failures are allowed, each with a line; then the job just ends."""
    node.put("work", "exit 127")
    orders = [node.run(127, "4", restarts, max_failures=2) for restarts in range(4)]
    assert orders == [["requeue incomplete 10_4"]] * 2 + [[]] * 2
    found = read_deaths(node.folder)
    assert [(d.job_id, d.restart_count, d.code, d.node) for d in found] == [
        ("10_4", restarts, 127, "n1") for restarts in range(4)
    ]


def test_where_nothing_can_be_written_slurms_count_is_the_limit(node: Node) -> None:
    """Without a line, a job that was requeued as often as failures are allowed is not any more."""
    node.put("work", "exit 1")
    node.folder.cluster.rmdir()
    assert node.run(1, restarts=1, max_failures=2)[-1] == "requeue incomplete 12"
    assert "requeue" not in "".join(node.run(1, restarts=2, max_failures=2))


def test_no_failure_is_tried_again_where_none_may_be(node: Node) -> None:
    """`max_failures: 0` ends the job at once."""
    node.put("work", "exit 1")
    assert node.run(1, max_failures=0) == []


def test_bash_outlives_a_termination(node: Node) -> None:
    """A TERM of the batch step leaves bash waiting for its srun, which hears it, and doing the rest."""
    node.put("srun", f"trap 'exit {REQUEUE_CODE}' TERM; echo ready; while :; do sleep 0.05; done")
    argv = node.script()
    with subprocess.Popen(
        argv,
        env=node.env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()  # bash alone, as with proctrack/cgroup
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        os.killpg(process.pid, signal.SIGTERM)  # all, as with proctrack/linuxproc
        assert process.stderr.read().splitlines()[-1] == "requeue incomplete 12"
        assert process.wait(60) == REQUEUE_CODE


def test_signals_are_ignored_until_python_takes_them() -> None:
    """A TERM or USR2 while the interpreter loads does not end the job."""
    command = f"{shlex.join(DEAF)} bash -c 'kill -TERM $$; kill -USR2 $$; echo alive'"
    shown = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert shown.stdout == "alive\n"
    assert any(shlex.join(DEAF) in line for line in texts(make_cluster())[0].splitlines())


def test_arrays_are_cut_at_the_sites_limit() -> None:
    """No array is larger than MaxArraySize, and no replica is lost or doubled."""
    parts = split_replicas(25, 10)
    assert [len(part) for part in parts] == [10, 10, 5]
    assert [index for part in parts for index in part] == list(range(25))
    plan = make_plan()
    scripts = render_scripts(FOLDER, plan, make_cluster(replicas=11), max_array_size=10)
    assert [s.title for s in scripts] == ["replicas r0 to r9", "replica r10", "gather"]
    assert "--array=0-9%10" in scripts[0].text
    assert "--array" not in scripts[1].text


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 12))
def test_arrays_share_what_may_run_at_once(replicas: int, size: int, most: int) -> None:
    """Arrays that a limit is cut into run no more elements together than it allows, and none is stuck."""
    parts = split_replicas(replicas, size)
    shares = share_parallelism(min(most, replicas), parts)
    assert all(1 <= share <= len(part) for share, part in zip(shares, parts, strict=True))
    assert sum(shares) <= max(min(most, replicas), len(parts))
    if most >= replicas:
        assert shares == [len(part) for part in parts]


def test_the_gather_waits_for_all_replicas() -> None:
    """It starts after any end of the replicas, and is ended when it can never start."""
    gather = texts(make_cluster(replicas=2))[1]
    assert f"#SBATCH --dependency=afterany:{REPLICAS_JOB_ID}\n" in gather
    assert "#SBATCH --kill-on-invalid-dep=yes\n" in gather
    assert "gpu" not in gather
