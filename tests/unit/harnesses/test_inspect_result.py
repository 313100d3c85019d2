"""What inspect's logs say is believed only where it is the whole plan."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.errors import InfraError, ScorerError
from evalkit.harnesses.inspect_result import check_complete, check_joined, native_result
from evalkit.store.records import Outcome

if TYPE_CHECKING:
    from pathlib import Path

PLANNED = {"ids": ["a", 2], "epochs": 2, "name": "sums", "task_version": "1-A"}
ALL = [["a", 1], ["a", 2], [2, 1], [2, 2]]
LOG = {"status": "success", "error": None, "completed": 4, "done": ALL, "errors": []}


def test_a_whole_log(tmp_path: Path) -> None:
    """Success, and each id in each epoch."""
    check_complete([LOG], PLANNED, tmp_path)
    check_joined(ALL, PLANNED["ids"], 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        # as inspect has it where failed samples are passed over
        ({"done": ALL[:3], "completed": 3}, "status success and 3 of 4 answers"),
        ({"completed": 3}, "status success and 4 of 4 answers: its log has no reason"),
        ({"status": "cancelled", "done": []}, "status cancelled and 0 of 4 answers"),
        ({"status": "started"}, "status started"),
        ({"done": [*ALL, ["b", 1]], "completed": 5}, "4 of 4 answers"),
        ({"status": "error", "errors": ["no such host"]}, "4 of 4 answers: no such host"),
    ],
)
def test_what_is_not_whole(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    """The unit is owed, with inspect's reason and the end of the log."""
    (tmp_path / "program.log").write_text("Traceback\nthe last line\n")
    with pytest.raises(InfraError, match=said) as caught:
        check_complete([{**LOG, **changes}], PLANNED, tmp_path)
    assert "the last line" in str(caught.value)


def test_no_log_or_two(tmp_path: Path) -> None:
    """One task has one log."""
    for logs in ([], [LOG, LOG]):
        with pytest.raises(InfraError, match=f"inspect wrote {len(logs)} logs"):
            check_complete(logs, PLANNED, tmp_path)


@pytest.mark.parametrize("done", [ALL[1:], [*ALL, ALL[0]], [*ALL, ["b", 1]]])
def test_joined_logs_must_be_the_plan(done: list[list[Any]]) -> None:
    """Each planned answer once, and no other: a doubled one would count twice."""
    with pytest.raises(ScorerError, match=r"of 4 planned answers, and \d in all"):
        check_joined(done, PLANNED["ids"], 2)


def test_result(tmp_path: Path) -> None:
    """The first average is the headline; a limit that ended a sample is kept."""
    sample = {
        "id": "a",
        "repeat": 0,
        "scores": {"s/mean": 1.0},
        "messages": [],
        "content": "x",
        "reasoning": None,
        "answer": None,
        "target": "x",
        "outcome": "truncated",
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        "limit": "token",
    }
    (tmp_path / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    metric = {"stderr": None, "n_samples": 2}
    joined = {
        "metrics": [
            {"name": "s/std", "value": 0.5, "is_average": False, **metric},
            {"name": "s/mean", "value": 1.0, "is_average": True, **metric},
        ],
        "packages": {"inspect_ai": "1"},
        "problems": [],
    }
    result = native_result(joined, tmp_path / "samples.jsonl", PLANNED, 2)
    assert result.headline == ("", "s/mean")
    assert (result.samples[0].outcome, result.samples[0].data) == (
        Outcome.TRUNCATED,
        {"limit": "token"},
    )
    assert result.versions == {"inspect_ai": "1", "task": "1-A"}
    with pytest.raises(ScorerError, match="it has no scorer"):
        native_result({**joined, "metrics": []}, tmp_path / "samples.jsonl", PLANNED, 2)
