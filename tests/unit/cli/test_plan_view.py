"""What a plan says about itself beyond its numbers."""

from __future__ import annotations

import pytest

from evalkit.cli.plan_view import plan_json, plan_notes, plan_total
from evalkit.recipe.schema import Client, Generation
from evalkit.recipe.serving import ExternalServing, VllmServing
from tests.builders import make_plan, make_prepared

PENALISED = Generation(max_tokens=100, presence_penalty=1.0)
SPECULATES = VllmServing(extra_args={"speculative-config.model": "ngram"})


@pytest.mark.parametrize(
    ("generation", "serving", "fields"),
    [
        (Generation(max_tokens=100), VllmServing(), []),
        (PENALISED, VllmServing(), []),
        (PENALISED, SPECULATES, ["presence_penalty"]),
        (
            Generation(stop=("\n",), frequency_penalty=1),
            VllmServing(),
            ["frequency_penalty", "stop"],
        ),
        (Generation(stop=("\n",)), ExternalServing(kind="external", base_url="http://h/v1"), []),
    ],
    ids=[
        "plain",
        "presence",
        "beside speculation",
        "two reasons",
        "of an endpoint nothing is said",
    ],
)
def test_answers_that_begin_anew(
    generation: Generation, serving: VllmServing | ExternalServing, fields: list[str]
) -> None:
    """Before GPUs are asked for it is said which tasks lose what is in flight, and why."""
    plan = make_plan(make_prepared(generation=generation, serving=serving))
    assert sorted(plan_json(plan)["counts"]["addition"]["not_continued"]) == fields
    [note] = plan_notes(plan) or [""]
    assert all(field in note for field in fields)
    assert bool(note) == bool(fields)


def test_without_salvage_nothing_is_promised() -> None:
    """Who has turned it off knows that answers begin anew."""
    task = make_prepared(generation=Generation(stop=("\n",)))
    assert plan_notes(make_plan(task, client=Client(salvage=False))) == []


def test_dialogues_are_counted() -> None:
    """What is not calls has its own words, beside the calls that are known."""
    parts = {"single calls": 3641, "dialogues": 1465, "conversations": 111}
    plan = make_plan(
        make_prepared(n_calls=26_382, repeats=1),
        make_prepared(name="bfcl", parts=parts, repeats=1),
        make_prepared(name="twice", parts={"dialogues": 5}, repeats=2),
    )
    assert plan_total(plan) == "26,382 generations, and as many as bfcl, twice take"
    assert plan_notes(plan) == [
        "bfcl: 3,641 single calls, 1,465 dialogues and 111 conversations, of as many calls as their "
        "answers take",
        "twice: 10 dialogues, of as many calls as their answers take",
    ]
    assert plan_json(plan)["counts"]["twice"]["parts"] == {"dialogues": 10}
