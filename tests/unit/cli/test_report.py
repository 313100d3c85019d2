"""`evalkit report`: where the page goes, what is printed, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest

from evalkit.store.layout import RunFolder
from tests.builders import answer_all

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Shell


@pytest.fixture
def sweep(shell: Shell) -> list[RunFolder]:
    """Runs of two checkpoints, gathered."""
    shell.write(models={"step-1": {"id": "x"}, "step-20": {"id": "y"}})
    assert shell("prepare", "recipe.yaml").code == 0
    folders = [RunFolder(shell.folder / "runs" / "test" / name) for name in ("step-1", "step-20")]
    for folder in folders:
        answer_all(folder)
    assert shell("gather", "test").code == 0
    return folders


def test_a_gather_leaves_a_report_that_can_be_made_again(
    shell: Shell, sweep: list[RunFolder]
) -> None:
    """The page is there after the gather; the command makes the same bytes and prints where."""
    page = sweep[0].report.read_bytes()
    assert page.startswith(b"<!doctype html>")
    sweep[0].report.unlink()
    said = shell("report", str(sweep[0].root))
    assert (said.code, said.out) == (0, f"{sweep[0].report}\n")
    assert sweep[0].report.read_bytes() == page


def test_a_sweep_has_a_page_of_its_own(shell: Shell, sweep: list[RunFolder]) -> None:
    """In its folder, with both runs."""
    said = shell("report", "test")
    path = Path(said.out.strip())
    assert path == shell.folder / "runs" / "test" / "report.html"
    text = path.read_text()
    assert "Learning curves" in text
    assert "step-1" in text
    assert shell("report", "recipe.yaml").out == said.out

    # Runs that are named one by one have no place of their own.
    names = [str(folder.root) for folder in sweep]
    said = shell("report", *names)
    assert said.code == 2
    assert "--out FILE" in said.err
    assert shell("report", *names, "--out", "here.html").code == 0
    assert b"Learning curves" in (shell.folder / "here.html").read_bytes()


def test_text_json_and_markdown(shell: Shell, sweep: list[RunFolder]) -> None:
    """Tables of both runs, the one side by side first; the documents of all tasks."""
    said = shell("report", "test", "--format", "text")
    lines = [line.split() for line in said.out.splitlines()]
    assert lines[0] == ["model", "step", "addition", "(card)"]
    assert lines[1][:3] == ["step-1", "1", "100.00"]
    assert lines[2][:3] == ["step-20", "20", "100.00"]
    documents = orjson.loads(shell("report", "test", "--format", "json").out)
    assert [document["task"] for document in documents] == ["addition", "addition"]

    # Markdown: the same text on stdout as in a file.
    said = shell("report", "test", "--format", "markdown")
    assert said.out.startswith("# test\n\n| model | step | addition (card) |\n")
    assert shell("report", "test", "--format", "markdown", "--out", "r.md").out == ""
    assert (shell.folder / "r.md").read_text() == said.out


def test_a_run_without_results_beside_one_with(shell: Shell, sweep: list[RunFolder]) -> None:
    """It is left out and named; alone it is an error that says what to do."""
    sweep[0].results("addition").unlink()
    said = shell("report", "test", "--format", "text")
    assert said.code == 0
    assert "skipped: " in said.err
    assert "step-1" in said.err
    alone = shell("report", str(sweep[0].root))
    assert alone.code == 2
    assert "evalkit gather" in alone.err


REFUSED = {
    "--format text --max-mb 3": "--max-mb has no effect with --format text",
    "--format json --out x": "--out has no effect with --format json",
    "--format markdown --include-restricted": "--include-restricted has no effect",
    "--include-restricted": "no task here has data that may not be published",
    "-t addition": "a page of some tasks needs --out FILE",
    "-t none --out x": "no task 'none' in this run",
    "--profile fixed": "has no results yet",
}


def test_what_is_refused(shell: Shell, sweep: list[RunFolder]) -> None:
    """No option without effect, and nothing is written."""
    before = shell.files()
    for options, words in REFUSED.items():
        said = shell("report", str(sweep[0].root), *options.split())
        assert said.code == 2, options
        assert words in said.err
    assert shell.files() == before


def test_samples_can_be_left_out(shell: Shell, sweep: list[RunFolder]) -> None:
    """--max-mb 0: the page says that none of four is there, and so does the command."""
    said = shell("report", str(sweep[0].root), "--max-mb", "0", "--out", "small.html")
    assert "addition: 0 of 4 units are in the page; --max-mb takes more" in said.err
    assert b"0 of 4 units are in this page" in (shell.folder / "small.html").read_bytes()
    assert b"chunk-0" not in (shell.folder / "small.html").read_bytes().split(b"<script>")[0]
