"""`cancel` and `--replicas`: what they pass on, and how they end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from evalkit.cluster.cancel import Cancelled
from evalkit.cluster.submit import Submission

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.unit.cli.conftest import Shell


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Options of each submit and cancel; every cancel leaves job 7."""
    options: list[dict[str, Any]] = []

    def cancel_run(*_: object, **given: Any) -> Cancelled:
        options.append(given)
        return Cancelled((), unrecorded=("7",), left=("7 (completing on n1)",))

    def submit_runs(runs: Sequence[object], **given: Any) -> list[Submission]:
        options.append(given)
        return [Submission("nothing_owed", {}, warnings=("a line is damaged",)) for _ in runs]

    monkeypatch.setattr("evalkit.cluster.cancel.cancel_run", cancel_run)
    monkeypatch.setattr("evalkit.cluster.share.submit_runs", submit_runs)
    return options


@pytest.mark.parametrize(("options", "wait_s"), [((), None), (("--wait", "90"), 90.0)])
def test_cancel_says_what_is_left(
    shell: Shell, asked: list[dict[str, Any]], options: tuple[str, ...], wait_s: float | None
) -> None:
    """Code 9 while a job is left, which is named with what to do."""
    shell("prepare", "recipe.yaml")
    said = shell("cancel", "recipe.yaml", *options)
    assert said.code == 9
    assert said.out == (
        "test: told job 7 (not on record) to end; still there: 7 (completing on n1)\n"
    )
    assert said.err.startswith("error: still there: 7 (completing on n1)\nType `evalkit cancel`")
    assert [given["wait_s"] for given in asked] == [wait_s]


@pytest.mark.parametrize("command", ["submit", "resume"])
def test_a_number_of_replicas(shell: Shell, asked: list[dict[str, Any]], command: str) -> None:
    """The number is passed on; without one there is none; what is damaged is said."""
    shell("prepare", "recipe.yaml")
    assert "warning: a line is damaged" in shell(command, "recipe.yaml", "--replicas", "3").err
    shell(command, "recipe.yaml")
    assert [given["replicas"] for given in asked] == [3, None]


@pytest.mark.parametrize(
    "arguments", [("submit", "recipe.yaml", "--replicas", "0"), ("cancel", "test", "--wait", "-1")]
)
def test_numbers_that_mean_nothing(shell: Shell, arguments: tuple[str, ...]) -> None:
    """No replica, or less than no time, is refused as a slip."""
    assert shell(*arguments).code == 2
