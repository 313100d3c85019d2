"""Benchmarks by name: found through entry points, refused with the names there are."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

import pytest

from evalkit.benchmarks import registry
from evalkit.benchmarks.addition import Addition
from evalkit.benchmarks.registry import (
    GROUP,
    benchmark_class,
    benchmark_for,
    benchmark_names,
    make_benchmark,
)
from evalkit.errors import PlanError, RecipeError
from tests.builders import make_plan, make_prepared

if TYPE_CHECKING:
    from collections.abc import Callable

ADDITION = "evalkit.benchmarks.addition:Addition"


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that these benchmarks, by name, are what is installed."""

    def install(*points: tuple[str, str]) -> None:
        found = tuple(EntryPoint(name, value, GROUP) for name, value in points)
        monkeypatch.setattr(registry, "registered", lambda group: found)

    return install


def test_built_in_ones() -> None:
    """What evalkit brings is installed through the same door as anybody else's."""
    assert {
        "addition",
        "aime2025",
        "gpqa_diamond",
        "ifbench",
        "livecodebench_v6",
        "mmlu_pro",
    } <= set(benchmark_names())
    for name in benchmark_names():
        assert benchmark_class(name).name == name


def test_unknown_name() -> None:
    """A name that is near another one is guessed at; all are listed."""
    with pytest.raises(RecipeError) as caught:
        benchmark_class("aime2026")
    assert caught.value.message == "unknown benchmark 'aime2026'. Did you mean 'aime2025'?"
    assert "addition, aime2025" in str(caught.value)
    with pytest.raises(RecipeError, match=r"unknown benchmark 'zzz'\.\n"):
        benchmark_class("zzz")


def test_two_packages_with_one_name(install: Callable[..., None]) -> None:
    """Which of two is meant cannot be known: both are named. The same one twice is no conflict."""
    install(("sums", ADDITION), ("sums", ADDITION))
    assert benchmark_class("sums") is Addition
    install(("sums", ADDITION), ("sums", "other:Sums"))
    with pytest.raises(PlanError) as caught:
        benchmark_names()
    assert str(caught.value) == (
        f"two packages register the benchmark 'sums': an unknown package ({ADDITION}) and an "
        "unknown package (other:Sums)\nUninstall one of them."
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_module:Sums", "cannot be imported: No module named 'no_such_module'"),
        ("evalkit.benchmarks.addition:Sums", "cannot be imported: "),
        ("evalkit.benchmarks.addition:LETTERS", "is not a Benchmark class"),
        ("evalkit.benchmarks.addition:AdditionParams", "is not a Benchmark class"),
    ],
)
def test_broken_plugin(install: Callable[..., None], value: str, message: str) -> None:
    """A plug-in that cannot be used is named with its address; the others still work."""
    install(("broken", value), ("sums", ADDITION))
    with pytest.raises(PlanError) as caught:
        benchmark_class("broken")
    assert f"benchmark 'broken' ({value}) {message}" in str(caught.value)
    assert benchmark_class("sums") is Addition


def test_parameters() -> None:
    """The recipe's parameters lie over the profile's knobs; all are resolved."""
    assert make_benchmark("addition", {"n": 3}, "card").params.model_dump() == {
        "form": "open",
        "n": 3,
        "digits": 3,
        "seed": 0,
    }


def test_knobs_of_the_profile(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile sets what the recipe does not."""
    monkeypatch.setattr(Addition, "knobs", {"fixed": {"digits": 5, "n": 2}})
    assert make_benchmark("addition", {"n": 3}, "fixed").params.model_dump()["digits"] == 5
    assert make_benchmark("addition", {"n": 3}, "fixed").params.model_dump()["n"] == 3
    assert make_benchmark("addition", {}, "card").params.model_dump()["digits"] == 3


def test_wrong_parameters() -> None:
    """Every parameter that is wrong is named, and those there are."""
    with pytest.raises(RecipeError) as caught:
        make_benchmark("addition", {"digit": 1, "n": 0}, "card")
    text = str(caught.value)
    assert "params.digit: unknown key, did you mean 'digits'?" in text
    assert "params.n: Input should be greater than or equal to 1, found 0" in text
    assert text.endswith("\nParameters of addition: form, n, digits, seed.")


def test_planned_version() -> None:
    """A run planned with another version of its benchmark is refused: its scores would mix."""
    assert isinstance(benchmark_for(make_plan(make_prepared()).tasks[0]), Addition)
    with pytest.raises(PlanError) as caught:
        benchmark_for(make_plan(make_prepared(benchmark_version="0")).tasks[0])
    assert str(caught.value) == (
        "task 'addition' was planned with addition version 0, installed is 1\n"
        "Install the evalkit that made the run (provenance.json), or start a new run."
    )
