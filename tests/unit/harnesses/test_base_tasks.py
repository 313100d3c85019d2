"""The 16 tasks of `recipes/nano-base.yaml`, each by its real definition from request to score.

Their data is on the hub, so rows in its format are made up (`base_hub`). The first of two documents is
answered rightly and the second wrongly, so that a score is a half wherever nothing else is said.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from evalkit.benchmarks.contract import Answered, Sample, ServedModel
from evalkit.benchmarks.data import DataAccess
from evalkit.benchmarks.registry import make_benchmark
from evalkit.clock import Clock
from evalkit.errors import PlanError
from evalkit.harnesses import lm_eval_calls
from evalkit.harnesses.environments import find_python
from evalkit.harnesses.install import install, wanted_harness
from evalkit.harnesses.nvidia_lm_eval import ENVIRONMENT
from evalkit.recipe.schema import DataOverride, Scoring
from evalkit.store.records import Outcome, Reply, Usage
from tests.unit.harnesses.base_hub import make_hub

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[3]
CODE_EVAL = ROOT / "tests/data/samples/lm_eval_code/code_eval"
MODEL = ServedModel("folder", str(ROOT / "checkpoints/demo/step-1600"))
RECIPE = yaml.safe_load((ROOT / "recipes/nano-base.yaml").read_text("utf-8"))["tasks"]
GREEDY = {"temperature": 0, "top_p": 1e-05}
SOLUTION_ENDS = ["Problem:", "Question:", "Q:", "</s>", "<|im_end|>"]
EXAM_ENDS = ["</s>", "Q:", "Question:", "<|im_end|>"]


@dataclass
class Case:
    """What a task must ask, and what its two documents are answered."""

    requests: int
    marks: tuple[str, int] | dict[str, tuple[str, int]]
    """A text, and how often it is in each prompt: in each example, and once more. By part where they differ."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the body, without prompt, seed and stop; empty for likelihoods."""
    stop: list[str] = field(default_factory=list)
    right: str = ""
    wrong: str = ""
    score: float = 0.5


CASES = {
    "adlr_mmlu": Case(57 * 2, ("Answer:", 6), {"max_tokens": 2, **GREEDY}, ["\n\n"], " A", " C"),
    "adlr_mmlu_pro_5_shot_base": Case(
        14 * 2,
        ("Question:", 6),
        {"max_tokens": 1024, **GREEDY},
        [*EXAM_ENDS[:1], "Q:", "Question:", "<|im_end|>", "\n\n\n"],
        " The answer is (A).",
        " The answer is (C).",
    ),
    "adlr_agieval_en_cot": Case(
        8 * 2,
        {
            "adlr_agieval_aqua_rat_cot": ("Question:", 6),
            "adlr_agieval_sat_math_cot": ("Question:", 6),
            "": ("Question:", 4),
        },
        {"max_tokens": 1024, **GREEDY},
        EXAM_ENDS,
        " The answer is (A).",
        " The answer is (C).",
    ),
    "adlr_humaneval_greedy": Case(
        2,
        ("def more", 1),
        {"max_tokens": 512, **GREEDY},
        ["</s>"],
        "    return number + 1\n",
        "    return number + 2\n",
    ),
    "adlr_mbpp_sanitized_3_shot_greedy": Case(
        2,
        ("Write a function", 4),
        {"max_tokens": 768, **GREEDY},
        ["</s>"],
        "def add(number):\n    return number + 10\n",
        "def add(number):\n    return number + 5\n",
    ),
    "adlr_gsm8k_cot_8_shot": Case(
        2,
        ("Problem:", 9),
        {"max_tokens": 1024, **GREEDY},
        SOLUTION_ENDS,
        " So the answer is \\boxed{2}.",
        " So the answer is \\boxed{77}.",
    ),
    "adlr_minerva_math_nemo_4_shot": Case(
        7 * 2,
        ("Problem:", 5),
        {"max_tokens": 1024, **GREEDY},
        SOLUTION_ENDS,
        " It is $\\boxed{3}$.",
        " It is $\\boxed{77}$.",
    ),
    "adlr_math_500_4_shot_sampled": Case(
        2 * 32,
        ("Problem:", 5),
        {"max_tokens": 1024, "temperature": 0.7, "top_p": 1.0},
        SOLUTION_ENDS,
        " It is $\\boxed{3}$.",
        " It is $\\boxed{77}$.",
        score=(1 + 8 / 32) / 2,
    ),
    "adlr_arc_challenge_llama_25_shot": Case(2 * 4, ("Question:", 26)),
    "hellaswag": Case(2 * 4, ("Baking:", 11)),
    "openbookqa": Case(2 * 4, ("Cold water", 1)),
    "piqa": Case(2 * 2, ("Question:", 1)),
    "adlr_race": Case(2 * 4, ("Article:", 1)),
    "adlr_winogrande_5_shot": Case(2 * 2, ("fell off", 6)),
    "adlr_global_mmlu_lite_5_shot": Case(8 * 6 * 2 * 4, ("Answer:", 6)),
    "adlr_mgsm_native_cot_8_shot": Case(
        6 * 2,
        ("?", 9),
        {"max_tokens": 1024, **GREEDY},
        ["</s>", "<|im_end|>", "\n\n\n"],
        " 2 + 0 = 2",
        " 77",
    ),
}


class Scripted:
    """The model of one sample. Of each document's choices the first is likely."""

    repeat, max_tokens = 0, None

    def __init__(self, case: Case, sample: Sample) -> None:
        self._choice = int((re.search(r"\.(\d+)(?:#\d+)?$", sample.id) or "00")[1])
        # of the 32 answers to a second problem 8 are right
        is_right = sample.data["doc"] == 0
        self._text = case.right if is_right else case.wrong
        if case.requests == 64 and not is_right and sample.data["rep"] < 8:
            self._text = " It is $\\boxed{4}$."

    async def relay(self, route: str, body: dict[str, Any]) -> Reply:
        assert route == "completions"
        return Reply(Outcome.OK, self._text, usage=Usage(5, 3))

    async def loglikelihood(self, context: list[int], continuation: list[int]) -> Reply:
        assert len(context) + len(continuation) < 2048
        found = {"sum": -1.0 if self._choice == 0 else -100.0, "is_greedy": False}
        return Reply(Outcome.OK, "", logprobs=found)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The harness, which is installed where it is not there, and a hub of made-up data."""
    folder = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        try:
            python = find_python(ENVIRONMENT)
        except PlanError:
            patch.setenv("EVALKIT_HARNESSES", str(folder / "harnesses"))
            install(wanted_harness(ENVIRONMENT), sys.executable, Clock(), lambda _: None)
            python = find_python(ENVIRONMENT)
        for name in ("HF_HOME", "XDG_CACHE_HOME"):
            patch.setenv(name, str(folder / name))
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            patch.setenv(name, "1")
        plan = SimpleNamespace(scoring=Scoring())
        patch.setattr(lm_eval_calls, "load_plan", lambda run: plan)
        make_hub(folder / "hub", _mmlu_subjects(python.path.parents[1]))
        shutil.copytree(CODE_EVAL, folder / "hub" / "code_eval")
        yield folder


def _mmlu_subjects(environment: Path) -> list[str]:
    """As the files of the task have them."""
    files = environment.glob(
        "lib/python3*/site-packages/lm_eval/tasks/mmlu/str_default/mmlu_*.yaml"
    )
    found = {re.search(r'^"?dataset_name"?: "?(\w+)', path.read_text(), re.M) for path in files}
    return sorted(match[1] for match in found if match)


def test_each_task_of_the_recipe_is_here() -> None:
    assert CASES.keys() == RECIPE.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_task_asks_and_scores_as_published(name: str, place: Path, tmp_path: Path) -> None:
    case, entry = CASES[name], RECIPE[name]
    params = {**entry["params"], "include_path": "hub"}
    benchmark = make_benchmark(entry["benchmark"], params, "card")
    loaded = benchmark.load(DataAccess(name, DataOverride(), place))
    samples = list(loaded.samples)
    assert len(samples) == case.requests
    benchmark.meet(MODEL, samples)
    answers = []
    for sample in samples:
        _check(case, sample)
        solution = asyncio.run(benchmark.solve(sample, Scripted(case, sample)))
        answers.append(Answered(sample, 0, solution, Reply(Outcome.OK, solution.text)))
    native = benchmark.conclude(answers, tmp_path, tmp_path)
    numbers = {(m.subset, m.name): m.value for m in native.metrics}
    assert numbers[native.headline] == pytest.approx(case.score)
    assert native.headline[1].partition(",")[0] == entry["params"]["metric"].partition(",")[0]
    for row in native.samples:
        expected = 1.0 if row.id == "0" else 2 * case.score - 1
        assert row.scores[native.headline[1]] == pytest.approx(expected), row


def _check(case: Case, sample: Sample) -> None:
    """Examples, settings, stop texts and seed of one request."""
    body = sample.data.get("body")
    marks = case.marks
    if isinstance(marks, dict):
        marks = marks.get(str(sample.subset), marks.get("", ("", 0)))
    prompt = sample.data["context"] if body is None else body["prompt"]
    assert prompt.count(marks[0]) == marks[1], prompt
    if body is None:
        assert not case.settings
        return
    rest = {key: value for key, value in body.items() if key not in ("prompt", "stop", "seed")}
    assert rest == case.settings
    stop = body["stop"]
    assert Counter(stop[-len(case.stop) :]) == Counter(case.stop)
    assert body["seed"] == 1234 + sample.data["rep"]
