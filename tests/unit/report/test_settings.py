"""What differs from a benchmark's profile is said beside its score."""

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from evalkit.benchmarks.contract import BenchmarkParams
from evalkit.plan.model import DataProvenance
from evalkit.recipe.request import Reasoning, RequestSettings
from evalkit.recipe.schema import Generation, Profile
from evalkit.report.settings import describe_settings, find_differences
from tests.unit.report.run_builder import Echo, make_plan, make_samples, make_task


class KnobParams(BenchmarkParams):
    """One knob that the profiles set, and one with a default."""

    order: str = "boxed"
    groups: tuple[str, ...] = ("a", "b")


class Knobs(Echo):
    """A benchmark whose profiles say something."""

    params_type = KnobParams
    knobs: ClassVar[Mapping[Profile, Mapping[str, Any]]] = {"card": {"order": "regex"}}
    generation: ClassVar[Mapping[Profile, Mapping[str, Any]]] = {"card": {"temperature": 0.6}}
    repeats = 4


AS_PROFILE: dict[str, Any] = {
    "params": {"order": "regex", "groups": ["a", "b"]},
    "generation": Generation(temperature=0.6),
    "repeats": 4,
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"params": {"order": "boxed"}}, [("params.order", "regex", "boxed")]),
        (
            {"params": {"order": "regex", "groups": ["a"]}},
            [("params.groups", ("a", "b"), ["a"])],
        ),
        ({"generation": Generation()}, [("generation.temperature", 0.6, None)]),
        (
            {"generation": Generation(temperature=0.6, stop=("x",), top_k=5)},
            [
                ("generation.top_k", None, 5),
                ("generation.stop", None, ["x"]),
            ],
        ),
        (
            {
                "generation": Generation(temperature=0.6, seed=7, extra_body={"x": 1}),
                "request": RequestSettings(remove=("top_k",), system_message="Think."),
                "reasoning": Reasoning(start=None),
            },
            [
                ("generation.seed", "repeat", 7),
                ("generation.extra_body", {}, {"x": 1}),
                ("request.remove", [], ["top_k"]),
                ("request.system_message", None, "Think."),
                ("reasoning.start", "<think>", None),
            ],
        ),
        ({"repeats": 1}, [("repeats", 4, 1)]),
        (
            {"data": DataProvenance(source="x", sha256="0", n_rows=9, licence="MIT")},
            [("limit", 9, 4)],
        ),
    ],
)
def test_only_what_differs_is_listed(change: dict[str, Any], expected: list[Any]) -> None:
    """By key, with the profile's value and this run's."""
    task = make_task(make_samples(4), **(AS_PROFILE | change))
    found = find_differences(task, Knobs(KnobParams(), "card"))
    assert [(d.key, d.profile, d.value) for d in found] == expected


def test_a_limit_of_what_samples_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two commands about twenty rows are all of them; only the recipe's limit says that some are left out."""
    monkeypatch.setattr(Knobs, "counts_itself", True)
    data = DataProvenance(source="x", sha256="0", n_rows=20, licence="MIT")
    for limit, expected in ((None, []), (30, [("limit", None, 30)])):
        task = make_task(make_samples(4), **AS_PROFILE, data=data, limit=limit)
        found = find_differences(task, Knobs(KnobParams(), "card"))
        assert [(d.key, d.profile, d.value) for d in found] == expected


def test_settings_hold_the_whole_identity() -> None:
    """Fingerprints, deployment, prompts and everything that may move the score."""
    identity = {"prompts": {"math": "ab" * 32}}
    task = make_task(make_samples(1), identity=identity)
    settings = describe_settings(make_plan(task), task, Knobs(KnobParams(), "card"))
    assert settings.identity == identity
    assert settings.prompts == {"math": "ab" * 32}
    assert (settings.fingerprint, settings.plan_fingerprint) == (
        "task-fingerprint",
        "0123456789abcdef",
    )
    assert settings.serving["kind"] == "vllm"


def test_a_prompt_that_stands_in_for_another_is_named() -> None:
    """A shipped prompt in the place of one that was never published; others say nothing."""
    prompts = {"gpt-oss/math": "ab" * 32, "generic/math": "cd" * 32, "mine.txt": "ef" * 32}
    task = make_task(make_samples(1), identity={"prompts": prompts})
    settings = describe_settings(make_plan(task), task, Knobs(KnobParams(), "card"))
    assert settings.stand_ins == {"gpt-oss/math": "math-oai.yaml of the launcher's container"}
