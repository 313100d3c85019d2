"""Tasks of lm-eval that run what the model wrote: nothing of it runs where results are made."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from evalkit.benchmarks.contract import Answered, Solution
from evalkit.benchmarks.data import DataAccess
from evalkit.benchmarks.registry import make_benchmark
from evalkit.errors import RecipeError, ScorerError
from evalkit.harnesses import lm_eval_calls
from evalkit.harnesses.inside.lm_eval_code import judges
from evalkit.harnesses.lm_eval import ENVIRONMENT
from evalkit.harnesses.lm_eval_programs import run_programs
from evalkit.harnesses.lm_eval_requests import ALONE
from evalkit.recipe.schema import DataOverride, Scoring
from evalkit.store.records import Outcome, Reply

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

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
        assert ALONE not in sample.data
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


@pytest.mark.long
@pytest.mark.usefixtures("hub")
def test_tasks_that_run_code_themselves_are_known_one_by_one() -> None:
    """Beside one whose programs the metric runs, and before there is an answer."""
    samples = toy("toy_both", metric="ends", allow_code_execution=True).load(ACCESS).samples
    found = {sample.subset: ALONE in sample.data for sample in samples}
    assert found == {"toy_code": False, "toy_alone": True}


def direct(metric: Any) -> Any:
    return METRIC.compute(metric)


def wrapped(metric: Any) -> Any:
    return [direct(each) for each in metric]


def neighbour(metric: Any) -> Any:
    exec(metric)


METRIC: Any = None


@pytest.mark.parametrize(
    ("scores", "found"),
    [
        (direct, True),
        (wrapped, True),
        (partial(wrapped, []), True),
        (wrapped.__call__, True),
        (lambda metric: METRIC.compute(metric), True),
        (neighbour, False),
        (None, False),
    ],
)
@pytest.mark.parametrize("place", ["metric", "process_results"])
def test_a_metric_is_found_by_what_a_task_scores_with(
    monkeypatch: pytest.MonkeyPatch, scores: Any, found: bool, place: str
) -> None:
    """A function that only stands beside the metric runs programs by itself."""
    name = "evaluate_modules.metrics.code_eval.0.code_eval"
    metric = type("CodeEval", (), {"__module__": name, "compute": len})()
    module = SimpleNamespace(check_correctness=None)
    monkeypatch.setitem(sys.modules, name, cast("ModuleType", module))
    monkeypatch.setitem(globals(), "METRIC", metric)
    task = type("Task", (), {"process_results": neighbour, "config": SimpleNamespace()})()
    if place == "metric":
        task._metric_fn_list = {"other": None, "own": scores}
    else:
        task.config.process_results = scores
    assert judges(task) is found


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


@pytest.mark.usefixtures("hub")
def test_what_lm_eval_runs_itself_is_said_by_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the process in which it ran; and where the recipe names an image it does not run."""
    forged: dict[str, Any] = {"results": {}, "run_by_themselves": []}
    monkeypatch.setattr(lm_eval_calls, "score_in_sandbox", lambda *_: forged)
    options = {"confirm_run_unsafe_code": True}

    def scored() -> Mapping[str, Any]:
        return lm_eval_calls.score_answers(
            ENVIRONMENT, options, {}, tmp_path, tmp_path, ["cruxeval"]
        )

    assert scored()["run_by_themselves"] == ["cruxeval"]
    plan = SimpleNamespace(scoring=Scoring(image="/images/py.sif"))
    monkeypatch.setattr(lm_eval_calls, "load_plan", lambda folder: plan)
    with pytest.raises(ScorerError, match=r"cruxeval: runs the model's code in lm-eval's own"):
        scored()
