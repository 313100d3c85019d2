"""The table of results: whole renderings at two widths, and what a pipe and a colourless terminal get."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from evalkit.report.tables import Row, results_table, row_of, show_results
from evalkit.store.records import Outcome
from tests.unit.report.run_builder import make_failure, make_run

GOLDEN = Path(__file__).parent / "golden"

ROWS = [
    Row(
        "aime2025",
        "card",
        1920,
        mode="pass@1[avg-of-64]",
        metric="symbolic_correct",
        done=1920,
        percent=89.0625,
        standard_error=4.2,
        interval=(77.95, 94.91),
        n_samples=30,
        truncated=12,
        empty=0,
        errors=0,
    ),
    Row(
        "mmlu_pro",
        "card",
        12032,
        mode="pass@1",
        metric="multiple_choice_correct",
        done=12032,
        percent=78.3,
        standard_error=0.38,
        interval=(77.56, 79.04),
        n_samples=12032,
        truncated=31,
        empty=2,
        errors=0,
    ),
    Row(
        "livecodebench_v6",
        "fixed",
        3632,
        mode="pass@1[avg-of-8]",
        metric="correct",
        done=3600,
        bounds=(61.2, 62.08),
        n_samples=454,
        truncated=200,
        empty=0,
        errors=32,
    ),
    Row("gpqa_diamond", "card", 1584),
]


def render(rows: list[Row], width: int) -> str:
    """The table as plain text."""
    file = io.StringIO()
    console = Console(file=file, width=width, color_system=None, force_terminal=False)
    console.print(results_table(rows, width))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_is_the_golden_text(width: int) -> None:
    """Done, withheld and not yet gathered tasks, letter by letter; nothing is cut off."""
    assert render(ROWS, width) == (GOLDEN / f"results_{width}.txt").read_text("utf-8")


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """Also a very narrow terminal gets whole lines."""
    assert max(len(line) for line in render(ROWS, width).splitlines()) <= width


def test_a_pipe_gets_no_escape_sequences() -> None:
    """Colour is for terminals."""
    file = io.StringIO()
    show_results(Console(file=file, width=120), ROWS)
    assert "\x1b" not in file.getvalue()
    assert "89.06 ± 4.20" in file.getvalue()


def test_a_terminal_that_asks_for_no_colour_gets_none() -> None:
    """NO_COLOR leaves bold type and takes colour away."""
    file = io.StringIO()
    terminal = {"force_terminal": True, "color_system": "standard", "width": 120}
    show_results(Console(file=file, _environ={"NO_COLOR": "1"}, **terminal), ROWS)  # type: ignore[arg-type]
    assert "\x1b[33m" not in file.getvalue()
    coloured = io.StringIO()
    show_results(Console(file=coloured, _environ={}, **terminal), ROWS)  # type: ignore[arg-type]
    assert "\x1b[33m" in coloured.getvalue()


def test_an_ascii_terminal_gets_ascii() -> None:
    """No character that such a terminal cannot show."""
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    show_results(Console(file=file, width=120), ROWS)
    file.flush()
    assert b"89.06 +/- 4.20" in file.buffer.getvalue()  # type: ignore[attr-defined]


def test_a_row_of_complete_results(tmp_path: Path) -> None:
    """Percent, counts and no bounds."""
    run = make_run(tmp_path)
    first, *others = run.units()
    run.write([run.answer(first, "", outcome=Outcome.EMPTY)])
    run.write(run.answer(key) for key in others)
    row = row_of(run.gather())
    assert (row.percent, row.done, row.expected, row.empty) == (87.5, 8, 8, 1)
    assert (row.mode, row.metric, row.profile) == ("pass@1[avg-of-2]", "correct", "card")
    assert row.bounds is None


def test_a_row_of_incomplete_results(tmp_path: Path) -> None:
    """No percent, bounds in percent, and our failures as errors."""
    run = make_run(tmp_path)
    *done, last = run.units()
    run.write([*(run.answer(key) for key in done), make_failure(last)])
    row = row_of(run.gather())
    assert (row.percent, row.interval, row.bounds) == (None, None, (87.5, 100.0))
    assert (row.done, row.errors) == (7, 1)


def test_a_task_without_results_has_dashes() -> None:
    """What nobody has gathered is unknown, not 0."""
    first, last = render([Row("t", "card", 5)], 120).splitlines()[-2:]
    assert first.split() == ["t", "-", "-", "-", "-", "-/5", "-", "-", "-"]
    assert last.split() == ["card"]
