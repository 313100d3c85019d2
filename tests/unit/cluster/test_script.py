"""Batch scripts: whole texts against golden files, and as shell over the matrix of options."""

from __future__ import annotations

import itertools
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from evalkit.cluster.executor import DEAF
from evalkit.cluster.script import REPLICAS_JOB_ID, render_scripts, split_replicas
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


@pytest.mark.parametrize(
    ("code", "element", "requeued"),
    [
        (0, "", ""),
        (1, "", ""),
        (143, "4", ""),
        (85, "", "12"),
        (85, "4", "10_4"),
        (85, "0", "10_0"),
    ],
)
def test_the_batch_script_requeues_for_a_worker_that_cannot(
    code: int, element: str, requeued: str, tmp_path: Path
) -> None:
    """Only the worker's code for it makes the script requeue its job; the code stays the job's."""
    text = texts(make_cluster(python="work"))[0]
    (tmp_path / "script.sh").write_text(text)
    for name, line in (("srun", f"exit {code}"), ("scontrol", 'echo "$@" >&2')):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "12"}
    if element:
        env |= {"SLURM_ARRAY_JOB_ID": "10", "SLURM_ARRAY_TASK_ID": element}
    argv = ["bash", str(tmp_path / "script.sh")]
    ended = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == code
    assert ended.stderr == (f"requeue incomplete {requeued}\n" if requeued else "")


def test_the_batch_script_asks_a_slow_controller_again(tmp_path: Path) -> None:
    """A requeue that fails is tried three times in all, and the worker's code stays the job's."""
    (tmp_path / "script.sh").write_text(texts(make_cluster(python="work"))[0])
    for name, line in (
        ("srun", "exit 85"),
        ("scontrol", 'echo "$@" >&2; exit 1'),
        ("sleep", 'echo "pause $1" >&2'),
    ):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "12"}
    argv = ["bash", str(tmp_path / "script.sh")]
    ended = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 85
    asked = "requeue incomplete 12"
    assert ended.stderr.splitlines() == [asked, "pause 2", asked, "pause 8", asked, "pause 0"]


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


def test_the_gather_waits_for_all_replicas() -> None:
    """It starts after any end of the replicas, and is ended when it can never start."""
    gather = texts(make_cluster(replicas=2))[1]
    assert f"#SBATCH --dependency=afterany:{REPLICAS_JOB_ID}\n" in gather
    assert "#SBATCH --kill-on-invalid-dep=yes\n" in gather
    assert "gpu" not in gather
