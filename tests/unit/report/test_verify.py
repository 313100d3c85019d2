"""A run beside a card: verdicts, what stays undecided, and the checklist."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from evalkit.recipe.schema import Client
from evalkit.report.card import Card
from evalkit.report.results import Difference, ServerFacts
from evalkit.report.verify import OTHER_SETTINGS, verify_run
from tests.unit.report.scored_builder import Halves, Tasks, loaded

if TYPE_CHECKING:
    from evalkit.report.checklist import Check
    from evalkit.report.scored import AnyTask
    from evalkit.report.verify import BenchmarkVerdict, Verification

N, K = 40, 4


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Tasks:
    """What tasks are made from."""
    return Tasks(tmp_path_factory.mktemp("run"))


def rows(right: int, repeats: int = K) -> dict[str, list[float]]:
    """N samples: `right` always right, of the others each second answer."""
    half = [float(j % 2) for j in range(repeats)]
    return {f"s{i}": [1.0] * repeats if i < right else half for i in range(N)}


def make_card(**entries: dict[str, Any]) -> Card:
    """A card; by default of one benchmark, with what `Tasks` makes."""
    basics = {"metric": "correct", "samples": N, "repeats": K, "version": "1", "data": ["0" * 64]}
    values = entries or {"t": {"value": 75.0}}
    return Card.model_validate(
        {
            "name": "Tiny",
            "source": ["here"],
            "models": ["tiny"],
            "profile": "card",
            "generation": {"temperature": 1.0},
            "benchmarks": {name: {**basics, **entry} for name, entry in values.items()},
        }
    )


def verify(card: Card, **found: AnyTask) -> Verification:
    """These tasks beside the card."""
    return verify_run(loaded("run", **found), card, Client(), missing_files={})


def task_of(found: Verification) -> BenchmarkVerdict:
    """The only benchmark."""
    [benchmark] = found.benchmarks
    return benchmark


def made(tasks: Tasks, right: int, name: str = "t", **changes: Any) -> AnyTask:
    """A task of the benchmark `name`."""
    return tasks.scored(rows(right), benchmark=name, **changes)


def test_consistent(tasks: Tasks) -> None:
    """75 % beside a card of 75.0: nothing between them but the rounding."""
    found = verify(make_card(), t=made(tasks, 20))
    task = task_of(found)
    assert (task.verdict, task.value, task.is_bound) == ("consistent", 0.75, False)
    assert task.agreement is not None
    assert task.agreement.p_value == 1.0
    assert found.verdict == "consistent"
    assert found.exit_code(strict=True) == 0


def test_not_consistent(tasks: Tasks) -> None:
    """The error is that of 20 samples which flip a coin: sqrt(20/3 (1/4 + 1/4)) / 40 = 4.6 points."""
    found = verify(make_card(t={"value": 90.0, "band": 5.0}), t=made(tasks, 20))
    task = task_of(found)
    assert task.agreement is not None
    assert task.agreement.standard_error == pytest.approx((20 / 3 / 2) ** 0.5 / 40)
    assert (task.verdict, task.within_band) == ("not consistent", False)
    assert found.verdict == "not consistent"
    assert found.exit_code(strict=False) == 12


def test_one_repeat_is_a_bound(tasks: Tasks) -> None:
    """And said to be one."""
    task = tasks.scored(rows(20, repeats=1), benchmark="t")
    found = task_of(verify(make_card(t={"value": 50.0, "repeats": 1}), t=task))
    assert found.is_bound
    assert found.standard_error == pytest.approx((0.25 / N) ** 0.5, rel=0.01)


def test_the_verdict_over_all_benchmarks_is_adjusted(tasks: Tasks) -> None:
    """One of six scores just outside its own interval does not refuse the run."""
    entries = {f"t{i}": {"value": 75.0} for i in range(5)} | {"t5": {"value": 85.0}}
    parts = {name: made(tasks, 20, name) for name in entries}
    found = verify(make_card(**entries), **parts)
    assert [each.verdict for each in found.benchmarks] == ["consistent"] * 5 + ["not consistent"]
    assert found.benchmarks[-1].adjusted_p == pytest.approx(
        6 * found.benchmarks[-1].agreement.p_value  # type: ignore[union-attr]
    )
    assert found.verdict == "consistent"


def test_error_rates_of_whole_runs(tasks: Tasks) -> None:
    """Of 60 runs of the card's model the verdict refuses at most 5 % (and three standard errors), though
    three scores each may miss; a run that is 25 points worse in one score is nearly always refused."""
    rng = np.random.default_rng(8)
    names = ["t0", "t1", "t2"]
    rates = {name: rng.uniform(0.3, 1.0, N) for name in names}

    def draw(name: str, loss: float = 0.0) -> AnyTask:
        scores = (rng.random((N, K)) < (rates[name] - loss)[:, None]).astype(float)
        named = {f"s{i}": row for i, row in enumerate(scores.tolist())}
        return tasks.scored(named, benchmark=name)

    def published(name: str) -> float:
        return round(100 * float(rng.binomial(K, rates[name]).mean()) / K, 1)

    refused = [0, 0]
    for _ in range(60):
        card = make_card(**{name: {"value": published(name)} for name in names})
        run = {name: draw(name) for name in names}
        for index, each in enumerate((run, {**run, "t0": draw("t0", 0.25)})):
            refused[index] += verify(card, **each).verdict == "not consistent"
    assert refused[0] <= 8
    assert refused[1] >= 54


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"samples": 30}, "40 samples, the card has 30"),
        ({"samples": None, "parts": 50}, "40 parts, the card has 50"),
        ({"metric": "overall"}, "the metric is correct, the card's is overall"),
    ],
)
def test_other_samples_or_metrics_are_undecided(
    tasks: Tasks, entry: dict[str, Any], reason: str
) -> None:
    """They are not the card's, so nothing is said of their score."""
    found = verify(make_card(t={"value": 10.0, **entry}), t=made(tasks, 20))
    task = task_of(found)
    assert (task.verdict, task.reason, task.value) == ("undecided", reason, None)
    assert found.exit_code(strict=False) == 10


def test_a_partial_metric_names_what_was_not_run(tasks: Tasks) -> None:
    """As BFCL without a web search."""
    parts = {f"s{i}": {"subset": "even"} for i in range(N)}
    task = tasks.scored(
        rows(20),
        benchmark="t",
        cls=Halves,
        headline={"metric": "rest"},
        samples=parts,
        not_run=("odd",),
    )
    found = verify(make_card(t={"value": 75.0, "metric": "halves"}), t=task)
    assert task_of(found).reason == "the metric is rest, the card's is halves: odd not run"
    [artifacts] = [check for check in found.checks if check.name == "artifacts"]
    assert (artifacts.state, artifacts.text) == ("differs", "not run: odd")


def test_missing_tasks_and_units(tasks: Tasks) -> None:
    """Named, bounded, and undecided as a whole."""
    card = make_card(t={"value": 75.0}, u={"value": 75.0}, v={"value": 75.0})
    found = verify(card, t=made(tasks, 20), u=tasks.missing(0.5, 0.8, benchmark="u"))
    assert [each.reason for each in found.benchmarks] == [
        None,
        "incomplete: 3 of 9 units are missing",
        "no task of the run",
    ]
    assert found.benchmarks[1].bounds == (0.5, 0.8)
    assert found.verdict == "undecided"
    assert found.exit_code(strict=False) == 10


def test_a_score_that_does_not_fit_beats_what_is_undecided(tasks: Tasks) -> None:
    """What is missing cannot mend it."""
    card = make_card(t={"value": 95.0}, u={"value": 75.0})
    assert verify(card, t=made(tasks, 20)).exit_code(strict=False) == 12


def test_only_named_benchmarks(tasks: Tasks) -> None:
    """The others are nobody's business then."""
    card = make_card(t={"value": 75.0}, u={"value": 75.0})
    run = loaded("run", t=made(tasks, 20))
    found = verify_run(run, card, Client(), missing_files={}, benchmarks=["t"])
    assert found.verdict == "consistent"


def states(found: Verification) -> dict[str, list[str]]:
    """The states of each check by name."""
    result: dict[str, list[str]] = {}
    for check in found.checks:
        result.setdefault(check.name, []).append(check.state)
    return result


def of(found: Verification, name: str) -> Check:
    """The only check of a name."""
    [check] = [check for check in found.checks if check.name == name]
    return check


def test_a_prompt_that_stands_in_is_a_line_of_its_own(tasks: Tasks) -> None:
    """Equal in name to the card's entry, it still is not the text behind the card."""
    task = made(tasks, 20)
    stand_ins = {"ours": "theirs.yaml"}
    results = task.results.model_copy(
        update={"settings": task.results.settings.model_copy(update={"stand_ins": stand_ins})}
    )
    check = of(verify(make_card(), t=replace(task, results=results)), "prompt")
    assert (check.state, check.task) == ("unknown", task.results.task)
    assert check.text == "ours stands in for theirs.yaml, which was never published"


def test_what_the_card_does_not_say_is_unknown(tasks: Tasks) -> None:
    """Never taken as equal; what is equal says so."""
    found = states(verify(make_card(), t=made(tasks, 20)))
    assert found == {
        "timeouts and retries": ["note"],
        "model": ["same"],
        "chat template": ["unknown"],
        "server": ["unknown"],
        "benchmark version": ["same"],
        "profile": ["same"],
        "data": ["same"],
        "sampling": ["same"],
        "parameters": ["unknown"],
        "repeats": ["same"],
        "artifacts": ["same"],
    }


def test_settings_that_differ_are_named_and_strict_counts_them(tasks: Tasks) -> None:
    """Each with both values."""
    settings = tasks.results.settings.model_copy(
        update={
            "generation": {**tasks.results.settings.generation, "temperature": 0.2},
            "profile": "fixed",
        }
    )
    found = verify(make_card(), t=made(tasks, 20, settings=settings))
    assert of(found, "sampling").text == "temperature 0.2 (card 1)"
    assert of(found, "profile").text == "fixed (card card)"
    assert found.verdict == "consistent"
    assert found.exit_code(strict=False) == 0
    assert found.exit_code(strict=True) == OTHER_SETTINGS


def test_settings_that_the_card_does_not_speak_of(tasks: Tasks) -> None:
    """They differ from the profile, which asks as the card did: that may move a score, too."""
    other = (
        Difference(key="generation.top_k", profile=None, value=20),
        Difference(key="generation.temperature", profile=0.5, value=1.0),
        Difference(key="repeats", profile=1, value=4),
    )
    settings = tasks.results.settings.model_copy(update={"differs_from_profile": other})
    found = verify(make_card(), t=made(tasks, 20, settings=settings))
    assert of(found, "profile's other settings").text == "generation.top_k 20 (profile none)"


def test_another_number_of_repeats_is_a_note(tasks: Tasks) -> None:
    """It is in the error, not in the method."""
    found = verify(make_card(t={"value": 75.0, "repeats": 8}), t=made(tasks, 20))
    assert (of(found, "repeats").state, of(found, "repeats").text) == ("note", "4 (card 8)")


@pytest.mark.parametrize(
    ("source", "models", "state"),
    [("tiny", ["tiny"], "same"), ("tiny", ["owner/tiny"], "unknown"), ("x", ["tiny"], "differs")],
)
def test_model(tasks: Tasks, source: str, models: list[str], state: str) -> None:
    """A folder of the right name may hold anything."""
    provenance = tasks.results.provenance
    model = provenance.model.model_copy(update={"source": source})
    task = made(tasks, 20, provenance=provenance.model_copy(update={"model": model}))
    card = make_card().model_copy(update={"models": tuple(models)})
    assert of(verify(card, t=task), "model").state == state


@pytest.mark.parametrize(
    ("serving", "extra", "state"),
    [
        ({"kind": "vllm", "reasoning_parser": "deepseek_r1"}, {}, "same"),
        ({"kind": "vllm", "reasoning_parser": None}, {}, "differs"),
        ({"kind": "external"}, {}, "unknown"),
        ({"kind": "vllm", "reasoning_parser": "x"}, {"enable_thinking": False}, "differs"),
    ],
)
def test_reasoning(
    tasks: Tasks, serving: dict[str, Any], extra: dict[str, Any], state: str
) -> None:
    """Whether the server takes reasoning out of the answers, and whether there is any."""
    before = tasks.results.settings
    body = {"chat_template_kwargs": extra} if extra else {}
    settings = before.model_copy(
        update={"serving": serving, "generation": {**before.generation, "extra_body": body}}
    )
    card = make_card().model_copy(update={"reasoning": "apart"})
    assert of(verify(card, t=made(tasks, 20, settings=settings)), "reasoning").state == state


@pytest.mark.parametrize(
    ("name", "kind", "state", "reason"),
    [
        ("gpt", "external", "same", None),
        ("owner/gpt", "external", "same", None),
        ("gpt-2024-08-06", "external", "unknown", None),
        ("gpt-mini", "external", "differs", "the judge is gpt-mini, the card's is gpt"),
        ("gpt", "vllm", "differs", "the judge is gpt, served by the run, the card's is gpt"),
        (None, None, "differs", "the judge is none, the card's is gpt"),
    ],
)
def test_judge(
    tasks: Tasks, name: str | None, kind: str | None, state: str, reason: str | None
) -> None:
    """By its model id; a score that another one made is not the card's, and nothing is said of it."""
    judge = name and {"deployment": {"served_model_name": name, "serving": {"kind": kind}}}
    settings = tasks.results.settings.model_copy(update={"judge": judge})
    card = make_card(t={"value": 75.0, "judge": "gpt"})
    found = verify(card, t=made(tasks, 20, settings=settings))
    assert of(found, "judge").state == state
    assert task_of(found).reason == reason
    assert found.verdict == ("consistent" if reason is None else "undecided")
    if state == "differs":
        assert "(card gpt): its score is not compared" in of(found, "judge").text


def test_snapshots_of_a_judge(tasks: Tasks) -> None:
    """Another one than the card's is another judge; a name without a day may be it."""

    def state(name: str) -> str:
        judge = {"deployment": {"served_model_name": name, "serving": {"kind": "external"}}}
        settings = tasks.results.settings.model_copy(update={"judge": judge})
        card = make_card(t={"value": 75.0, "judge": "gpt-2024-08-06"})
        return of(verify(card, t=made(tasks, 20, settings=settings)), "judge").state

    names = ("o/gpt-2024-08-06", "gpt", "gpt-2024-11-20")
    assert [state(name) for name in names] == ["same", "unknown", "differs"]


def test_thinking_that_the_request_switches_off(tasks: Tasks) -> None:
    """`request.add` is merged into the body after what the sampling says."""
    before = tasks.results.settings
    said = {"chat_template_kwargs": {"enable_thinking": True, "other": 1}}
    settings = before.model_copy(
        update={
            "serving": {"kind": "vllm", "reasoning_parser": "x"},
            "generation": {**before.generation, "extra_body": said},
            "request": {"add": {"chat_template_kwargs": {"enable_thinking": False}}},
        }
    )
    card = make_card().model_copy(update={"reasoning": "apart"})
    found = of(verify(card, t=made(tasks, 20, settings=settings)), "reasoning")
    assert (found.state, found.text) == ("differs", "switched off (card: apart)")


def test_a_version_that_nobody_told_is_unknown(tasks: Tasks) -> None:
    """Not the word for nothing in Python."""
    provenance = tasks.results.provenance
    server = ServerFacts(replica="0", attempt=0, facts={"kind": "vllm", "version": None})
    task = made(tasks, 20, provenance=provenance.model_copy(update={"servers": (server,)}))
    text = of(verify(make_card(), t=task), "server").text
    assert text == "kind vllm, version unknown here; the card gives none"


def test_altered_data(tasks: Tasks) -> None:
    """Another checksum than the card's, or than any that is known."""
    provenance = tasks.results.provenance
    data = provenance.data.model_copy(update={"sha256": "1" * 64, "altered": True})
    task = made(tasks, 20, provenance=provenance.model_copy(update={"data": data}))
    found = of(verify(make_card(), t=task), "data")
    assert found.state == "differs"
    assert found.text == (
        f"sha256 {'1' * 12} (card {'0' * 12}); not a state that the benchmark knows"
    )
