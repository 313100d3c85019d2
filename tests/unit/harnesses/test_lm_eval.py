"""lm-eval through frozen requests: the result is that of its own unsharded run, byte for byte."""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from evalkit.benchmarks.contract import Answered, Sample, ServedModel
from evalkit.benchmarks.data import DataAccess
from evalkit.benchmarks.registry import make_benchmark
from evalkit.errors import RecipeError, ScorerError
from evalkit.harnesses.lm_eval_params import LmEvalParams
from evalkit.harnesses.lm_eval_requests import refuse_many_stops, to_body, to_samples
from evalkit.harnesses.lm_eval_results import choose
from evalkit.recipe.schema import DataOverride
from evalkit.store.records import Outcome, Reply, Usage

TASKS = Path(__file__).parents[2] / "data" / "samples" / "lm_eval_tasks"
MODEL = ServedModel("folder", str(Path(__file__).parents[3] / "checkpoints/demo/step-1600"))


class FakeModel:
    """Answers by what is asked, so two workers that ask the same get the same."""

    repeat, max_tokens = 0, None

    async def relay(self, route: str, body: dict[str, Any]) -> Reply:
        assert route == "completions"
        rng = random.Random(json.dumps(body, sort_keys=True))
        left, right = (int(part) for part in re.findall(r"\d+", body["prompt"]))
        answer = left + right if rng.random() < 0.6 else rng.randrange(20)
        return Reply(Outcome.OK, f"It is {answer}", usage=Usage(5, 3))

    async def loglikelihood(self, context: list[int], continuation: list[int]) -> Reply:
        assert context
        rng = random.Random(f"{context} {continuation}")
        found = {"sum": -rng.random() * len(continuation), "is_greedy": rng.random() < 0.5}
        return Reply(Outcome.OK, "", logprobs=found)


@dataclass
class Planned:
    benchmark: Any
    samples: list[Sample]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory):
    """The frozen requests of four tasks of three kinds, and lm-eval's cache in a folder of its own."""
    folder = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(folder))
        patch.setenv("HF_DATASETS_CACHE", str(folder / "datasets"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("EVALKIT_HARNESSES", str(folder / "none"))
        params = {"include_path": TASKS.name, "bootstrap_iters": 20}
        benchmark = make_benchmark("lm-eval/toy_all", params, "card")
        loaded = benchmark.load(DataAccess("toy", DataOverride(), TASKS.parent, limit=4))
        benchmark.meet(MODEL, loaded.samples)
        assert loaded.provenance.n_rows == 19
        assert set(loaded.prompts) == {"toy_choices", "toy_sums", "toy_more_sums", "toy_prose"}
        yield Planned(benchmark, list(loaded.samples))


def answer(planned: Planned) -> list[Answered]:
    """By two workers, each of which does its units in an order of its own; in plan order."""
    order = list(range(len(planned.samples)))
    random.Random(7).shuffle(order)

    async def work(numbers: list[int]) -> dict[int, Answered]:
        done = {}
        for number in numbers:
            sample = planned.samples[number]
            solution = await planned.benchmark.solve(sample, FakeModel())
            done[number] = Answered(sample, 0, solution, Reply(Outcome.OK, solution.text))
        return done

    async def both() -> dict[int, Answered]:
        one, two = await asyncio.gather(work(order[::2]), work(order[1::2]))
        return one | two

    found = asyncio.run(both())
    return [found[number] for number in sorted(found)]


def test_limit_means_documents_and_each_repeat_is_a_sample_with_a_seed(planned: Planned) -> None:
    """4 documents of each task (3 of the texts): 4 x 3 choices, 2 x 4 x 4 answers, 3 texts."""
    by_task: dict[str | None, list[Sample]] = {}
    for sample in planned.samples:
        by_task.setdefault(sample.subset, []).append(sample)
    assert {name: len(samples) for name, samples in by_task.items()} == {
        "toy_choices": 12,
        "toy_sums": 16,
        "toy_more_sums": 16,
        "toy_prose": 3,
    }
    assert len({sample.id for sample in planned.samples}) == 47
    first = by_task["toy_sums"][:4]
    assert [sample.data["body"]["seed"] for sample in first] == [1234, 1235, 1236, 1237]
    assert {sample.data["base"] for sample in first} == {first[0].data["base"]}
    assert planned.benchmark.metric == "exact_match,first"


def test_results_are_those_of_an_unsharded_run(planned: Planned, tmp_path: Path) -> None:
    """Samples are equal in bytes, and all numbers of tasks and groups, with their standard errors."""
    answers = answer(planned)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir(), theirs.mkdir()
    native = planned.benchmark.conclude(answers, tmp_path, ours)

    table: dict[str, list[Any]] = {}
    for each in answers:
        data = each.solution.data
        value = each.solution.text if data is None else [data["sum"], data["is_greedy"]]
        if each.sample.data["method"] == "loglikelihood_rolling":
            value = data["sum"]
        table.setdefault(each.sample.data["base"], []).append(value)
    (tmp_path / "table.json").write_text(json.dumps(table))
    script = TASKS / "reference.py"
    subprocess.run(
        [sys.executable, script, tmp_path / "table.json", theirs, "4"], cwd=TASKS, check=True
    )
    names = sorted(path.name for path in theirs.iterdir())
    assert names == sorted(path.name for path in ours.iterdir())
    assert len(names) == 5
    for name in names[1:]:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    found, wanted = (json.loads((each / "results.json").read_text()) for each in (ours, theirs))
    for key in (
        "results",
        "groups",
        "group_subtasks",
        "configs",
        "versions",
        "n-shot",
        "n-samples",
    ):
        assert found[key] == wanted[key], key

    numbers = {(m.subset, m.name): m for m in native.metrics}
    assert native.headline == ("toy_all", "exact_match,first")
    assert 0 < numbers[native.headline].value < 1
    assert numbers["toy_choices", "acc_norm,none"].stderr is not None
    assert numbers["toy_prose", "word_perplexity,none"].higher_is_better is False
    assert numbers["toy_group", "exact_match,majority"].n_samples == 8
    assert native.n_samples == len(native.samples) == 15
    sums = [s for s in native.samples if s.subset == "toy_sums"]
    mean = sum(s.scores["exact_match,majority"] for s in sums) / 4
    assert mean == numbers["toy_sums", "exact_match,majority"].value
    assert len(sums[0].data["answers"]) == 4
    assert native.versions["lm_eval"] == "0.4.13"


def test_a_missing_answer_is_never_scored(planned: Planned, tmp_path: Path) -> None:
    """Nor is one too many."""
    answers = [each for each in answer(planned) if each.sample.id != "toy_sums/2#3"]
    with pytest.raises(ScorerError, match=r"toy_sums, document 2 \(answer 4 to it\)"):
        planned.benchmark.conclude(answers, tmp_path, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_the_model_could_not_tell_is_no_answer(planned: Planned, tmp_path: Path) -> None:
    answers = answer(planned)
    sample = answers[0].sample

    class Overflowing(FakeModel):
        async def loglikelihood(self, context: list[int], continuation: list[int]) -> Reply:
            return Reply(Outcome.CONTEXT_OVERFLOW, "", detail="too long")

    solution = asyncio.run(planned.benchmark.solve(sample, Overflowing()))
    with pytest.raises(ScorerError, match=r"no likelihood for toy_choices/0: too long"):
        planned.benchmark.conclude(
            [Answered(sample, 0, solution, None), *answers[1:]], tmp_path, tmp_path
        )


def body(settings: dict[str, Any], repeat: int = 0, context: str = "Q", **params: Any) -> Any:
    return to_body(context, settings, LmEvalParams(task="t", **params), repeat)


def test_settings_of_lm_eval_become_a_body() -> None:
    """As its models for APIs send them; greedy where it does not sample, whatever its temperature says."""
    settings = {"until": "\n", "do_sample": False, "temperature": 0.7, "top_p": 0.9}
    assert body(settings) == {
        "prompt": "Q",
        "max_tokens": 256,
        "temperature": 0,
        "top_p": 0.9,
        "seed": 1234,
        "stop": ["\n"],
    }
    assert body({"max_gen_toks": 9, "temperature": 0.7, "do_sample": True}, repeat=2) == {
        "prompt": "Q",
        "max_tokens": 9,
        "temperature": 0.7,
        "seed": 1236,
    }


def test_messages_go_by_chat_and_the_beginning_of_an_answer_is_continued() -> None:
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "The"}]
    found = body({}, context=json.dumps(messages), apply_chat_template=True)
    assert found["messages"] == messages
    assert (found["max_completion_tokens"], found["continue_final_message"]) == (256, True)
    assert "continue_final_message" not in body(
        {}, context=json.dumps(messages[:1]), apply_chat_template=True
    )


def test_stop_texts_are_those_that_lm_eval_sends() -> None:
    """Its models for chat send the first four; those for completions send all."""
    texts = ["Q:", "\n\n", "</s>", "Problem:", "Question:"]
    assert body({"until": texts})["stop"] == texts
    assert body({"until": texts}, context="[]", apply_chat_template=True)["stop"] == texts[:4]


@pytest.mark.parametrize("host", ["api.openai.com", "us.openai.azure.com"])
def test_more_stop_texts_than_a_hosted_endpoint_takes_are_refused(host: str) -> None:
    """Where that is known; a server of vLLM takes them all."""
    stops = list("abcde")
    sample = Sample(id="t/0", data={"body": {"stop": stops}}, subset="t")
    hosted = ServedModel("hosted", "m", base_url=f"https://{host}/v1")
    with pytest.raises(RecipeError, match=rf"t ends its answers at 5 texts .* and {host} takes 4"):
        refuse_many_stops(hosted, [sample])
    refuse_many_stops(hosted, [replace(sample, data={"body": {"stop": stops[:4]}})])
    refuse_many_stops(replace(hosted, base_url="https://models.example.com/v1"), [sample])
    refuse_many_stops(ServedModel("folder", "/m"), [sample])


def test_likelihoods_by_chat_are_refused() -> None:
    request = {"method": "loglikelihood", "args": ["a", "b"], "base": "0", "rep": 0}
    request |= {"task": "t", "doc": 0, "idx": 0}
    params = LmEvalParams(task="t", apply_chat_template=True)
    with pytest.raises(RecipeError, match="which no chat endpoint tells"):
        list(to_samples([request], params, None))


@pytest.mark.parametrize(
    ("wanted", "found"),
    [(None, "acc_norm,none"), ("f1", "f1,a"), ("f1,b", "f1,b"), ("acc", "acc,none")],
)
def test_the_headline_is_chosen(wanted: str | None, found: str) -> None:
    assert choose(["f1,a", "f1,b", "acc,none", "acc_norm,none"], wanted, "t") == found


def test_a_headline_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(ScorerError, match="there are acc,none"):
        choose(["acc,none"], "bleu", "t")
    with pytest.raises(ScorerError, match="a group that only lists tasks"):
        choose([], None, "t")
