"""What a model sees of a cell's output, to the character."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.scoring.sandbox.cell_text import clean_stream, cut_stream, join_streams, timeout_line


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("", ""),
        ("\n\n", ""),
        ("text", "text\n"),
        ("\n\n  two\n\n lines  \n \n", "  two\n\n lines\n"),
        ("\x1b[31mred\x1b[0m \x1b]0;x", "red 0;x\n"),
        ("Out[12]: 42\n", "42\n"),
        ("a\nOut[1]:  [1,\n 2]", "a\n[1,\n 2]\n"),
        ("see Out[1]: here", "see Out[1]: here\n"),
        ('Traceback\n  File <ipython-input-1>:2\n  File "x.py"', 'Traceback\n  File "x.py"\n'),
        (" \ntext", " \ntext\n"),
    ],
)
def test_clean_stream(raw: str, clean: str) -> None:
    """ANSI codes, IPython's frames and prompts, and blank ends go; everything else stays."""
    assert clean_stream(raw) == clean


def test_cut() -> None:
    """A thousand characters are shown whole, one more is cut and marked."""
    assert cut_stream("x" * 1000) == "x" * 1000
    assert cut_stream("x" * 1001) == "x" * 1000 + "<output cut>"


@pytest.mark.parametrize(
    ("streams", "text"),
    [(("", ""), ""), (("a\n", ""), "a"), (("a\n", "b\n"), "a\nb"), (("a\n\n", ""), "a\n")],
)
def test_join(streams: tuple[str, str], text: str) -> None:
    """One final newline is removed, and no more."""
    assert join_streams(*streams) == text


def test_timeout_line() -> None:
    """The number reads as it was asked for."""
    assert timeout_line(10) == "Execution timed out after 10 seconds\n"
    assert timeout_line(10.0) == "Execution timed out after 10.0 seconds\n"


@given(st.text())
def test_clean_is_bounded(text: str) -> None:
    """Cleaning adds at most a final newline, and what it gives ends in one or is empty."""
    clean = clean_stream(text)
    assert len(clean) <= len(text) + 1
    assert clean == "" or clean.endswith("\n")
