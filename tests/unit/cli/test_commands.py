"""Commands over runs: what they print where, and the exit codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest

from evalkit.store.layout import RunFolder
from evalkit.store.run import load_plan
from tests.builders import answer_all
from tests.unit.cli.conftest import RECIPE

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Shell


@pytest.fixture
def finished(shell: Shell) -> RunFolder:
    """The recipe's run with every unit journaled, not gathered yet."""
    assert shell("prepare", "recipe.yaml").code == 0
    folder = RunFolder(shell.folder / "runs" / "test")
    answer_all(folder)
    return folder


def test_gather(shell: Shell, finished: RunFolder) -> None:
    """A complete run gives its table on stdout and code 0, again and again with the same bytes."""
    said = shell("gather", "test")
    assert said.code == 0
    assert "100.00" in said.out
    assert "4/4" in said.out
    assert f"artifacts: {finished.root}/artifacts" in said.out
    before = finished.samples("addition").read_bytes(), finished.metrics("addition").read_bytes()
    assert shell("score", "test").code == 0
    assert before == (
        finished.samples("addition").read_bytes(),
        finished.metrics("addition").read_bytes(),
    )


def test_gather_of_an_incomplete_run(shell: Shell, finished: RunFolder) -> None:
    """Missing units give code 10 and are named; `score` and --allow-partial say the same with code 0."""
    next(finished.root.glob("journal/addition/00000/*.jsonl")).unlink()
    said = shell("gather", "test")
    assert said.code == 10
    assert "error: addition: 1 of 4 units are missing: 1 no_record; in 1 shard" in said.err
    assert "withheld" in said.out
    assert shell("gather", "test", "--allow-partial").code == 0
    assert shell("score", "test").code == 0


def test_gather_as_json(shell: Shell, finished: RunFolder) -> None:
    """--json prints one document on stdout, and nothing else there."""
    [results] = orjson.loads(shell("gather", "test", "--json").out)
    assert results["complete"] is True
    assert results["headline"]["percent"] == 100.0


@pytest.mark.parametrize("how", ["name", "folder", "id", "recipe"])
def test_names_of_a_run(shell: Shell, finished: RunFolder, how: str) -> None:
    """A run is found by its name, its folder, the beginning of its id, and its recipe."""
    run_id = load_plan(finished).run_id
    name = {
        "name": "test",
        "folder": str(finished.root),
        "id": run_id[:4],
        "recipe": "recipe.yaml",
    }[how]
    [status] = orjson.loads(shell("status", name, "--json").out)
    assert status["run"] == "test"


def test_status_without_a_run_lists_all(shell: Shell, finished: RunFolder) -> None:
    """Every run of the output folder is one line; without runs that is said."""
    shell("prepare", "recipe.yaml", "-o", "output.name=other")
    said = shell("status")
    assert said.code == 0
    assert "test" in said.out
    assert "other" in said.out
    assert len(orjson.loads(shell("status", "--json").out)) == 2
    assert "no runs in" in shell("status", "--output", "empty").out


def test_run_with_nothing_left(shell: Shell, finished: RunFolder) -> None:
    """A finished run is gathered without a server: nobody listens at its endpoint."""
    said = shell("run", "recipe.yaml")
    assert said.code == 0
    assert "nothing is left to do, no server is started" in said.err
    assert "100.00" in said.out
    assert shell("resume", "test", "--here").code == 0


def test_sweep(shell: Shell) -> None:
    """Several models are several runs in one folder; one of them is named by its path."""
    shell.write(models={"a": {"id": "x"}, "b": {"id": "y"}})
    assert shell("prepare", "recipe.yaml").code == 0
    assert len(orjson.loads(shell("status", "test", "--json").out)) == 2
    said = shell("logs", "test")
    assert said.code == 2
    assert "that is a sweep; name one of its runs" in said.err
    assert shell("status", "test/a").code == 0


def test_dry_run_of_a_sweep_has_a_total(shell: Shell) -> None:
    """Under the runs' own totals; a single run has none beside its own."""
    assert "runs: " not in shell("prepare", "recipe.yaml", "--dry-run").out
    shell.write(models={"a": {"id": "x"}, "b": {"id": "y"}})
    for command in ("prepare", "run", "submit"):
        lines = shell(command, "recipe.yaml", "--dry-run").out.splitlines()
        assert "2 runs: 8 generations in all" in lines
        assert lines.count("4 generations in all") == 2


def test_dry_run_writes_nothing(shell: Shell) -> None:
    """A dry run shows the plan and leaves no file."""
    before = shell.files()
    for command in ("prepare", "run", "submit"):
        said = shell(command, "recipe.yaml", "--dry-run")
        assert said.code == 0
        assert f"would be {shell.folder}/runs/test" in said.out
        assert "addition" in said.out
    [document] = orjson.loads(shell("prepare", "recipe.yaml", "--dry-run", "--json").out)
    counts = {"units": 4, "calls": 4, "parts": {}, "shards": 4, "tokens": None}
    assert document["counts"] == {"addition": {**counts, "not_continued": []}}
    assert shell.files() == before


def test_prepare_as_json(shell: Shell) -> None:
    """The plan, its folder and its counts in one document."""
    shell.write(generation={"max_tokens": 100})
    [document] = orjson.loads(shell("prepare", "recipe.yaml", "--json").out)
    assert document["folder"] == str(shell.folder / "runs" / "test")
    assert document["counts"]["addition"]["tokens"] == 400
    assert document["plan"]["tasks"][0]["name"] == "addition"


def test_info(shell: Shell) -> None:
    """The resolved recipe shows defaults too, and where each value that was given comes from."""
    said = shell("info", "recipe.yaml", "-o", "addition.repeats=3")
    assert said.code == 0
    assert "parallelism: 256" in said.out
    assert "# tasks.addition.repeats: -o addition.repeats" in said.out
    document = orjson.loads(shell("info", "recipe.yaml", "--json").out)
    assert document["recipe"]["tasks"]["addition"]["repeats"] == 1
    assert document["sources"]["tasks.addition.params.n"].startswith("recipe.yaml:")


@pytest.mark.parametrize("what", ["tasks", "recipes", "templates", "runs"])
def test_ls(shell: Shell, finished: RunFolder, what: str) -> None:
    """Each list is a table, and the same as JSON."""
    assert shell("ls", what).code == 0
    listing = orjson.loads(shell("ls", what, "--json").out)
    assert len(listing) >= 1
    assert all(isinstance(row, dict) for row in listing)


def test_ls_task(shell: Shell) -> None:
    """A task's page names its parameters with their meaning."""
    said = shell("ls", "task", "addition")
    assert "Most digits of an operand" in said.out
    described = orjson.loads(shell("ls", "task", "addition", "--json").out)
    assert described["metric"] == "correct"
    assert set(described["params"]) == {"form", "n", "digits", "seed"}


def test_doctor(shell: Shell) -> None:
    """The installation is looked at; a benchmark's own gold answers all score."""
    found = {check["name"]: check["state"] for check in orjson.loads(shell("doctor", "--json").out)}
    assert found["python"] == "ok"
    assert found["benchmark addition"] == "ok"
    assert {found["sandbox bwrap"], found["sandbox namespaces"]} <= {"ok", "note"}
    said = shell("doctor", "--gold", "addition")
    assert said.code == 0
    assert "addition (card): 200 of 200 gold: 100.0 %" in said.out
    assert "BAD" not in shell("doctor").out


def test_version_and_help(shell: Shell) -> None:
    """--version and --help answer without a recipe."""
    assert shell("--version").out.startswith("evalkit ")
    assert "start here:" in shell("--help").out


def test_interrupt(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends with 130 and a sentence, not with a traceback."""

    def stop(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("evalkit.cli.prepare.command_prepare", stop)
    said = shell("prepare", "recipe.yaml")
    assert (said.code, said.err) == (130, "interrupted; nothing already done is lost\n")


def test_sweep_of_broken_models_runs_them_all(shell: Shell) -> None:
    """A model that cannot be asked does not keep the next one from being evaluated."""
    broken = {"id": "x", "serving": {"secrets": ["NO_SUCH_SECRET"]}}
    shell.write(models={"a": broken, "b": {"id": "y"}})
    shell("prepare", "recipe.yaml")
    answer_all(RunFolder(shell.folder / "runs" / "test" / "b"))
    said = shell("run", "recipe.yaml")
    assert said.code == 2
    assert "error: variable NO_SUCH_SECRET not set" in said.err
    assert shell("resume", "test", "--here").code == 2
    assert (shell.folder / "runs" / "test" / "b" / "artifacts" / "summary.json").is_file()


def test_recipe_of_these_tests() -> None:
    """The recipe needs no server to be prepared: its endpoint is a port nobody listens on."""
    assert RECIPE["serving"]["base_url"] == "http://127.0.0.1:9/v1"
