"""Tasks of NVIDIA's launcher: what its framework.yml says, as parameters of ours."""

from __future__ import annotations

from typing import Any

import pytest

from evalkit.benchmarks.data import DataAccess
from evalkit.benchmarks.registry import make_benchmark
from evalkit.errors import RecipeError
from evalkit.harnesses import nvidia_lm_eval
from evalkit.harnesses.nvidia_lm_eval import framework_params
from evalkit.recipe.schema import DataOverride


def entry(endpoints: list[str], **params: Any) -> dict[str, Any]:
    params = {"max_new_tokens": None, "temperature": 0.0, "extra": {}, **params}
    return {"description": "", "endpoints": endpoints, "params": params}


@pytest.fixture
def framework(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of two tasks."""
    extra = {"num_fewshot": 5, "args": "--trust_remote_code --add_instruction"}
    table = {
        "launched": entry(["completions"], task="inner", top_p=1e-5, extra=extra),
        "spoken": entry(["chat"], task="inner", max_new_tokens=64),
    }
    monkeypatch.setattr(nvidia_lm_eval, "read_framework", lambda spec: table)


@pytest.mark.usefixtures("framework")
def test_parameters_of_a_recipe_are_over_those_of_the_file() -> None:
    made = make_benchmark(
        "nvidia-lm-eval/launched", {"num_fewshot": 2, "gen_kwargs": {"top_p": 0.5}}, "card"
    )
    found = made.resolved()
    assert (found.task, found.task_name, found.num_fewshot) == ("launched", "inner", 2)
    assert (found.trust_remote_code, found.add_instruction) == (True, True)
    assert found.gen_kwargs == {"temperature": 0.0, "top_p": 0.5}


@pytest.mark.usefixtures("framework")
def test_names_of_lm_eval_stand_for_themselves() -> None:
    made = make_benchmark("nvidia-lm-eval/hellaswag", {}, "card")
    assert made.resolved() == made.params
    assert made.asked_task == "hellaswag"


@pytest.mark.usefixtures("framework")
def test_endpoints_that_a_task_is_not_made_for_are_refused() -> None:
    with pytest.raises(RecipeError, match="spoken is made for chat endpoints"):
        make_benchmark("nvidia-lm-eval/spoken", {}, "card").resolved()
    found = make_benchmark(
        "nvidia-lm-eval/spoken", {"apply_chat_template": True}, "card"
    ).resolved()
    assert (found.fewshot_as_multiturn, found.gen_kwargs["max_gen_toks"]) == (True, 64)


def test_arguments_that_are_not_known_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"framework\.yml asks for --new, which evalkit has not"):
        framework_params("t", {"task": "t", "extra": {"args": "--new"}})


def test_repeats_and_data_of_the_recipe_are_refused(tmp_path: Any) -> None:
    """Both have their place elsewhere."""
    made = make_benchmark("lm-eval/hellaswag", {}, "card")
    override = DataOverride(path="x.jsonl")
    with pytest.raises(RecipeError, match="the data of this task is read by lm-eval"):
        DataAccess("hellaswag", override, tmp_path).refuse_useless(made.source)
    with pytest.raises(RecipeError, match="one for all repeats would make them equal"):
        make_benchmark("lm-eval/hellaswag", {"gen_kwargs": {"seed": 1}}, "card")
