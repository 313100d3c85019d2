"""Exports, lists and descriptions of runs from the command line."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from evalkit.clock import SYSTEM_CLOCK
from evalkit.cluster.attempts import AttemptRecord, write_attempt
from evalkit.cluster.replica_report import ReplicaReport
from evalkit.store.layout import RunFolder
from evalkit.store.publish import publish
from evalkit.store.run import load_plan
from tests.builders import answer_all

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.cli.conftest import Shell


@pytest.fixture
def registry(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of this test's runs."""
    path = shell.folder / "data" / "runs.jsonl"
    monkeypatch.setenv("EVALKIT_REGISTRY", str(path))
    return path


@pytest.fixture
def run(shell: Shell, registry: Path) -> RunFolder:
    """A gathered run in `elsewhere`, which no command looks into by itself."""
    typed = ("-o", "output.dir=elsewhere", "-o", "addition.repeats=2")
    assert shell("prepare", "recipe.yaml", *typed).code == 0
    folder = RunFolder(shell.folder / "elsewhere" / "test")
    answer_all(folder)
    assert shell("gather", str(folder.root)).code == 0
    return folder


def listed(shell: Shell, *arguments: str) -> list[dict[str, Any]]:
    """The runs of a list."""
    found: list[dict[str, Any]] = orjson.loads(shell("ls", "runs", "--json", *arguments).out)
    return found


def test_export(shell: Shell, run: RunFolder) -> None:
    """Found by its name from anywhere; stdout names the files, and --json says what they are of."""
    said = shell("export", "test", "--to", "csv")
    assert said.code == 0
    assert said.out.splitlines() == [
        f"{run.root}/exports/csv/metrics.csv",
        f"{run.root}/exports/csv/addition.csv",
    ]
    [document] = orjson.loads(shell("export", "test", "--to", "nemo", "--json").out)
    assert (document["to"], document["complete"]) == ("nemo", True)
    said = shell("export", "test", "--to", "csv", "--offline")
    assert (said.code, said.err) == (
        2,
        "error: --offline has no effect on an export to csv\nOptions of csv: --dest.\n",
    )


def test_export_of_another_profile(shell: Shell, run: RunFolder) -> None:
    """Its results beside the run's own, under an id of their own; without them it says what makes them."""
    said = shell("export", "test", "--to", "nemo", "--profile", "fixed")
    assert (said.code, f"evalkit score {run.root} --profile fixed" in said.err) == (5, True)
    assert shell("score", "test", "--profile", "fixed").code == 0
    [found] = orjson.loads(shell("export", "test", "--to", "csv", "--profile=fixed", "--json").out)
    assert found["run_id"] == load_plan(run).run_id + "-fixed"
    assert {path.rsplit("/", 2)[1] for path in found["places"]} == {"csv-fixed"}


def test_export_of_an_incomplete_run(shell: Shell, run: RunFolder) -> None:
    """Code 10 and no file; --allow-partial exports it and says so."""
    shutil.rmtree(run.artifacts())
    next(run.root.glob("journal/addition/*/*.jsonl")).unlink()
    shell("gather", str(run.root))
    said = shell("export", "test", "--to", "csv")
    assert said.code == 10
    assert "addition: partial: " in said.err
    assert not run.exports("csv").exists()
    said = shell("export", "test", "--to", "csv", "--allow-partial")
    assert said.code == 0
    assert "addition is exported as partial: " in said.err
    assert run.exports("csv").joinpath("addition.partial.csv").is_file()


def test_runs_are_listed_from_anywhere(shell: Shell, run: RunFolder) -> None:
    """With state, tasks, scores and time; --output shows one folder's alone."""
    shell("prepare", "recipe.yaml", "-o", "output.name=here")
    here, elsewhere = listed(shell)
    assert (here["run"], here["state"], here["tasks_done"]) == ("here", "prepared", 0)
    assert (elsewhere["run"], elsewhere["state"]) == ("test", "complete")
    assert (elsewhere["tasks"], elsewhere["tasks_done"]) == (1, 1)
    assert elsewhere["headlines"] == {"addition": 100.0}
    assert elsewhere["path"] == str(run.root)
    assert elsewhere["created"].endswith("+00:00")
    assert [each["run"] for each in listed(shell, "--output", "runs")] == ["here"]
    both = listed(shell, "--output", "runs", "--output", "elsewhere")
    assert [each["run"] for each in both] == ["here", "test"]
    assert "addition 100.00" in shell("ls", "runs").out
    assert "no such folder" in shell("ls", "runs", "--output", "nowhere").err
    (shell.folder / "empty").mkdir()
    assert "no runs in" in shell("ls", "runs", "--output", "empty").out


def test_a_run_that_is_heard_is_running(shell: Shell, run: RunFolder) -> None:
    """A fresh heartbeat says so, an old one does not."""
    shutil.rmtree(run.artifacts())
    now = SYSTEM_CLOCK.wall()
    report = ReplicaReport("r0", 1, "host", 1, None, now, state="ready", heartbeat=now)
    publish(run.replica("r0"), report.render())
    assert listed(shell)[0]["state"] == "running"
    report.heartbeat = 1.0
    publish(run.replica("r0"), report.render())
    assert listed(shell)[0]["state"] == "started"


def test_a_run_that_is_gone(shell: Shell, run: RunFolder, registry: Path) -> None:
    """It stays in the list as such; who asks for it is told where it was."""
    before = registry.read_bytes()
    run_id = load_plan(run).run_id
    shutil.rmtree(run.root)
    [line] = listed(shell)
    assert (line["id"], line["state"], line["tasks"]) == (run_id, "gone", None)
    said = shell("status", run_id[:4])
    assert said.code == 2
    assert f"run '{run_id[:4]}' is no longer where it was: {run.root} on " in said.err
    assert registry.read_bytes() == before


def test_one_name_for_several_runs(shell: Shell, run: RunFolder) -> None:
    """Names of two folders are an error that lists both; the run in the output folder comes first."""
    shell("prepare", "recipe.yaml", "-o", "output.dir=third")
    said = shell("status", "test")
    assert said.code == 2
    assert "'test' means several runs: " in said.err
    assert str(run.root) in said.err
    shell("prepare", "recipe.yaml")
    [status] = orjson.loads(shell("status", "test", "--json").out)
    assert status["folder"] == str(shell.folder / "runs" / "test")


def test_a_sweep_is_found_by_its_name(shell: Shell, registry: Path) -> None:
    """All its runs, or one of them."""
    shell.write(models={"a": {"id": "x"}, "b": {"id": "y"}}, output={"dir": "elsewhere"})
    shell("prepare", "recipe.yaml")
    assert len(orjson.loads(shell("status", "test", "--json").out)) == 2
    assert [each["run"] for each in listed(shell)] == ["test/a", "test/b"]
    [status] = orjson.loads(shell("status", "test/b", "--json").out)
    assert status["folder"].endswith("elsewhere/test/b")


def test_a_registry_that_cannot_be_written(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is prepared all the same, with a warning."""
    monkeypatch.setenv("EVALKIT_REGISTRY", str(shell.folder / "recipe.yaml" / "runs.jsonl"))
    said = shell("prepare", "recipe.yaml")
    assert said.code == 0
    assert "warning: cannot note runs in " in said.err


def test_info_of_a_run(shell: Shell, run: RunFolder) -> None:
    """What was evaluated, how, what was typed or changed later, who worked on it, and its files."""
    record = AttemptRecord(
        "r0",
        1,
        "slurm",
        "12_0",
        0,
        "node1",
        ("node1",),
        4,
        100.0,
        200.0,
        160.0,
        end="done",
        units=8,
    )
    write_attempt(run, record)
    shell("prepare", "recipe.yaml", "-o", "output.dir=elsewhere", "-o", "addition.repeats=2",
          "-o", "client.parallelism=7")  # fmt: skip
    [about] = orjson.loads(shell("info", "test", "--json").out)
    [task] = about["tasks"]
    assert (about["state"], task["units"], task["results"]["headline"]["percent"]) == (
        "complete",
        8,
        100.0,
    )
    assert {each["key"] for each in task["differs_from_profile"]} == {"params.n", "repeats"}
    typed = {each["key"]: each["value"] for each in about["deviations"]["typed"]}
    assert typed["tasks.addition.repeats"] == 2
    assert about["deviations"]["execution"] == [
        {"key": "client.parallelism", "planned": 256, "now": 7}
    ]
    [attempt] = about["attempts"]
    assert (attempt["attempt"], attempt["wall_s"], attempt["gpus"]) == ("r0.a1", 60.0, 4)
    sizes = {each["path"]: each["bytes"] for each in about["files"]["artifacts"]}
    name = "artifacts/addition/results.json"
    assert sizes[name] == (run.root / name).stat().st_size
    assert about["files"]["folders"]["journal"]["files"] == len(
        list(run.root.rglob("journal/*/*/*"))
    )
    said = shell("info", "test")
    assert said.code == 0
    for text in (
        "4 samples x 2 repeats = 8 units",
        "100.00 %, 8/8 units",
        "repeats 2 (profile: 1)",
        "2 (-o addition.repeats)",
        "7 (planned: 256)",
        "60 s on node1, slurm 12_0, 4 GPUs, 8 units, done",
    ):
        assert text in said.out


def test_info_of_a_name_that_is_both(shell: Shell, registry: Path) -> None:
    """It means the run where there is one, unless options are given that only a recipe has."""
    assert "recipes/demo.yaml" in shell("info", "demo").out
    shell.write(name="demo")
    shell("prepare", "recipe.yaml")
    said = shell("info", "demo", "--json")
    assert orjson.loads(said.out)[0]["run"] == "demo"
    assert "note: demo is a shipped recipe, too: evalkit info " in said.err
    assert "recipe" in orjson.loads(shell("info", "demo", "--limit", "3", "--json").out)
    assert shell("info", "nothing").code == 2
