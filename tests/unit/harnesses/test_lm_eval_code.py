"""Tasks of lm-eval that run what the model wrote: nothing of it runs where results are made."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.benchmarks.contract import Answered, Solution
from evalkit.benchmarks.data import DataAccess
from evalkit.benchmarks.registry import make_benchmark
from evalkit.errors import RecipeError, ScorerError
from evalkit.harnesses import lm_eval_calls, lm_eval_sandbox
from evalkit.harnesses.lm_eval_programs import run_programs
from evalkit.recipe.schema import DataOverride, Scoring
from evalkit.store.records import Outcome, Reply

if TYPE_CHECKING:
    from evalkit.harnesses.environments import HarnessPython

TASKS = Path(__file__).parents[2] / "data" / "samples" / "lm_eval_code"
NAME = "forged"
FORGER = f'''
    return 0
import json, os, pathlib, subprocess, sys
says = json.dumps({{"answer": {{"results": "{NAME}"}}}})
LATER = """
import pathlib, time
while True:
    for place in pathlib.Path("/tmp").rglob("*"):
        if place.suffix in (".json", ".jsonl"):
            place.write_text(SAYS)
    time.sleep(0.02)
""".replace("SAYS", repr(says))
subprocess.Popen([sys.executable, "-c", LATER], start_new_session=True)
for process in pathlib.Path("/proc").glob("[0-9]*"):
    for number in (1, 2, 3, 4, 5):
        try:
            (process / "fd" / str(number)).write_bytes(says.encode())
        except OSError:
            pass
'''
ANSWERS = {
    "right": "    return number + 1\n",
    # lm-eval has loaded numpy, and the metric's children find it
    "also_right": "    import sys\n    return number + ('numpy' in sys.modules)\n",
    "wrong": "    return number + 2\n",
    "raises": "    return number.more\n",
    "loops": "    while True:\n        pass\n",
    "leaves": "    import os\n    os._exit(0)\n",
    "kills": "    import os\n    os.kill(-1, 9)\n",
    "forges": FORGER,
}
RIGHT = {"right", "also_right"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and a run whose recipe says nothing about scoring."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EVALKIT_HARNESSES", str(tmp_path / "none"))
    plan = SimpleNamespace(scoring=Scoring())
    monkeypatch.setattr(lm_eval_calls, "load_plan", lambda folder: plan)


def toy(task: str, **params: Any) -> Any:
    return make_benchmark(f"lm-eval/{task}", {"include_path": TASKS.name, **params}, "card")


ACCESS = DataAccess("toy", DataOverride(), TASKS.parent)


@pytest.mark.usefixtures("hub")
def test_a_program_can_change_no_verdict_but_its_own(tmp_path: Path) -> None:
    """Right, wrong and hostile programs: those that are right pass, and no other."""
    benchmark = toy("toy_code", allow_code_execution=True)
    loaded = benchmark.load(ACCESS)
    answers = []
    for sample, text in zip(loaded.samples, ANSWERS.values(), strict=True):
        assert sample.data["body"]["stop"][:2] == ["\nclass", "\ndef"]
        reply = Reply(Outcome.OK, text)
        answers.append(Answered(sample, 0, Solution(text=text, outcome=Outcome.OK), reply))
    out = tmp_path / "out"
    out.mkdir()
    native = benchmark.conclude(answers, tmp_path, out)
    passed = {
        row.data["doc"]["entry_point"]: row.scores["pass_at_1,create_test"]
        for row in native.samples
    }
    assert passed == {name: float(name in RIGHT) for name in ANSWERS}
    [metric] = native.metrics
    assert (metric.name, metric.value) == ("pass_at_1,create_test", 2 / 8)
    assert native.problems == []
    assert sorted(path.name for path in out.iterdir()) == [
        "results.json",
        "samples_toy_code.jsonl",
    ]
    assert json.loads((out / "results.json").read_text())["results"]["toy_code"]


@pytest.mark.usefixtures("hub")
def test_code_runs_where_the_recipe_allows_it() -> None:
    """Also where the task itself does not say that it runs code; before anything is asked."""
    with pytest.raises(
        RecipeError, match=r"toy_quiet runs code that the model wrote: params\.allow"
    ):
        toy("toy_quiet").load(ACCESS)


def test_programs_run_in_the_image_of_the_recipe(
    own: HarnessPython, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Apptainer alone: without it there is no verdict."""
    monkeypatch.setenv("PATH", str(tmp_path))
    told = {"programs": {"a": {"program": "pass", "timeout": 1.0}}, "source": "", "modules": []}
    with pytest.raises(ScorerError, match="no sandbox") as caught:
        run_programs(told, own.path, Scoring(image="/images/py.sif"))
    assert caught.value.message.count("\n") == 1
    assert "apptainer: " in caught.value.message


def test_code_that_lm_eval_runs_itself_is_refused_with_an_image(
    own: HarnessPython, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the recipe names is not what would run it."""
    told = {"programs": {}, "source": None, "run_by_themselves": ["cruxeval"]}
    monkeypatch.setattr(lm_eval_sandbox, "_run", lambda *_: told)
    with pytest.raises(ScorerError, match=r"cruxeval: runs the model's code in lm-eval's own"):
        lm_eval_sandbox.score_in_sandbox(
            own, "driver", {}, {}, Scoring(image="/images/py.sif"), tmp_path
        )
    found = lm_eval_sandbox.score_in_sandbox(own, "driver", {}, {}, Scoring(), tmp_path)
    assert found["run_by_themselves"] == ["cruxeval"]
