"""A score that counts, and is worth a look all the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from evalkit.cli.gather import suspicions

if TYPE_CHECKING:
    from evalkit.report.results import Results


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        ({"empty": 8, "ok": 2}, ["80% of the answers are empty: does the reasoning parser fit"]),
        ({"truncated": 5, "ok": 5}, ["50% of the answers are truncated: is max_tokens"]),
        ({"ok": 9, "empty": 1}, []),
        ({}, []),
    ],
)
def test_most_answers_are_no_answers(outcomes: dict[str, int], said: list[str]) -> None:
    """Half of them are enough; nothing is said of a task that has none."""
    counts = SimpleNamespace(scored=sum(outcomes.values()), by_outcome=outcomes)
    notes = list(suspicions(cast("Results", SimpleNamespace(counts=counts))))
    assert [note[: len(start)] for note, start in zip(notes, said, strict=True)] == said
