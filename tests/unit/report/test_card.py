"""Card files: those that are shipped fit the recipes beside them, and mistakes are shown with their line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from evalkit.benchmarks.registry import benchmark_class, make_benchmark
from evalkit.errors import RecipeError
from evalkit.recipe.load import load_recipe
from evalkit.recipe.resolve import resolve_generation
from evalkit.report.card import load_card
from evalkit.shipped import shipped_cards

if TYPE_CHECKING:
    from pathlib import Path

CARDS = {"nemotron-3-nano": "nano", "nemotron-3-nano-tools": "nano-tools"}
TEXT = """\
name: Tiny
source: [here]
models: [tiny]
profile: card
benchmarks:
  t:
    value: 50.0
    metric: correct
    samples: 10
    repeats: 2
"""


def test_published_values() -> None:
    """The numbers of the model card."""
    found = {
        name: entry.value for card in CARDS for name, entry in load_card(card).benchmarks.items()
    }
    assert found == {
        "mmlu_pro": 78.3,
        "gpqa_diamond": 73.0,
        "aime2025": 89.1,
        "livecodebench_v6": 68.3,
        "scicode": 33.3,
        "ifbench": 71.5,
        "hle": 10.6,
        "bfcl_v4": 53.8,
        "aime2025_tools": 99.2,
        "gpqa_diamond_tools": 75.0,
    }
    assert set(CARDS) == set(shipped_cards())


@pytest.mark.parametrize(("card", "recipe"), CARDS.items())
def test_shipped_cards_are_the_shipped_recipes(card: str, recipe: str) -> None:
    """Tasks, repeats, sampling, parameters, profile and judge: a run of the recipe has the card's."""
    shown, loaded = load_card(card), load_recipe(recipe, env={}).recipe
    [model] = loaded.models
    assert list(shown.benchmarks) == list(loaded.tasks)
    assert shown.models[0] == loaded.models[model].hub
    assert shown.profile == loaded.profile
    for name, entry in shown.benchmarks.items():
        cls, task = benchmark_class(name), loaded.tasks[name]
        generation = resolve_generation(cls.generation[shown.profile], loaded, model, name)
        sent = generation.model_dump(mode="json")
        sampling = shown.sampling(name)
        assert {key: sent[key] for key in sampling} == sampling
        params = make_benchmark(name, entry.params, shown.profile).params
        assert params == make_benchmark(name, task.params, shown.profile).params
        assert entry.repeats == task.repeats == cls.repeats
        assert entry.version == cls.version
        assert set(entry.data) <= set(cls.source.known)
        judge = None if task.judge is None else loaded.judges[str(task.judge)].id
        assert entry.judge == judge


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "value: 50.0",
            "valeu: 50.0",
            "card.yaml:7 benchmarks.t: unknown key 'valeu'. Did you mean",
        ),
        ("value: 50.0", "value: 150", "card.yaml:7 benchmarks.t.value: expected a number"),
        ("    samples: 10\n", "", "give the number of samples, or of parts"),
        ("profile: card", "profile: other", "card.yaml:4 profile: expected one of card, fixed"),
    ],
)
def test_mistakes(tmp_path: Path, old: str, new: str, message: str) -> None:
    """Each with its line, and what is allowed."""
    path = tmp_path / "card.yaml"
    path.write_text(TEXT)
    assert load_card(path).benchmarks["t"].decimals == 1
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(RecipeError) as caught:
        load_card(path)
    assert message in str(caught.value)


def test_unknown_card() -> None:
    """The error lists what is shipped, and a shipped card is found by its path in a checkout, too."""
    with pytest.raises(RecipeError, match="Shipped cards: nemotron-3-nano"):
        load_card("no-such")
    assert load_card("recipes/cards/nemotron-3-nano.yaml") == load_card("nemotron-3-nano")
