"""A program of a model is judged, or there is no score: never a verdict of what did not run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.errors import ScorerError
from evalkit.harnesses import lm_eval_programs
from evalkit.harnesses.lm_eval_programs import run_programs
from evalkit.recipe.schema import Scoring
from evalkit.scoring.sandbox import SandboxPool

if TYPE_CHECKING:
    from collections.abc import Iterable

    from evalkit.harnesses.environments import HarnessPython
    from evalkit.scoring.sandbox import Program, ProgramResult

SAMPLES = Path(__file__).parents[2] / "data" / "samples" / "lm_eval_code"
JUDGE = (SAMPLES / "code_eval" / "execute.py").read_text()
BELIEVER = JUDGE.replace('words == "passed"', "True")
NO_MANAGER = JUDGE.replace("multiprocessing.Manager()", "multiprocessing.Manager(1)")
NO_CHILD = JUDGE.replace("child.start()", "child.is_alive = lambda: False").replace(
    "child.join(timeout)", "pass"
)
PROGRAMS = {"right": "a = 1", "wrong": "assert 1 == 2", "kills": "import os\nos.kill(-1, 9)"}


def judged(own: HarnessPython, source: str = JUDGE) -> dict[str, dict[str, Any]]:
    programs = {name: {"program": text, "timeout": 5.0} for name, text in PROGRAMS.items()}
    told = {"programs": programs, "source": source, "modules": []}
    return run_programs(told, own.path, Scoring())


class Lost(SandboxPool):
    """The first pool's sandbox fails for the programs in `lost`, the later ones' for none."""

    lost: tuple[str, ...] = ()
    pools = 0

    def run(self, programs: Iterable[Program]) -> list[ProgramResult | ScorerError]:
        asked = list(programs)
        results = super().run(asked)
        for number, program in enumerate(asked):
            if any(text.encode() in program.files["program.json"] for text in Lost.lost):
                results[number] = ScorerError("lost")
        return results

    def __exit__(self, *details: Any) -> None:
        Lost.lost = ()
        Lost.pools += 1
        super().__exit__(*details)


def test_a_program_that_the_sandbox_lost_is_tried_again(
    own: HarnessPython, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what ends its judge twice has failed."""
    monkeypatch.setattr(lm_eval_programs, "SandboxPool", Lost)
    monkeypatch.setattr(Lost, "lost", ("a = 1",))
    monkeypatch.setattr(Lost, "pools", 0)
    found = judged(own)
    assert found == {
        "right": {"passed": True, "result": "passed"},
        "wrong": {"passed": False, "result": "failed: "},
        "kills": {"passed": False, "result": "failed: the program ended its judge (failed)"},
    }
    assert Lost.pools == 2


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import no_such_module", "ended before the program began, as failed"),
        (NO_MANAGER, "ended before the program began, as failed"),
        (NO_CHILD, "ended before the program began, as ok"),
        (BELIEVER, "True.* of the program 'assert False', which fails"),
    ],
)
def test_a_judge_that_cannot_judge_is_no_verdict(
    own: HarnessPython, source: str, says: str
) -> None:
    with pytest.raises(
        ScorerError, match=f"3 of 3 programs were not judged, tried twice: .*{says}"
    ):
        judged(own, source)
