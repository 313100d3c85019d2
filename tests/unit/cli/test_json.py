"""--json: one list on stdout, for one run and for a sweep, and nothing else there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest

from evalkit.store.layout import RunFolder
from evalkit.store.run import load_plan
from tests.builders import answer_all

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Shell


@pytest.fixture
def sweep(shell: Shell) -> list[RunFolder]:
    """Runs of two models with every unit journaled, not gathered yet."""
    shell.write(models={"a": {"id": "x"}, "b": {"id": "y"}})
    assert shell("prepare", "recipe.yaml").code == 0
    folders = [RunFolder(shell.folder / "runs" / "test" / name) for name in "ab"]
    for folder in folders:
        answer_all(folder)
    return folders


def read(text: str) -> list[dict[str, Any]]:
    """The one document, which is a list."""
    document = orjson.loads(text)
    assert isinstance(document, list)
    return document


@pytest.mark.parametrize(
    "command",
    [
        ("gather", "test"),
        ("score", "test"),
        ("run", "recipe.yaml"),
        ("resume", "test", "--here"),
    ],
)
def test_results_of_a_sweep(shell: Shell, sweep: list[RunFolder], command: tuple[str, ...]) -> None:
    """Results of all tasks of all runs are in one list, each with the id of its run."""
    said = shell(*command, "--json")
    assert said.code == 0
    found = read(said.out)
    assert [results["run_id"] for results in found] == [load_plan(f).run_id for f in sweep]
    assert [results["task"] for results in found] == ["addition", "addition"]


@pytest.mark.parametrize("command", ["prepare", "run", "submit"])
def test_a_dry_run_of_a_sweep(shell: Shell, sweep: list[RunFolder], command: str) -> None:
    """A dry run lists one plan per model."""
    found = read(shell(command, "recipe.yaml", "--dry-run", "--json").out)
    assert [document["folder"] for document in found] == [str(f.root) for f in sweep]


def test_submit_of_a_sweep(shell: Shell, sweep: list[RunFolder]) -> None:
    """A submit lists what it did for each run; with --wait also how the run ended."""
    found = read(shell("submit", "recipe.yaml", "--json").out)
    assert [document["kind"] for document in found] == ["nothing_owed"] * 2
    said = shell("submit", "recipe.yaml", "--wait", "--json")
    assert said.code == 0
    first, second = read(said.out)
    assert (first["folder"], second["folder"]) == tuple(str(f.root) for f in sweep)
    assert first["results"][0]["headline"]["percent"] == 100.0
    assert "every unit is done" in first["message"]


def test_results_of_a_run_that_cannot_work(shell: Shell) -> None:
    """A run that raises leaves a list on stdout too: an empty one."""
    shell.write(serving={"kind": "external", "base_url": "http://h/v1", "secrets": ["NO_SUCH"]})
    said = shell("run", "recipe.yaml", "--json")
    assert said.code == 2
    assert read(said.out) == []
    assert "NO_SUCH" in said.err


def test_incomplete_results(shell: Shell, sweep: list[RunFolder]) -> None:
    """Missing units change the exit code, not the shape."""
    next(sweep[0].root.glob("journal/addition/00000/*.jsonl")).unlink()
    said = shell("gather", "test", "--json")
    assert said.code == 10
    assert [results["complete"] for results in read(said.out)] == [False, True]


def test_pipes_fold_no_line(shell: Shell, sweep: list[RunFolder]) -> None:
    """Where no terminal is, a row is a line: tools cut columns, not words."""
    name = "a" * 100
    shell("prepare", "recipe.yaml", "-o", f"output.name={name}")
    assert f"{name}/a" in shell("ls", "runs").out
    assert (
        f"prepared: {shell.folder}/runs/{name}/a\n"
        in shell("prepare", "recipe.yaml", "-o", f"output.name={name}").out
    )
