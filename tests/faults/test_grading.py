"""Answers are graded once, whatever happens to the grader, and again only for another grader."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any

import orjson
import psutil
import pytest
import zstandard

from evalkit.cluster.attempts import read_attempts
from evalkit.cluster.jobs import read_jobs
from evalkit.cluster.replica_report import read_reports, read_reports_by_file
from evalkit.store.codec import decode
from evalkit.store.layout import RunFolder
from evalkit.store.reading import read_journal
from evalkit.store.records import CallRecord, GradingRecord
from evalkit.store.run import load_plan
from evalkit.store.union import list_journals
from tests.faults.harness import FAULT_SERVER, Place, Server, finish, serving, wait_for
from tests.unit.serving.support import writing_to

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from evalkit.store.codec import Record


N = 12
BOTH: dict[str, Any] = {"judged": {"params": {"n": N}}, "programs": {"params": {"n": N}}}
JUDGED = {"judged": BOTH["judged"]}
TRIED = 1
"""Requests that try a judge before the generation."""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A folder for one run."""
    return Place(tmp_path)


@pytest.fixture
def judge() -> Iterator[Server]:
    """An endpoint that judges."""
    with serving() as server:
        yield server


@pytest.fixture
def model() -> Iterator[Server]:
    """An endpoint that answers."""
    with serving() as server:
        yield server


def judged_by(server: Server, **more: Any) -> dict[str, Any]:
    """The `judges` of a recipe."""
    serving_keys = {"kind": "external", "base_url": server.base_url, **more}
    return {"j": {"id": "m", "serving": serving_keys, "parallelism": 4}}


def recipe_of(place: Place, model: Server, judge: Server, **changes: Any) -> Path:
    """Both graded tasks."""
    return place.external(model, **{"tasks": BOTH, "judges": judged_by(judge), **changes})


def results_of(place: Place, task: str, profile: Any = None) -> dict[str, Any]:
    """results.json of a task."""
    folder = RunFolder(place.folder.root, profile)
    results: dict[str, Any] = orjson.loads(folder.results(task).read_bytes())
    return results


def samples_of(place: Place, task: str) -> list[dict[str, Any]]:
    """Lines of samples.jsonl."""
    content = place.folder.samples(task).read_bytes()
    with zstandard.ZstdDecompressor().stream_reader(content) as stream:
        return [orjson.loads(line) for line in stream.readall().splitlines()]


def records_of(place: Place, task: str) -> list[list[Record]]:
    """Records of each grader's journals."""
    plan = load_plan(place.folder)
    found = []
    for folder in sorted((place.folder.root / "gradings" / task).iterdir()):
        grading = RunFolder(folder)
        identity = orjson.loads(grading.grader.read_bytes())["fingerprint"]
        own = plan.model_copy(update={"fingerprint": identity})
        paths = [(s, p) for s in plan.task(task).shards() for p in list_journals(grading, s)]
        found.append([decode(r) for s, path in paths for r in read_journal(path, own, s, [])])
    return found


def judge_calls(place: Place) -> list[tuple[int, int, str]]:
    """Journaled calls of the judge: (sample, number, request)."""
    [records] = records_of(place, "judged")
    return [(r.sample, r.call, r.request) for r in records if isinstance(r, CallRecord)]


def comparable(place: Place) -> dict[str, Any]:
    """Artifacts that must not depend on what happened on the way."""
    return {task: (samples_of(place, task), results_of(place, task)["metrics"]) for task in BOTH}


def test_run_grades_what_needs_it(place: Place, model: Server, judge: Server) -> None:
    """One command: answers, gradings, results; the judge is in all that says what was done."""
    place.evalkit("run", recipe_of(place, model, judge))
    assert judge.counts()["answered"] == TRIED + 2 * N
    results = results_of(place, "judged")
    assert results["complete"]
    assert results["headline"]["name"] == "pass@1 even[m]"
    assert results["settings"]["judge"]["model"]["source"] == "m"
    assert results["settings"]["grader"]
    facts = results["provenance"]["judge"]
    assert (facts["name"], facts["model"], facts["kind"]) == ("j", "m", "hosted")
    assert (facts["url"], facts["calls"]) == (judge.base_url, 2 * N)
    assert facts["tokens"]["completion"] > 0
    assert [each["facts"]["kind"] for each in facts["servers"]] == ["external"]
    summary = orjson.loads(place.folder.summary.read_bytes())
    assert summary["tasks"][0]["judge"] == facts
    assert results_of(place, "programs")["provenance"]["judge"] is None
    assert [line["grading"]["ended"] for line in samples_of(place, "programs")] == ["ok"] * N
    assert results_of(place, "programs")["settings"]["judge"] is None


def test_graded_once(place: Place, model: Server, judge: Server) -> None:
    """Another score, gather or run of a graded run asks nobody and changes nothing."""
    recipe = recipe_of(place, model, judge)
    place.evalkit("run", recipe)
    before, asked = comparable(place), judge.counts()["received"]
    place.evalkit("score", place.folder.root)
    place.evalkit("gather", place.folder.root)
    place.evalkit("run", recipe)
    assert judge.counts()["received"] == asked
    assert comparable(place) == before


def test_gather_alone_grades_nothing(place: Place, model: Server, judge: Server) -> None:
    """Answers nobody has graded are missing for that reason, and scored as nothing."""
    recipe = recipe_of(place, model, judge)
    place.evalkit("prepare", recipe)
    finish(place.start_worker("r0"))
    text = place.evalkit("gather", place.folder.root, code=10)
    assert f"judged: {N} of {N} units are missing: {N} ungraded" in text
    assert "`evalkit score` grades what is ungraded" in text
    assert results_of(place, "judged")["headline"]["bounds"] == [0.0, 1.0]
    assert {line["outcome"] for line in samples_of(place, "judged")} == {"ungraded"}
    assert judge.counts()["received"] == TRIED
    place.evalkit("score", place.folder.root, "-t", "programs")
    assert judge.counts()["received"] == TRIED
    place.evalkit("score", place.folder.root)
    assert results_of(place, "judged")["complete"]
    assert results_of(place, "programs")["complete"]


def test_killed_grader(place: Place, model: Server, judge: Server, tmp_path: Path) -> None:
    """No call of the judge that is journaled is made again, and what comes out is the same."""
    other = Place(tmp_path / "undisturbed")
    other.evalkit("run", recipe_of(other, model, judge))
    expected, asked = comparable(other), judge.counts()["received"]
    recipe = recipe_of(place, model, judge)
    place.evalkit("prepare", recipe)
    finish(place.start_worker("r0"))
    before = judge.counts()["received"]
    judge.hang_after(9)
    grader = place.start("score", place.folder.root)
    wait_for(lambda: judge.counts()["received"] == before + 9 + 4, grader)
    grader.send_signal(signal.SIGKILL)
    finish(grader, -signal.SIGKILL)
    kept = judge_calls(place)
    assert 0 < len(kept) <= 9
    judge.go_on()
    before = judge.counts()["received"]
    place.evalkit("score", place.folder.root)
    assert judge.counts()["received"] - before == 2 * N - len(kept)
    assert len(judge_calls(place)) == len(set(judge_calls(place))) == 2 * N
    assert comparable(place) == expected
    assert asked == TRIED + 2 * N


def test_two_graders_share_the_work(place: Place, model: Server, judge: Server) -> None:
    """The second one waits for what the first one holds, and finds it done."""
    place.evalkit("prepare", recipe_of(place, model, judge, tasks=JUDGED))
    finish(place.start_worker("r0"))
    judge.hang_after(1)
    first = place.start("score", place.folder.root)
    wait_for(lambda: judge.counts()["in_flight"] == 4, first)
    second = place.start("score", place.folder.root)
    wait_for(lambda: judge.counts()["in_flight"] == 8, second)
    judge.go_on()
    finish(first)
    finish(second)
    assert results_of(place, "judged")["complete"]
    assert len(judge_calls(place)) == 2 * N


def test_outage_is_no_verdict(place: Place, model: Server) -> None:
    """A judge that fails leaves units without a score, never with a wrong one."""
    client = {"max_retries": 0, "retry_budget_s": 1}
    with serving("--fail-status", "500", "--fail-every", "2", "--fail-times", "2") as judge:
        recipe = recipe_of(place, model, judge, tasks=JUDGED, client=client)
        place.evalkit("run", recipe, code=10)
        results = results_of(place, "judged")
        failed = results["missing"]["by_reason"]["judge_error"]["count"]
        assert 0 < failed < N
        assert results["counts"]["scored"] == N - failed
        assert results["headline"]["value"] is None
        text = place.evalkit("score", place.folder.root, code=8)  # bodies that fail twice
        assert "tasks.judged: " in text
        assert "answers could not be graded; the last: " in text
        for _ in range(3):
            finished = place.start("score", place.folder.root)
            finished.communicate()
        assert results_of(place, "judged")["complete"]


def test_wrong_key_of_the_judge(place: Place, model: Server) -> None:
    """No job is sent and nothing is generated; the person is told what to mend, and the right key does."""
    place.env["JUDGE"] = "sk-wrong-and-secret"
    with serving("--api-key", "sk-right-and-secret") as judge:
        judges = judged_by(judge, api_key_env="JUDGE")
        recipe = recipe_of(place, model, judge, tasks=JUDGED, judges=judges)
        for command in ("submit", "run"):
            text = place.evalkit(command, recipe, code=6)
            assert f"judges.j: the judge m at {judge.base_url} refuses" in text
            assert "tasks.judged: HTTP 401: Unauthorized" in text
            assert "Check the key in JUDGE (judges.j.serving.api_key_env)." in text
            assert model.counts()["received"] == 0
            assert bool(read_jobs(place.folder)) == (command == "run")
        place.env["JUDGE"] = "sk-right-and-secret"
        place.evalkit("run", recipe)
    assert results_of(place, "judged")["complete"]
    written = [path.read_bytes() for path in place.folder.root.rglob("*") if path.is_file()]
    assert not any(b"-and-secret" in content for content in written)


def test_judge_that_fails_behind_the_generation(place: Place, model: Server) -> None:
    """A key that was right and is not any more costs no answer, and the right key makes up for it."""
    place.env["JUDGE"] = "sk-right-and-secret"
    with serving("--api-key", "sk-right-and-secret") as judge:
        judges = judged_by(judge, api_key_env="JUDGE")
        place.evalkit("prepare", recipe_of(place, model, judge, tasks=JUDGED, judges=judges))
        finish(place.start_worker("r0"))
        asked = model.counts()["received"]
        place.env["JUDGE"] = "sk-wrong-and-secret"
        text = place.evalkit("score", place.folder.root, code=6)
        assert "tasks.judged cannot be graded: " in text
        assert "does not accept our key" in text
        assert "sk-wrong-and-secret" not in text
        assert results_of(place, "judged")["missing"]["by_reason"]["ungraded"]["count"] == N
        place.env["JUDGE"] = "sk-right-and-secret"
        place.evalkit("score", place.folder.root)
        assert model.counts()["received"] == asked
    assert results_of(place, "judged")["complete"]


def test_judge_that_is_not_reached(place: Place, model: Server, judge: Server) -> None:
    """Nodes may have no way to it: answers are generated, and somebody else grades them."""
    place.evalkit("prepare", recipe_of(place, model, judge, tasks=JUDGED))
    judge.switch(fail_status=503, fail_every=1, fail_times=10**6)
    finish(place.start_worker("r0"))
    [warning] = read_reports(place.folder)["r0"].warnings
    start = f"judges.j: the judge m at {judge.base_url} gave no answer when it was tried: "
    assert warning.startswith(f"{start}it answers HTTP 503: fault on demand")
    assert f"r0.a1: {warning}" in place.folder.stdout.read_text()
    judge.switch(fail_status=0)
    place.evalkit("score", place.folder.root)
    assert results_of(place, "judged")["complete"]


def test_key_of_the_judge_is_needed_before_anything(
    place: Place, model: Server, judge: Server
) -> None:
    """A key that is not set is said before hours of generation."""
    judges = judged_by(judge, api_key_env="NOT_SET")
    recipe = recipe_of(place, model, judge, tasks=JUDGED, judges=judges)
    text = place.evalkit("run", recipe, code=2)
    assert "NOT_SET" in text
    assert model.counts()["received"] == 0


def test_another_judge(place: Place, model: Server, judge: Server) -> None:
    """A recipe with another judge goes on with the answers, and keeps both findings."""
    place.evalkit("run", recipe_of(place, model, judge, tasks=JUDGED))
    asked = model.counts()["received"]
    first = results_of(place, "judged")["settings"]["grader"]
    other = judged_by(judge)
    other["j"]["generation"] = {"top_p": 0.25}
    place.evalkit("run", recipe_of(place, model, judge, tasks=JUDGED, judges=other))
    assert model.counts()["received"] == asked
    assert judge.counts()["received"] == TRIED + 4 * N
    second = results_of(place, "judged")
    assert second["complete"]
    assert second["settings"]["grader"] != first
    assert len(records_of(place, "judged")) == 2


def test_another_profile(place: Place, model: Server, judge: Server) -> None:
    """What only the scorer reads costs nobody anything, and the run's own artifacts stay."""
    place.evalkit("run", recipe_of(place, model, judge))
    before, asked = comparable(place), judge.counts()["received"]
    place.evalkit("score", place.folder.root, "--profile", "fixed")
    assert judge.counts()["received"] == asked
    assert comparable(place) == before
    card, fixed = (results_of(place, "judged", profile) for profile in (None, "fixed"))
    assert (card["settings"]["profile"], fixed["settings"]["profile"]) == ("card", "fixed")
    assert fixed["settings"]["params"]["wanted"] == "odd"
    assert fixed["headline"]["value"] == pytest.approx(1 - card["headline"]["value"])


def test_judge_that_evalkit_serves(place: Place, model: Server) -> None:
    """Its server starts when the answers are there, judges them, and is gone."""
    argv = [sys.executable, str(FAULT_SERVER), "--port", "{port}", "--api-key", "{api_key}"]
    command = [*argv, "--model", "{served_model_name}"]
    judges = {"own": {"id": "m", "serving": {"kind": "command", "gpus": 0, "command": command}}}
    recipe = place.external(model, tasks=JUDGED, judges=judges)
    text = place.evalkit("run", recipe)
    assert model.counts()["received"] == N
    assert text.count("server is ready on") == 1
    results = results_of(place, "judged")
    assert results["complete"]
    assert results["headline"]["name"] == "pass@1 even[own]"
    assert results["provenance"]["judge"]["kind"] == "served"
    [log] = (place.folder.root / "gradings" / "judged").glob("*/logs/r900/attempt-1/server.log")
    assert log.exists()
    assert writing_to(place.folder.root) == []


def test_recipe_without_a_judge(place: Place, model: Server) -> None:
    """It is said before anything is generated, with what to write."""
    recipe = place.external(model, tasks=JUDGED)
    text = place.evalkit("run", recipe, code=2)
    assert (
        "tasks.judged: answers to judged are judged by a model, and the recipe names none" in text
    )
    assert "judges: {NAME: " in text


def test_changed_answer_is_graded_again(place: Place, model: Server, judge: Server) -> None:
    """What was found about one answer is not taken for another's."""
    place.evalkit("run", recipe_of(place, model, judge, tasks=JUDGED))
    [before] = records_of(place, "judged")
    path = next(place.folder.root.glob("journal/judged/*/*.jsonl"))
    path.unlink()
    model.switch(empty_every=1)
    place.evalkit("run", recipe_of(place, model, judge, tasks=JUDGED))
    [after] = records_of(place, "judged")
    answers = [
        {(r.sample, r.solution) for r in records if isinstance(r, GradingRecord)}
        for records in (before, after)
    ]
    assert answers[0] < answers[1]
    assert len(after) - len(before) == 3 * len(answers[1] - answers[0])
    assert results_of(place, "judged")["complete"]


def test_another_question_to_the_judge(place: Place, model: Server, judge: Server) -> None:
    """A parameter that only `grade` reads is no other run: the answers are there, and judged anew."""
    place.evalkit("run", recipe_of(place, model, judge, tasks=JUDGED))
    asked = model.counts()["received"]
    other = {"judged": {"params": {"n": N, "question": "Is it wrong?"}}}
    place.evalkit("run", recipe_of(place, model, judge, tasks=other))
    assert model.counts()["received"] == asked
    assert judge.counts()["received"] == TRIED + 4 * N
    results = results_of(place, "judged")
    assert results["complete"]
    assert results["settings"]["params"]["question"] == "Is it wrong?"


def test_useless_verdict_is_asked_for_anew(place: Place, model: Server, judge: Server) -> None:
    """What the judge said about an answer that it gave no verdict on is not taken for its next word."""
    judge.switch(empty_every=1)  # the plug-in wants some text
    recipe = recipe_of(place, model, judge, tasks=JUDGED)
    text = place.evalkit("run", recipe, code=10)
    assert f"{N} answers could not be graded" in text
    missing = results_of(place, "judged")["missing"]["by_reason"]
    assert missing["judge_error"]["count"] == N
    judge.switch(empty_every=0)
    place.evalkit("score", place.folder.root)
    assert results_of(place, "judged")["complete"]


def test_several_nodes_are_the_replicas_affair(place: Place, model: Server, judge: Server) -> None:
    """A grader needs one node, however many a replica has."""
    recipe = recipe_of(place, model, judge, tasks=JUDGED)
    place.evalkit("prepare", recipe)
    finish(place.start_worker("r0"))
    settings = place.folder.cluster_settings
    cluster = orjson.loads(settings.read_bytes())
    settings.write_bytes(orjson.dumps({**cluster, "nodes": 2}))
    place.evalkit("score", place.folder.root)
    assert results_of(place, "judged")["complete"]


def grading_job(place: Place) -> psutil.Process:
    """The process that grades: the child of what the submit has started."""
    [gather] = [job for job in read_jobs(place.folder) if job.role == "gather"]
    [child] = psutil.Process(int(gather.job_id)).children()
    return child


def grading_state(place: Place, task: str) -> str | None:
    """What the latest grader says of itself."""
    [grading] = (place.folder.root / "gradings" / task).iterdir()
    reports = read_reports_by_file(RunFolder(grading))
    return reports[0].state if reports else None


def test_grading_job_goes_on_after_its_warning(place: Place, model: Server, judge: Server) -> None:
    """Warned of its time limit it ends what it has begun, begins nothing, and is run again by itself."""
    recipe = recipe_of(place, model, judge, tasks=JUDGED)
    judge.hang_after(5)
    submit = place.start("submit", recipe, "--wait")
    wait_for(lambda: judge.counts()["in_flight"] == 4, submit)
    [status] = orjson.loads(place.evalkit("status", place.folder.root, "--json"))
    assert (status["stage"], status["phase"]) == ("grading", "grading")
    grading_job(place).send_signal(signal.SIGUSR2)
    wait_for(lambda: grading_state(place, "judged") == "draining", submit)
    judge.go_on()
    finish(submit)
    attempts = read_attempts(place.folder.gather_place)
    assert [(record.end, record.reason) for record in attempts] == [
        ("drained", "SIGUSR2"),
        ("done", None),
    ]
    assert 0 < attempts[0].units < N
    assert sum(record.units for record in attempts) == N
    assert results_of(place, "judged")["complete"]
    *asked, tried = sorted(judge.counts()["received_by_hash"].values())
    assert asked == [1] * len(judge_calls(place)) == [1] * (2 * N)
    assert tried > 1  # the request that tries a judge, by the submit and by the worker
    assert not list((place.folder.root / "gradings").glob("**/*.lock"))
