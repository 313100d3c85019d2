"""BFCL v4: its counts, its requests against the vectors, every gold answer, and what is not run."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.benchmarks import bfcl_v4
from evalkit.benchmarks.bfcl_gold import (
    IMPOSSIBLE,
    gold_step,
    gold_turns,
    wrong_solution,
)
from evalkit.benchmarks.contract import Sample, Solution
from evalkit.errors import DataError, RecipeError, ScorerError
from evalkit.report.aggregate import ItemScores, RepeatScores, SubsetSums, aggregate_scores
from evalkit.scoring.bfcl_categories import (
    CATEGORIES,
    ENTRIES,
    MEMORY,
    MULTI_TURN,
    OVERALL_PARTIAL,
    WEB_SEARCH,
)
from evalkit.scoring.bfcl_package import load_package
from evalkit.store.records import Outcome
from tests.unit.benchmarks.bfcl_support import (
    RUNNABLE,
    ScriptedModel,
    Tools,
    by_id,
    frozen,
    load,
    make,
    reply,
    run_here,
    simulators_here,
)
from tests.unit.vectors import Row, load_rows

if TYPE_CHECKING:
    from pathlib import Path

HINT = " Note that the provided function is in Python 3 syntax."
NO_VALUE = ("live_simple_106-63-0", "live_simple_112-68-0")
LOCAL = [name for name in CATEGORIES if name not in (*WEB_SEARCH, "memory_vector")]


def described(sample: Sample, tools: str = "tools") -> list[str]:
    """Descriptions of a sample's tools."""
    return [tool["function"]["description"] for tool in json.loads(sample.data[tools])]


def test_every_category_has_the_published_number_of_entries() -> None:
    """4751 entries can be run without web and weights; those of a memory are in five samples."""
    counts: Counter[str] = Counter()
    for sample in frozen("card", *RUNNABLE):
        counts[str(sample.subset)] += len(sample.target) if sample.subset in MEMORY else 1
    assert counts == {name: ENTRIES[name] for name in LOCAL}
    conversations = Counter(
        str(sample.subset)
        for sample in frozen("card", *RUNNABLE)
        if sample.subset in MEMORY
        for _ in sample.data["conversations"]
    )
    assert conversations == {"memory_kv": 37, "memory_rec_sum": 37}


def test_one_of_each_category_comes_first_and_then_the_longest() -> None:
    """A smoke run sees every category, and no chain of conversations is begun last."""
    subsets = [str(sample.subset) for sample in frozen("card", *RUNNABLE)]
    assert subsets[: len(LOCAL)] == LOCAL
    rest = list(dict.fromkeys(subsets[len(LOCAL) :]))
    assert rest[:3] == ["memory_rec_sum", "memory_kv", "multi_turn_long_context"]
    assert rest[-1] == "simple_python"


@pytest.mark.parametrize("profile", ["card", "fixed"])
def test_tools_are_those_of_the_vectors(profile: Any) -> None:
    """Number, first name and checksum of the canonical JSON."""
    rows = [
        row
        for row in load_rows("bfcl", kind="tools", profile=profile)
        if row.input["category"] not in WEB_SEARCH
    ]
    assert len(rows) == 7
    for row in rows:
        category, entry = row.input["category"], row.input["entry"]
        samples = by_id(profile, category)
        sample = samples["memory_kv_customer"] if category in MEMORY else samples[entry]
        check_tools(json.loads(sample.data["tools"]), row)


def check_tools(tools: list[Any], row: Row) -> None:
    """Against one vector."""
    canonical = json.dumps(tools, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert {
        "n_tools": len(tools),
        "sha256_canonical_json": hashlib.sha256(canonical.encode()).hexdigest(),
        "first_name": tools[0]["function"]["name"],
    } == row.expected


def test_web_search_tools_are_those_of_the_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a back end its two categories are there, a hundred entries each."""
    recording = tmp_path / "web.jsonl"
    recording.write_text("")
    params = {"web_search": "replay", "web_recording": str(recording)}
    dataset = load(make(categories=["web_search"], **params))
    assert Counter(sample.subset for sample in dataset.samples) == dict.fromkeys(WEB_SEARCH, 100)
    assert dataset.prompts == {"web_recording": hashlib.sha256(b"").hexdigest()}
    [row] = [row for row in load_rows("bfcl", kind="tools") if row.input["category"] in WEB_SEARCH]
    [sample] = [sample for sample in dataset.samples if sample.id == row.input["entry"]]
    check_tools(json.loads(sample.data["tools"]), row)
    assert sample.data["turns"][0][0]["role"] == "system"


def test_tools_keep_the_order_of_their_parameters() -> None:
    """A chat template shows them in it; freezing and reading sort no keys in there."""
    sample = by_id("card", "simple_python")["simple_python_0"]
    [tool] = json.loads(sample.data["tools"])
    assert list(tool["function"]["parameters"]["properties"]) == ["base", "height", "unit"]


def test_held_out_functions_appear_with_one_hint_and_the_old_ones_with_two() -> None:
    """As behind the card; in profile `fixed` as the official loader has it, which gives none to those
    that are held out. They come with a fixed message."""
    for profile, of_old, of_new in (("card", 2, 1), ("fixed", 1, 0)):
        sample = by_id(profile, "multi_turn_miss_func")["multi_turn_miss_func_0"]  # type: ignore[arg-type]
        [(turn, tools)] = sample.data["later_tools"].items()
        old = {tool["function"]["name"] for tool in json.loads(sample.data["tools"])}
        found = {True: set[int](), False: set[int]()}
        for tool in json.loads(tools):
            is_old = tool["function"]["name"] in old
            found[is_old].add(tool["function"]["description"].count(HINT))
        assert found == {True: {of_old}, False: {of_new}}
        said = "I have updated some more functions you can choose from. What about now?"
        assert sample.data["turns"][int(turn)] == [{"role": "user", "content": said}]


def test_profiles_differ_in_java_and_javascript_only() -> None:
    """150 entries of single answers have other tools; what they are checked by is the same."""
    card, fixed = by_id("card", "single_turn"), by_id("fixed", "single_turn")
    differing = Counter(
        str(card[name].subset)
        for name in card
        if card[name].data["tools"] != fixed[name].data["tools"]
    )
    assert differing == {"simple_java": 100, "simple_javascript": 50}
    assert all(card[name].data["functions"] == fixed[name].data["functions"] for name in card)
    assert described(card["simple_java_0"])[0].endswith(HINT)
    assert described(fixed["simple_java_0"])[0].endswith("is in Java 8 SDK syntax.")


def test_single_gold_answers_are_right_and_wrong_ones_are_not() -> None:
    """All but six, which the official checker accepts in no form; memories are counted by question."""
    benchmark = make()
    right, wrong, total = Counter[str](), Counter[str](), Counter[str]()
    for sample in frozen("card", "single_turn", "memory_kv", "memory_rec_sum"):
        subset = str(sample.subset)
        gold = benchmark.gold(sample)
        assert (gold is None) == (sample.id in IMPOSSIBLE)
        assert (benchmark.why_no_gold(sample) is None) == (gold is not None)
        if gold is not None:
            score = benchmark.score(sample, gold)
            right[subset] += int(score.values["accuracy"])
            assert score.answer
        failed = benchmark.wrong(sample)
        assert failed is not None
        values = benchmark.score(sample, failed).values
        wrong[subset] += int(values["accuracy"])
        total[subset] += int(values["entries"])
    lost = Counter(name.rpartition("_")[0] for name in IMPOSSIBLE)
    assert total == {name: ENTRIES[name] for name in LOCAL if name not in MULTI_TURN}
    assert right == total - lost
    assert wrong.total() == 0


def test_gold_dialogues_are_right_and_empty_ones_are_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every fifth of 800 through the loop, simulators and official checker, and a fifth of these with
    nothing called. (tests/integration/test_bfcl_gold.py has all of them, with `make long`.)"""
    benchmark = make()
    verdicts: Counter[tuple[str, str, bool]] = Counter()

    async def play(sample: Sample) -> None:
        turns = gold_turns(sample)
        model = ScriptedModel([reply(step) for turn in turns for step in turn], run_here)
        solution = await benchmark.solve(sample, model)  # type: ignore[arg-type]
        assert solution.data["turns"] == turns
        assert model.replies == []
        graded = await benchmark.grade(sample, solution, Tools(run_here))
        verdicts[str(sample.subset), "gold", graded["valid"]] += 1

    async def fail(sample: Sample) -> None:
        graded = await benchmark.grade(sample, wrong_solution(sample), Tools(run_here))
        verdicts[str(sample.subset), "wrong", graded["valid"]] += 1

    async def play_all() -> None:
        samples = sorted(frozen("card", "multi_turn"), key=lambda s: s.id)[::5]
        for number, sample in enumerate(samples):
            await play(sample)
            if number % 5 == 0:
                await fail(sample)

    with simulators_here(monkeypatch, tmp_path):
        asyncio.run(play_all())
    gold = {(name, "gold", True): 40 for name in MULTI_TURN}
    assert verdicts == gold | {(name, "wrong", False): 8 for name in MULTI_TURN}


@pytest.mark.parametrize(
    ("entry", "changes", "expected"),
    [
        ("live_multiple_862-181-3", {}, "unexpected_param"),
        ("live_multiple_862-181-3", {"journey_start_time": None}, "missing_optional"),
        ("live_multiple_964-207-0", {}, "missing_required"),
        ("live_multiple_964-207-0", {"statement": "x"}, "unexpected_param"),
        *((name, {"": v}, "type_error") for name in NO_VALUE for v in ([], [""], "")),
        *((name, {"": None}, "missing_required") for name in NO_VALUE),
        ("simple_java_36", {}, "value_error:list"),
        (
            "simple_java_36",
            {"parts": '["userID", 42, "username", "johndoe", "isActive", true]'},
            "type",
        ),
        (
            "simple_java_36",
            {"parts": ["userID", 42, "username", "johndoe", "isActive", True]},
            "type",
        ),
        ("simple_java_65", {}, "value_error:list"),
        ("simple_java_65", {"params": "new Object[]{include_defaults, true}"}, "type"),
    ],
)
def test_impossible_entries_accept_no_form_of_their_answer(
    entry: str, changes: dict[str, Any], expected: str
) -> None:
    """The answer as it is written, without the argument that is odd (null), and in other forms of it;
    `""` stands for all arguments without a possible value."""
    benchmark, sample = make(), by_id("card", "single_turn")[entry]
    [(name, arguments)] = gold_step(sample)[0].items()
    values = json.loads(arguments) | {k: v for k, v in changes.items() if k}
    for key, value in values.items():
        values[key] = changes.get("", value) if value == "" else value
    values = {key: value for key, value in values.items() if value is not None}
    solution = Solution("", data={"step": [{name: json.dumps(values)}]})
    judged = bfcl_v4._judge(load_package(None), sample, solution)[entry]
    assert not judged.valid
    assert expected in str(judged.error_type)
    assert benchmark.score(sample, solution).values["accuracy"] == 0.0


def test_a_wrong_argument_in_a_gold_dialogue_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of each of 40 dialogues the first call gets another value: the state or a result differs."""
    benchmark, kinds = make(), Counter[str]()
    samples = [s for s in frozen("card", "multi_turn") if s.subset == "multi_turn_base"][:40]
    with simulators_here(monkeypatch, tmp_path):
        for sample in samples:
            turns = gold_turns(sample)
            [(name, arguments)] = turns[0][0][0].items()
            changed = dict.fromkeys(json.loads(arguments), "something else")
            turns[0][0][0] = {name: json.dumps(changed)}
            solution = Solution("", data={"turns": turns})
            found = asyncio.run(benchmark.grade(sample, solution, Tools(run_here)))
            kinds[str(found.get("error_type", "valid"))] += 1
    assert kinds["valid"] == 5  # whose first call has no argument, or does not matter
    assert set(kinds) <= {
        "valid",
        "multi_turn:instance_state_mismatch",
        "multi_turn:execution_response_mismatch",
    }


async def test_another_number_of_turns_is_wrong_without_execution() -> None:
    """An entry that was ended early; no program runs."""
    sample = by_id("card", "multi_turn_base")["multi_turn_base_0"]
    solution = Solution("", Outcome.CONTEXT_OVERFLOW, {"turns": gold_turns(sample)[:-1]})
    found = await make().grade(sample, solution, Tools(run_here))
    assert found == {"valid": False, "error_type": "multi_turn:force_terminated"}


async def test_answers_without_execution_need_no_program() -> None:
    """Their grading says so, and their score does not read it."""
    benchmark = make()
    sample = by_id("card", "single_turn")["simple_python_0"]
    gold = benchmark.gold(sample)
    assert gold is not None
    assert await benchmark.grade(sample, gold, Tools(run_here)) == {"execution": "none"}


def test_a_dialogue_that_was_not_graded_has_no_score() -> None:
    """It is a failure of ours, and says what to type."""
    benchmark = make()
    sample = by_id("card", "multi_turn_base")["multi_turn_base_0"]
    gold = benchmark.gold(sample)
    assert gold is not None
    with pytest.raises(ScorerError, match="multi_turn_base_0 has not been graded") as caught:
        benchmark.score(sample, gold)
    assert caught.value.hint == "Type `evalkit score`."


async def test_a_single_answer_is_one_call_with_the_frozen_request() -> None:
    """Messages and tools as they are; the step is what was called."""
    sample = by_id("card", "single_turn")["simple_python_0"]
    step = [{"calculate_triangle_area": '{"base": 10, "height": 5}'}]
    model = ScriptedModel([reply(step, reasoning="hm")])
    solution = await make().solve(sample, model)  # type: ignore[arg-type]
    assert model.asked == [(list(sample.messages), json.loads(sample.data["tools"]))]
    assert (solution.data, solution.outcome) == ({"step": step}, Outcome.OK)
    assert make().score(sample, solution).values == {"accuracy": 1.0, "entries": 1.0}


def test_scores_become_the_overall_metric_of_what_was_run() -> None:
    """Right everywhere but in two categories: their weights are missing from the sum."""
    benchmark = make()
    items = [
        ItemScores(
            sample.id,
            [RepeatScores("a", values(sample))],
            sample.subset,
        )
        for sample in frozen("card", *RUNNABLE)
    ]
    sums = SubsetSums(benchmark.metric, benchmark.subset_weights)
    found = aggregate_scores(items, weights=benchmark.score_weights, sums=sums)
    metrics = found.metrics["pass@1"]
    assert metrics[OVERALL_PARTIAL] == pytest.approx(1 - 0.4 / 2 - 0.1 / 4 / 3)
    assert metrics["agentic"] == pytest.approx(0.5)
    assert found.totals == {"entries": 4751}
    assert found.statistics[OVERALL_PARTIAL].interval is not None
    assert [name for name in benchmark.subsets if name not in found.subsets] == [
        *WEB_SEARCH,
        "memory_vector",
    ]


def values(sample: Sample) -> dict[str, float]:
    """Full marks, but none in one memory and in Java."""
    entries = float(len(sample.target)) if sample.subset in MEMORY else 1.0
    none = sample.subset in ("memory_kv", "simple_java")
    return {"accuracy": 0.0 if none else entries, "entries": entries}


def test_what_cannot_be_run_is_left_out_with_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    """By default; a category that the recipe names is refused instead."""
    with caplog.at_level(logging.WARNING, logger="evalkit.benchmarks"):
        benchmark = make()
        assert benchmark.params.categories is None
        chosen = {sample.subset for sample in load(benchmark).samples}
    assert chosen == set(LOCAL)
    reasons = [record.getMessage() for record in caplog.records]
    assert reasons[0] == (
        "bfcl_v4: web_search_base is not run: params.web_search names no back end"
    )
    assert reasons[2].startswith("bfcl_v4: memory_vector is not run: ")
    with pytest.raises(DataError, match="web_search_base cannot be run here"):
        load(make(categories=["agentic"]))
    with pytest.raises(DataError, match="memory_vector cannot be run here: "):
        load(make(categories=["memory_vector"]))


def test_parameters_are_checked() -> None:
    """Unknown categories are answered with the known ones, parts of the score stand for theirs."""
    assert make(categories=["live", "simple_java"]).params.categories == (
        "simple_java",
        "live_simple",
        "live_multiple",
        "live_parallel",
        "live_parallel_multiple",
    )
    for wrong, words in (
        ({"categories": ["exec"]}, "unknown: exec. Allowed: single_turn, .*memory_vector"),
        ({"categories": []}, "no category is named"),
        ({"package_path": "here"}, "must begin with / or ~"),
        ({"web_search": "bing"}, "params.web_search"),
    ):
        with pytest.raises(RecipeError, match=words):
            make(**wrong)


def test_profiles() -> None:
    """What differs, and what both send."""
    card, fixed = make("card"), make("fixed")
    assert (card.params.java_js_schema, card.params.double_hint) == ("card", True)
    assert (fixed.params.java_js_schema, fixed.params.double_hint) == ("fixed", False)
    assert card.generation["card"] == {
        "temperature": 0.6,
        "top_p": 0.95,
        "max_tokens": 8192,
        "presence_penalty": 1.0,
    }
    assert card.generation["fixed"]["presence_penalty"] == 0.0


def test_another_package_is_refused(tmp_path: Path) -> None:
    """One that is not there, and one with other files, with both checksums."""
    with pytest.raises(DataError, match=r"params\.package_path: there is no package bfcl_eval"):
        load(make(package_path=str(tmp_path)))
    (tmp_path / "bfcl_eval").mkdir()
    (tmp_path / "bfcl_eval" / "utils.py").write_text("")
    with pytest.raises(DataError, match=r"has checksum [0-9a-f]{64}, that of bfcl-eval") as caught:
        load(make(package_path=str(tmp_path)))
    assert "bfcl_packages.txt" in str(caught.value.hint)


def test_the_sandbox_shows_the_package_and_what_it_imports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without the extra it says what to type; a package elsewhere is shown instead."""
    needs = make().sandbox()
    assert needs.preload == ("mpmath", "numpy", "overrides", "rank_bm25")
    [shown] = needs.readonly
    assert (shown / "bfcl_eval").is_dir()
    (tmp_path / "bfcl_eval").mkdir()
    assert make(package_path=str(tmp_path)).sandbox().readonly == (tmp_path,)
    with pytest.raises(ScorerError, match="there is no package bfcl_eval"):
        make(package_path="/nowhere").sandbox()
    monkeypatch.setattr(bfcl_v4, "find_spec", lambda name: None if name == "mpmath" else object())
    with pytest.raises(ScorerError, match=r"BFCL's simulators need mpmath") as caught:
        make().sandbox()
    assert "evalkit[bfcl]" in str(caught.value.hint)


def test_first_call_offers_the_tools() -> None:
    """A server that parses no calls refuses it, whatever categories there are."""
    for categories in (RUNNABLE, ("memory_kv",)):
        samples = frozen("card", *categories)
        question = make(categories=list(categories)).first_call(samples)
        assert question is not None
        assert question.messages[-1]["role"] == "user"
        assert question.tools[0]["type"] == "function"


def test_replayed_call_is_one_of_a_dialogue() -> None:
    """Reasoning under both keys between a call and its result; none where none would be sent."""
    samples = frozen("card", *RUNNABLE)
    question = make(categories=list(RUNNABLE)).replayed_call(samples)
    assert question is not None
    assistant, result = question.messages[-2:]
    [call] = assistant["tool_calls"]
    assert assistant["reasoning"] == assistant["reasoning_content"] != ""
    assert (result["role"], result["tool_call_id"]) == ("tool", call["id"])
    assert call["function"]["name"] in {tool["function"]["name"] for tool in question.tools}
    silent = make(categories=list(RUNNABLE), reasoning_replay="none")
    assert silent.replayed_call(samples) is None
    assert make().replayed_call(frozen("card", "simple_python")) is None


def test_parts_are_the_published_numbers() -> None:
    """All but the web's 200 dialogues and the vectors' 155, with 37 of the 111 conversations."""
    benchmark, counts = make(), Counter[str]()
    for sample in frozen("card", *RUNNABLE):
        counts.update(benchmark.parts(sample))
    assert counts == {
        "single calls": 3641,
        "dialogues": 1465 - 200 - 155,
        "conversations that write a memory": 111 - 37,
    }
