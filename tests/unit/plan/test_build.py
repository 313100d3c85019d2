"""From a recipe's tasks to a plan: which units there are, in which shards, on which server."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import PlanError
from evalkit.plan.build import MAX_SHARDS, MIN_SHARDS, SHARD_TOKENS, shard_count
from evalkit.plan.model import Plan, Shard, UnitKey
from evalkit.recipe.request import Reasoning
from evalkit.recipe.schema import Client, Generation, Scoring
from evalkit.recipe.serving import CommandServing, ExternalServing, VllmServing
from tests.builders import make_inputs, make_plan, make_prepared, make_recipe, units_of

if TYPE_CHECKING:
    from evalkit.recipe.serving import AnyServing

GOLDEN = Path(__file__).with_name("plan.json")


@given(
    n_samples=st.integers(1, 60),
    repeats=st.integers(1, 9),
    n_shards=st.integers(1, 40),
)
def test_shards_are_a_partition(n_samples: int, repeats: int, n_shards: int) -> None:
    """Every unit is in exactly one shard, which `shard_of` names, and shards differ by one unit."""
    task = make_plan(make_prepared(n_samples=n_samples, repeats=repeats)).tasks[0]
    task = task.model_copy(update={"n_shards": n_shards})
    shards = {shard: list(task.units(shard)) for shard in task.shards()}
    together = [key for keys in shards.values() for key in keys]
    assert sorted(together) == sorted(units_of(task))
    assert len(set(together)) == task.n_units == n_samples * repeats
    for shard, keys in shards.items():
        assert all(task.shard_of(key) == shard.index for key in keys)
    sizes = [len(keys) for keys in shards.values()]
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 3_000_000), st.integers(1, 200_000))
def test_shards_are_worth_their_lease_and_enough_to_share(units: int, tokens: int) -> None:
    """At least eight where there are so many units, at most MAX_SHARDS, and never one without units."""
    count = shard_count(units, tokens)
    assert min(units, MIN_SHARDS) <= count <= min(units, MAX_SHARDS)
    if count > MIN_SHARDS:
        assert units // count >= math.isqrt(units)
        assert (units // count) * tokens >= SHARD_TOKENS - tokens


@pytest.mark.parametrize(
    ("units", "tokens", "shards"),
    [(1, 50, 1), (200, 50, 8), (40_000, 50, 40), (1_920, 20_000, 44), (12_032, 4_000, 110)],
)
def test_shards_of_known_tasks(units: int, tokens: int, shards: int) -> None:
    """The demo, the engine's benchmark, AIME and MMLU-Pro."""
    assert shard_count(units, tokens) == shards


def test_units_are_numbered_by_repeat() -> None:
    """All samples of a repeat come before the next repeat: a partial run has whole repeats."""
    task = make_plan(make_prepared(n_samples=2, repeats=2)).tasks[0]
    assert units_of(task) == [UnitKey(0, 0), UnitKey(1, 0), UnitKey(0, 1), UnitKey(1, 1)]
    assert [shard.name for shard in task.shards()] == ["00000", "00001", "00002", "00003"]
    assert Shard("a", 12345).name == "12345"


def test_longest_work_first() -> None:
    """Tasks are in the order of the tokens they take; equal ones stay as the recipe has them."""
    plan = make_plan(
        make_prepared("short", expected_tokens=10),
        make_prepared("long", expected_tokens=1000),
        make_prepared("middle", expected_tokens=100),
        make_prepared("short2", expected_tokens=10),
    )
    assert [task.name for task in plan.tasks] == ["long", "middle", "short", "short2"]
    assert plan.n_units == 80
    assert plan.task("long").name == "long"
    with pytest.raises(KeyError, match="tasks: long, middle, short, short2"):
        plan.task("other")


def test_tasks_share_a_deployment() -> None:
    """Equal serving is one server; other serving is a server of its own, after the first is done."""
    tools = VllmServing(max_model_len=4096, tool_call_parser="hermes")
    plan = make_plan(
        make_prepared("first", expected_tokens=30),
        make_prepared("tools", expected_tokens=20, serving=tools),
        make_prepared("last", expected_tokens=10),
    )
    assert [d.serving for d in plan.deployments] == [VllmServing(max_model_len=4096), tools]
    assert [(t.name, t.deployment) for t in plan.tasks] == [("first", 0), ("last", 0), ("tools", 1)]


@pytest.mark.parametrize(
    ("serving", "name"),
    [
        (VllmServing(), "tiny"),
        (VllmServing(served_model_name="other"), "other"),
        (CommandServing(kind="command", command=("x",)), "tiny"),
        (ExternalServing(kind="external", base_url="http://x/v1"), "owner/tiny-it"),
        (
            ExternalServing(kind="external", base_url="http://x/v1", served_model_name="other"),
            "other",
        ),
    ],
    ids=["vllm", "vllm named", "command", "external", "external named"],
)
def test_served_model_name(serving: AnyServing, name: str) -> None:
    """Our servers take the model's name in the recipe, hosted ones its id, unless serving says."""
    plan = make_plan(make_prepared(serving=serving), model_source="owner/tiny-it")
    assert plan.deployments[0].served_model_name == name


@pytest.mark.parametrize(
    ("length", "tokens", "fits"),
    [(100, 99, True), (100, 100, False), (100, 101, False), (None, 10**6, True), (100, None, True)],
)
def test_room_for_the_prompt(length: int | None, tokens: int | None, fits: bool) -> None:
    """max_tokens must be below the context length, where both are known."""
    task = make_prepared(
        "sums",
        serving=VllmServing(max_model_len=length),
        generation=Generation(max_tokens=tokens),
    )
    if fits:
        assert make_plan(task).tasks
        return
    with pytest.raises(PlanError) as caught:
        make_plan(task)
    assert str(caught.value) == (
        f"tasks.sums: generation.max_tokens is {tokens}, and serving.max_model_len is {length}: "
        "there is no room for the prompt\n"
        "Raise serving.max_model_len above prompt plus max_tokens, or lower max_tokens."
    )


def test_plan_survives_json() -> None:
    """A plan read back equals the one written, run id and units included."""
    plan = make_plan(make_prepared(), make_prepared("b", repeats=3))
    again = Plan.model_validate_json(plan.model_dump_json())
    assert again == plan
    assert again.run_id == plan.run_id


def test_run_id() -> None:
    """Runs of the same settings have ids of their own; the same run always has the same one."""
    ids = [
        make_plan(**changes).run_id
        for changes in (
            {},
            {"run": "other"},
            {"model": make_inputs().model.model_copy(update={"name": "m"})},
        )
    ]
    assert len(set(ids)) == 3
    assert make_plan().run_id == ids[0]
    assert all(len(each) == 8 and int(each, 16) >= 0 for each in ids)


def test_other_servers_same_work() -> None:
    """Executed as another plan: its servers, client and scoring, and the tasks, shards and order of this
    one."""
    first = make_plan(
        make_prepared("long", expected_tokens=90), make_prepared("short", expected_tokens=10)
    )
    other = make_plan(
        make_prepared("short", expected_tokens=99, serving=VllmServing(max_model_len=4096, gpus=4)),
        make_prepared("long", expected_tokens=10),
        client=Client(parallelism=3),
        scoring=Scoring(unsafe=True),
        model_source="/moved/tiny",
        run="another",
    )
    shards = other.tasks[0].model_copy(update={"n_shards": 3})
    other = other.model_copy(update={"tasks": (shards, *other.tasks[1:])})
    now = first.executed_as(other)
    assert now.client == Client(parallelism=3)
    assert now.scoring == Scoring(unsafe=True)
    assert now.deployments == other.deployments
    assert [t.model_copy(update={"deployment": 0}) for t in now.tasks] == list(first.tasks)
    assert {t.name: now.deployments[t.deployment].serving.gpus for t in now.tasks} == {  # type: ignore[union-attr]
        "long": None,
        "short": 4,
    }
    assert (now.run_id, now.fingerprint) == (first.run_id, first.fingerprint)


def test_execution_of_another_run() -> None:
    """A plan of another fingerprint gives nothing of itself away."""
    plan = make_plan()
    assert (
        plan.executed_as(make_plan(make_prepared(repeats=3), client=Client(parallelism=3))) is plan
    )


def test_plan_on_disk() -> None:
    """The bytes of a plan.json. Another outcome here means that old runs cannot be resumed: raise
    PLAN_VERSION or the benchmark's version, and say so under Scores in the changelog."""
    text = make_plan(make_prepared()).model_dump_json(indent=1) + "\n"
    assert text == GOLDEN.read_text("utf-8")


def test_recipe_of_the_tests() -> None:
    """The builder's recipe takes changes like any other."""
    assert make_recipe(tasks={"a": {"limit": 3}}).tasks["a"].limit == 3


@given(
    st.booleans(),
    st.sampled_from([None, "<think>", "<t>"]),
    st.sampled_from(["</think>", "</t>"]),
    st.booleans(),
)
def test_plans_are_read_back(
    strip: bool, start: str | None, end: str, keep_unfinished: bool
) -> None:
    """Whatever a recipe may say of requests and reasoning: all values are in the file, defaults too."""
    said: dict[str, Any] = {"strip": strip}
    if strip:
        said |= {"start": start, "end": end, "keep_unfinished": keep_unfinished}
    plan = make_plan(make_prepared(reasoning=Reasoning(**said)))
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
