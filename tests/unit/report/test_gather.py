"""Journals to artifacts: what is counted, what is withheld, what is left alone."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import orjson
import pytest
import yaml
import zstandard

from evalkit.benchmarks.contract import Sample, Score, Solution
from evalkit.errors import ScorerError, StoreError
from evalkit.plan.model import Shard, UnitKey
from evalkit.recipe.request import Reasoning
from evalkit.recipe.serving import ExternalServing, Price
from evalkit.report.statistics import Interval
from evalkit.store.records import Continuation, Outcome, UnitRecord, Usage
from tests.unit.report.run_builder import (
    Echo,
    ManyCallEcho,
    PrivateEcho,
    echo,
    make_call,
    make_failure,
    make_plan,
    make_run,
)


def test_a_complete_task_has_the_headline_the_field_would_quote(tmp_path: Path) -> None:
    """8 units, 1 wrong: 87.5 percent, with error, interval, subsets and no bounds."""
    run = make_run(tmp_path)
    run.write_all(wrong=[UnitKey(0, 1)])
    results = run.gather()
    headline = results.headline
    assert results.complete
    assert headline.name == "pass@1[avg-of-2] correct"
    assert (headline.value, headline.percent) == (0.875, 87.5)
    assert headline.standard_error == pytest.approx(0.125)
    assert headline.standard_error_method == "se_items_clustered"
    assert headline.interval is not None
    assert headline.interval.low < 0.875 < headline.interval.high
    assert headline.interval_method is not None
    assert headline.interval_method.startswith("wilson")
    assert headline.bounds is None
    assert results.subsets is not None
    assert results.subsets["odd"].metrics["pass@1[avg-of-2]"]["correct"] == 1.0
    assert results.metrics is not None
    assert results.metrics["majority@2"]["correct"] == 0.875
    assert (results.counts.scored, results.counts.missing) == (8, 0)
    assert results.missing.first == ()


def test_one_repeat_is_plain_pass_at_1(tmp_path: Path) -> None:
    """With k = 1 the headline is `pass@1 correct`."""
    run = make_run(tmp_path, repeats=1)
    run.write_all()
    assert run.gather().headline.name == "pass@1 correct"


def test_the_published_file_is_the_returned_value(tmp_path: Path) -> None:
    """results.json says what the caller got, and the other artifacts lie beside it."""
    run = make_run(tmp_path)
    run.write_all()
    results = run.gather()
    assert orjson.loads(run.folder.results("echo").read_bytes()) == results.model_dump(mode="json")
    config = yaml.safe_load(run.folder.run_config("echo").read_text())
    assert config["task"]["generation"]["temperature"] == 1.0
    metrics = orjson.loads(run.folder.metrics("echo").read_bytes())
    assert metrics["metrics"]["echo_pass_at_1_avg-of-2_correct"] == 1.0
    assert metrics["subsets"]["even"]["echo_majority_at_2_correct"] == 1.0
    left_over = {path.name for path in run.folder.artifacts("echo").iterdir()}
    documents = {"results.json", "metrics.json", "run_config.yaml", "traffic.json"}
    assert left_over == {"samples.jsonl.zst", *documents}


def test_samples_are_in_order_and_say_nothing_of_how_they_were_made(tmp_path: Path) -> None:
    """Sample by sample, repeat after repeat, whatever shard they came from."""
    run = make_run(tmp_path)
    run.write_all()
    run.gather()
    lines = run.read_samples()
    assert [(x["id"], x["repeat"]) for x in lines] == [
        (f"s{i}", j) for i in range(4) for j in (0, 1)
    ]
    assert lines[0] == {
        "id": "s0",
        "sample": 0,
        "repeat": 0,
        "subset": "even",
        "cluster": None,
        "outcome": "ok",
        "answer": "t0",
        "target": "t0",
        "scores": {"correct": 1.0},
        "detail": None,
        "content": "t0",
        "data": None,
        "grading": None,
        "reasoning": None,
        "tool_calls": [],
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "reasoning_tokens": None},
        "calls": 1,
        "steps": [],
        "messages": [{"role": "user", "content": "say t0"}],
    }


def test_gathering_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    """All artifacts are functions of plan and journals alone."""
    run = make_run(tmp_path)
    run.write_all()
    run.gather()
    first = {path.name: path.read_bytes() for path in run.folder.artifacts("echo").iterdir()}
    run.gather()
    assert {p.name: p.read_bytes() for p in run.folder.artifacts("echo").iterdir()} == first


def test_a_missing_unit_withholds_the_headline_and_gives_bounds(tmp_path: Path) -> None:
    """7 of 8 right and one never answered: between 7/8 and 1, and nothing is averaged."""
    run = make_run(tmp_path)
    run.write(run.answer(key) for key in run.units()[:-1])
    results = run.gather()
    assert not results.complete
    assert results.headline.value is None
    assert results.headline.standard_error is None
    assert results.headline.bounds == Interval(0.875, 1.0)
    assert results.metrics is None
    assert results.missing.count == 1
    unit = results.missing.first[0]
    assert (unit.sample, unit.repeat, unit.shard, unit.reason) == ("s3", 1, 1, "no_record")
    assert results.missing.by_shard == {"00001": 1}
    metrics = orjson.loads(run.folder.metrics("echo").read_bytes())
    assert (metrics["complete"], metrics["metrics"]) == (False, None)
    assert len(run.read_samples()) == 7


def test_a_run_without_a_journal_is_wholly_missing(tmp_path: Path) -> None:
    """Nothing was done: everything is missing, the bounds are 0 and 1, and no sample is written."""
    results = make_run(tmp_path).gather()
    assert results.counts.scored == 0
    assert results.headline.bounds == Interval(0.0, 1.0)
    assert results.tokens.prompt.total is None


class Parts(Echo):
    """Counts the parts of a sample, of which sN has N + 1."""

    score_weights: ClassVar = {"correct": "parts"}
    votes = False

    def known_weight(self, sample: Sample) -> float:
        """Known before anything is answered."""
        return 1.0 + int(sample.id[1:])

    def score(self, sample: Sample, solution: Solution) -> Score:
        """All of them or none; a text of its own makes the grader count one too few."""
        parts = self.known_weight(sample)
        right = float(solution.text == sample.target)
        return Score({"correct": right * parts, "parts": parts - (solution.text == "short")})


def test_bounds_hold_while_whole_samples_of_unequal_weight_are_missing(tmp_path: Path) -> None:
    """Of 1 + 2 + 3 + 4 parts those of the last sample are missing, and a repeat of the third is wrong."""
    run = make_run(tmp_path)
    first, last = ([k for k in run.units() if (k.sample == 3) == is_last] for is_last in (0, 1))
    run.write(
        run.answer(key, "no" if (key.sample, key.repeat) == (2, 0) else None) for key in first
    )
    results = run.gather(echo(Parts))
    assert results.headline.bounds == Interval(9 / 20, 17 / 20)
    run.write((run.answer(key) for key in last), attempt="r0.a2")
    complete = run.gather(echo(Parts))
    assert complete.headline.value == 17 / 20
    assert complete.metrics is not None
    assert set(complete.metrics) == {"pass@1", "pass@2", "pass@1[avg-of-2]"}  # nothing to vote on


def test_a_grader_that_counts_other_parts_than_there_are_has_no_score(tmp_path: Path) -> None:
    """Bounds would not hold."""
    run = make_run(tmp_path)
    run.write([run.answer(run.units()[0], "short")])
    message = run.gather(echo(Parts)).missing.by_reason["scorer_error"].message
    assert message == "the grader of echo gave sample s0 parts = 0.0, it has 1"


def test_an_infrastructure_error_is_missing_with_its_last_message(tmp_path: Path) -> None:
    """A journaled failure of ours is owed, not wrong, and says why."""
    run = make_run(tmp_path)
    *done, last = run.units()
    run.write(run.answer(key) for key in done)
    run.write([make_failure(last)])
    missing = run.gather().missing
    assert missing.by_reason["infra_error"].count == 1
    assert missing.by_reason["infra_error"].message == "connection refused"
    assert missing.first[0].message == "connection refused"


def test_an_error_that_a_later_attempt_made_good_is_not_missing(tmp_path: Path) -> None:
    """The finished record wins over the failure of an earlier attempt."""
    run = make_run(tmp_path)
    run.write([make_failure(key) for key in run.units()])
    run.write([run.answer(key) for key in run.units()], attempt="r0.a2")
    assert run.gather().complete


@pytest.mark.parametrize("text", ["raise", "bug", "nan", "nothing"])
def test_a_failed_grader_is_missing_and_never_wrong(tmp_path: Path, text: str) -> None:
    """Whatever a grader does wrong, its unit has no score, and its line says scorer_error."""
    run = make_run(tmp_path)
    first, *others = run.units()
    run.write([run.answer(first, text), *(run.answer(key) for key in others)])
    results = run.gather()
    assert results.missing.by_reason["scorer_error"].count == 1
    assert results.counts.by_outcome == {"ok": 7, "scorer_error": 1}
    assert results.headline.bounds == Interval(0.875, 1.0)
    line = run.read_samples()[0]
    assert (line["outcome"], line["scores"], line["answer"]) == ("scorer_error", None, None)
    assert line["content"] == text
    assert line["detail"]


def test_outcomes_of_the_model_are_scored_and_counted(tmp_path: Path) -> None:
    """Truncated and empty answers count as what they are; no answer is counted beside them."""
    run = make_run(tmp_path)
    a, b, *others = run.units()
    run.write([run.answer(a, "t", outcome=Outcome.TRUNCATED)])
    run.write([run.answer(b, "", outcome=Outcome.EMPTY)])
    run.write(run.answer(key) for key in others)
    results = run.gather()
    assert results.complete
    assert results.counts.by_outcome == {"empty": 1, "ok": 6, "truncated": 1}
    assert results.counts.no_answer == 1
    assert results.headline.value == 0.75


def test_duplicates_change_the_count_and_nothing_else(tmp_path: Path) -> None:
    """Two live attempts of one shard give the artifacts of one."""
    run = make_run(tmp_path)
    run.write_all()
    run.gather()
    before = run.artifact_bytes()
    run.write([run.answer(key) for key in run.units()], attempt="r1.a1")
    assert run.gather().counts.duplicates == 8
    assert run.artifact_bytes() == before


def test_an_altered_line_is_named_and_its_unit_missing(tmp_path: Path) -> None:
    """The problem names file and line; half a record at the end is no record and no problem."""
    run = make_run(tmp_path, n_shards=1)
    run.write_all()
    path = run.folder.journal(Shard("echo", 0), "r0.a1")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"t1", b"tX")
    path.write_bytes(b"".join(lines)[:-10])
    results = run.gather()
    assert results.missing.count == 2
    (problem,) = results.problems
    assert problem.startswith("journal/echo/00000/r0.a1.jsonl:3: ")


def test_a_kill_leaves_no_trace_in_the_results(tmp_path: Path) -> None:
    """A line that a kill cut off, done again by the next attempt: the same bytes as without it."""
    run = make_run(tmp_path, n_shards=1)
    run.write_all()
    run.gather()
    before = run.artifact_bytes()
    path = run.folder.journal(Shard("echo", 0), "r0.a1")
    path.write_bytes(path.read_bytes()[:-10])
    *_, last = run.task.units(Shard("echo", 0))
    run.write([run.answer(last)], attempt="r0.a2")
    assert run.gather().complete
    assert run.artifact_bytes() == before


def test_a_journal_of_another_plan_is_not_counted(tmp_path: Path) -> None:
    """Answers made with other settings stay out, and are named."""
    run = make_run(tmp_path, n_shards=1)
    other = make_run(tmp_path, n_shards=1)
    other.plan = make_plan(other.task, fingerprint="fedcba9876543210")
    other.write_all()
    results = run.gather()
    assert results.counts.scored == 0
    assert "another plan" in results.problems[0]


def test_an_incomplete_gather_leaves_complete_artifacts_alone(tmp_path: Path) -> None:
    """What was proven complete stays published when a journal is lost or a grader fails later."""
    run = make_run(tmp_path)
    run.write_all()
    run.gather()
    before = {path.name: path.read_bytes() for path in run.folder.artifacts("echo").iterdir()}
    run.folder.journal(Shard("echo", 0), "r0.a1").unlink()
    results = run.gather()
    assert not results.complete
    assert {p.name: p.read_bytes() for p in run.folder.artifacts("echo").iterdir()} == before


def test_complete_artifacts_of_another_plan_are_replaced(tmp_path: Path) -> None:
    """A results.json that belongs to other settings protects nothing."""
    run = make_run(tmp_path)
    run.write_all()
    run.gather()
    run.plan = make_plan(run.task, fingerprint="fedcba9876543210")
    assert not run.gather().complete
    assert not orjson.loads(run.folder.results("echo").read_bytes())["complete"]


def test_an_unreadable_results_file_is_replaced(tmp_path: Path) -> None:
    """A broken file from elsewhere does not stop a gather."""
    run = make_run(tmp_path)
    run.folder.results("echo").parent.mkdir(parents=True)
    run.folder.results("echo").write_text("{")
    assert not run.gather().complete


def test_private_data_is_not_republished(tmp_path: Path) -> None:
    """Targets are withheld and messages are a checksum."""
    run = make_run(tmp_path)
    run.write_all()
    run.gather(echo(PrivateEcho))
    line = run.read_samples()[0]
    assert line["target"] is None
    assert "messages" not in line
    assert len(line["messages_sha256"]) == 64


def test_a_unit_of_many_calls_sums_its_tokens(tmp_path: Path) -> None:
    """Calls are counted one by one in the statistics, and together in the unit's line."""
    run = make_run(tmp_path, n=1, repeats=1, n_shards=1)
    key = UnitKey(0, 0)
    run.write([make_call(key, "a"), make_call(key, "b", call=1, usage=Usage(20, 7))])
    run.write([UnitRecord(0, 0, Outcome.OK, "t0", {"steps": 2}, 2)])
    results = run.gather(echo(ManyCallEcho))
    assert results.counts.calls == 2
    assert (results.tokens.prompt.total, results.tokens.prompt.max) == (30, 20)
    assert results.tokens.reasoning.unknown == 2
    line = run.read_samples()[0]
    assert line["usage"]["completion_tokens"] == 12
    assert (line["calls"], line["content"], line["data"]) == (2, "t0", {"steps": 2})


def test_a_judge_error_is_missing_for_that_reason(tmp_path: Path) -> None:
    """A unit whose judge failed is owed as a judge error."""
    run = make_run(tmp_path, n=1, repeats=1, n_shards=1)
    run.write([UnitRecord(0, 0, Outcome.JUDGE_ERROR, "", detail="judge is down")])
    results = run.gather(echo(ManyCallEcho))
    assert results.missing.by_reason["judge_error"].message == "judge is down"


def test_scores_that_do_not_fit_together_are_a_scorer_error(tmp_path: Path) -> None:
    """Units with different score names cannot be averaged: the benchmark is at fault, by name."""

    class Odd(Echo):
        def score(self, sample, solution):  # type: ignore[no-untyped-def]
            score = super().score(sample, solution)
            return score if sample.id == "s0" else type(score)({**score.values, "x": 1.0})

    run = make_run(tmp_path)
    run.write_all()
    with pytest.raises(ScorerError, match="task echo: the scores of benchmark echo"):
        run.gather(echo(Odd))


class Averaged(Echo):
    """Has a metric that is the mean of others."""

    metric_means: ClassVar[Mapping[str, Sequence[str]]] = {"mean": ["correct"]}


def test_a_mean_of_metrics_is_a_metric_without_statistics(tmp_path: Path) -> None:
    """It is in every mode beside the scores it is made of."""
    run = make_run(tmp_path)
    run.write_all(wrong=[UnitKey(0, 1)])
    results = run.gather(echo(Averaged))
    assert results.metrics is not None
    assert results.statistics is not None
    assert all(metrics["mean"] == metrics["correct"] for metrics in results.metrics.values())
    assert "mean" not in results.statistics


def test_progress_is_told_shard_by_shard(tmp_path: Path) -> None:
    """One report per shard, with the units scored so far."""
    run = make_run(tmp_path)
    run.write_all()
    run.gather()
    assert [(p.shards, p.of_shards) for p in run.progress] == [(1, 3), (2, 3), (3, 3)]
    assert run.progress[-1].scored == 8


def test_a_folder_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    """A file where the artifacts' folder should be gives a sentence, not a traceback."""
    run = make_run(tmp_path)
    run.folder.artifacts().write_text("in the way")
    with pytest.raises(StoreError, match="cannot write"):
        run.gather()


def test_progress_replaces_an_incomplete_result(tmp_path: Path) -> None:
    """An incomplete gather protects nothing: the next one publishes what there is by then."""
    run = make_run(tmp_path)
    *done, last = run.units()
    run.write([run.answer(done[0])])
    run.gather()
    run.write((run.answer(key) for key in done[1:]), "r0.a2")
    assert run.gather().counts.scored == 7
    assert orjson.loads(run.folder.results("echo").read_bytes())["counts"]["scored"] == 7
    run.write([run.answer(last)], "r0.a3")
    assert run.gather().complete


def test_the_checksum_is_that_of_the_samples(tmp_path: Path) -> None:
    """`samples_sha256` is over the uncompressed lines, also where earlier ones were left alone."""
    run = make_run(tmp_path)
    run.write_all()
    results = run.gather()
    path = run.folder.samples("echo")
    content = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
    assert results.samples_sha256 == hashlib.sha256(content).hexdigest()
    run.folder.journal(Shard("echo", 2), "r0.a1").unlink()
    left = [x for x in content.splitlines(keepends=True) if unit_number(x) % 3 != 2]
    assert run.gather().samples_sha256 == hashlib.sha256(b"".join(left)).hexdigest()


def unit_number(line: bytes) -> int:
    """Number of the unit of a line, among four samples."""
    row = orjson.loads(line)
    return int(row["repeat"] * 4 + row["sample"])


def test_retries_and_latencies_come_from_the_records(tmp_path: Path) -> None:
    """Retries are summed; latency statistics are exact."""
    run = make_run(tmp_path)
    for number, key in enumerate(run.units()):
        run.write([run.answer(key, latency_s=float(number), retries=number % 2)])
    results = run.gather()
    assert results.counts.retries == 4
    assert results.latency_s.total == 28.0
    assert (results.latency_s.p50, results.latency_s.max) == (3.0, 7.0)


def test_tokens_of_a_unit_are_unknown_when_a_call_is(tmp_path: Path) -> None:
    """A sum over known calls alone would be too small: it is null instead."""
    run = make_run(tmp_path, n=1, repeats=1, n_shards=1)
    key = UnitKey(0, 0)
    run.write([make_call(key, "a"), make_call(key, "b", call=1, usage=Usage(None, 7))])
    run.write([UnitRecord(0, 0, Outcome.OK, "t0", calls=2)])
    results = run.gather(echo(ManyCallEcho))
    usage = run.read_samples()[0]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (None, 12)
    assert (results.tokens.prompt.count, results.tokens.prompt.unknown) == (1, 1)


def test_continued_units_and_saved_tokens_are_counted(tmp_path: Path) -> None:
    """A unit counts once however often it was interrupted; its samples say nothing of it."""
    run, undisturbed = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    places = (Continuation(100, 7), Continuation(250, 8))
    for number, key in enumerate(run.units()):
        call = run.answer(key)
        run.write([replace(call, continued=places[:number]) if number < 3 else call])
        undisturbed.write([call])
    results, other = run.gather(), undisturbed.gather()
    assert (results.counts.continued, results.tokens.saved) == (2, 100 + 100 + 250)
    assert (other.counts.continued, other.tokens.saved) == (0, 0)
    assert run.artifact_bytes() == undisturbed.artifact_bytes()


def test_reasoning_is_told_by_call(tmp_path: Path) -> None:
    """How many answers reasoned, in how many something came of it, and how long it was; reasoning that
    was kept in the content for want of an end counts, too."""
    run = make_run(tmp_path, n=4, repeats=1, reasoning=Reasoning(keep_unfinished=True))
    thoughts = {0: ("t0", "one two three"), 1: ("", "one"), 2: ("<think>one two", None)}
    for key in run.units():
        text, reasoning = thoughts.get(key.sample, ("t3", None))
        call = run.answer(key)
        run.write([replace(call, reply=replace(call.reply, content=text, reasoning=reasoning))])
    found = run.gather().reasoning
    assert found is not None
    assert (found.calls, found.finished, found.finished_share) == (3, 1, 1 / 3)
    assert (found.words.total, found.words.max, found.words.unknown) == (6, 3, 1)


def test_cost_is_computed_and_never_guessed(tmp_path: Path) -> None:
    """Prompts, caches and answers by their prices; a call that was not counted is told apart; no price, no
    cost."""
    serving = ExternalServing(
        kind="external",
        base_url="http://x/v1",
        price=Price(input=2.0, output=8.0, cached=1.0),
    )
    run = make_run(tmp_path / "priced", n=3, repeats=1)
    deployment = run.plan.deployments[0].model_copy(update={"serving": serving})
    run.plan = run.plan.model_copy(update={"deployments": (deployment,)})
    usages = [Usage(1000, 100, None, 400), Usage(500, 50), Usage(None, 9)]
    for key in run.units():
        call = run.answer(key)
        run.write([replace(call, reply=replace(call.reply, usage=usages[key.sample]))])
    cost = run.gather().cost
    assert cost is not None
    assert cost.value == pytest.approx((1100 * 2 + 400 * 1 + 150 * 8) / 1e6)
    assert (cost.uncounted, cost.price["cached"]) == (1, 1.0)
    free = make_run(tmp_path / "free", n=1, repeats=1)
    free.write([free.answer(key) for key in free.units()])
    assert free.gather().cost is None
