"""Programs, limits and results as values."""

from __future__ import annotations

from typing import Any

import pytest

from evalkit.errors import ScorerError
from evalkit.scoring.sandbox import Ending, Limits, Program, ProgramResult
from evalkit.scoring.sandbox.program import to_job, to_result

FRAME: dict[str, Any] = {
    "ended": "failed",
    "exit_code": 1,
    "signal": None,
    "stdout": "aGk=",
    "stderr": "",
    "stdout_cut": 0,
    "stderr_cut": 3,
    "wall_s": 0.5,
    "cpu_s": 0.25,
}


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"source": "", "argv": ["python"]},
        {"argv": []},
        {"source": "", "wall_s": 0},
        {"source": "", "cpu_s": -1},
        *(
            {"source": "", "files": {name: b""}}
            for name in ("", ".", "/etc/x", "../x", "a/../../x", "a\0")
        ),
    ],
)
def test_wrong_programs(wrong: dict[str, Any]) -> None:
    """A program that cannot be run, or whose files would lie elsewhere, is refused when it is made."""
    with pytest.raises(ValueError, match=r"a Program has|must be positive|is not a path below"):
        Program(**wrong)


def test_limits_are_positive() -> None:
    """A limit of nothing is a mistake."""
    with pytest.raises(ValueError, match="processes=0 must be positive"):
        Limits(processes=0)


def test_job() -> None:
    """A program's frame has everything, and room for processes that the kernel counts as well."""
    program = Program(argv=("a", "b"), files={"f": b"hi"}, stdin=b"hi", wall_s=1.5, cpu_s=2)
    job = to_job(program, beside=5)
    assert job.pop("limits")["processes"] == program.limits.processes + 5
    assert job == {
        "kind": "program",
        "source": None,
        "argv": ["a", "b"],
        "files": {"f": "aGk="},
        "stdin": "aGk=",
        "wall_s": 1.5,
        "cpu_s": 2,
    }


def test_job_of_half_a_character() -> None:
    """A lone surrogate in a model's text becomes bytes that Python refuses, not an error of ours."""
    assert to_job(Program(source="'\ud800'"), beside=0)["source"] == "J+2ggCc="


def test_result() -> None:
    """A frame becomes a result."""
    assert to_result(FRAME) == ProgramResult(Ending.FAILED, 1, None, b"hi", b"", 0, 3, 0.5, 0.25)


@pytest.mark.parametrize(
    "frame",
    [{"error": "OSError: no"}, {}, FRAME | {"ended": "fine"}, FRAME | {"stdout": "%"}],
)
def test_failures_of_the_sandbox(frame: dict[str, Any]) -> None:
    """An error, and anything that is not a result, is a scorer error."""
    with pytest.raises(ScorerError, match="the sandbox"):
        to_result(frame)
