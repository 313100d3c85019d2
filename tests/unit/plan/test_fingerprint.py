"""Fingerprints move with everything that may move a score, and with nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from evalkit.plan.fingerprint import describe_difference, differences, fingerprint, flatten
from evalkit.plan.model import DataProvenance, ModelIdentity
from evalkit.recipe.schema import Client, Generation, Scoring
from evalkit.recipe.serving import CommandServing, ExternalServing, VllmServing
from tests.builders import make_inputs, make_plan, make_prepared
from tests.unit.store.strategies import json_objects

GENERATION: dict[str, Any] = {"temperature": 0.5, "max_tokens": 100}
SERVING: dict[str, Any] = {"max_model_len": 4096}
MODEL: dict[str, Any] = {"name": "tiny", "source": "tiny", "weights": "w" * 8, "tokenizer": "t" * 8}
DATA: dict[str, Any] = {"source": "generated", "sha256": "d" * 64, "n_rows": 10, "licence": "x"}


def of_task(**changes: Any) -> str:
    """Fingerprint of a plan whose task has these changes."""
    return make_plan(make_prepared(**changes)).fingerprint


def of_run(**changes: Any) -> str:
    """Fingerprint of a plan with these inputs."""
    return make_plan(**changes).fingerprint


def generation(**changes: Any) -> Generation:
    """The builder's generation with changes."""
    return Generation(**(GENERATION | changes))


def serving(**changes: Any) -> VllmServing:
    """The builder's serving with changes."""
    return VllmServing(**(SERVING | changes))


BASE = make_plan(make_prepared()).fingerprint
GENERATION_CHANGES = {
    "temperature": 0.6,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "max_tokens": 101,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "repetition_penalty": 1.1,
    "stop": ("x",),
    "seed": 1,
    "extra_body": {"chat_template_kwargs": {"enable_thinking": False}},
}
SERVING_THAT_MATTERS = {
    "max_model_len": 8192,
    "dtype": "float32",
    "kv_cache_dtype": "fp8",
    "quantization": "fp8",
    "load_format": "dummy",
    "reasoning_parser": "nano",
    "tool_call_parser": "hermes",
    "trust_remote_code": True,
    "extra_args": {"mamba-ssm-cache-dtype": "float32"},
    "env": {"VLLM_ATTENTION_BACKEND": "FLASHINFER"},
}
SERVING_THAT_DOES_NOT = {
    "tensor_parallel_size": 2,
    "pipeline_parallel_size": 2,
    "data_parallel_size": 2,
    "gpus": 1,
    "gpu_memory_utilization": 0.5,
    "max_num_seqs": 8,
    "enable_prefix_caching": True,
    "enforce_eager": True,
    "python": "/usr/bin/python",
    "launcher": "module",
    "served_model_name": "x",
    "secrets": ("HF_TOKEN",),
    "ready_timeout_s": 1.0,
    "shutdown_timeout_s": 1.0,
    "max_restarts": 9,
    "expose": True,
    "stream_interval": 64,
    "min_free_gpu_memory": 0.5,
}


def test_every_generation_key_is_known_here() -> None:
    """A new key of `generation` has to be put into these tests."""
    assert set(GENERATION_CHANGES) == set(Generation.model_fields)


def test_every_serving_key_is_known_here() -> None:
    """A new key of `serving` has to be put into one of the two lists, after some thought."""
    known = {*SERVING_THAT_MATTERS, *SERVING_THAT_DOES_NOT, "kind"}
    assert known == set(VllmServing.model_fields)


@pytest.mark.parametrize("key", GENERATION_CHANGES)
def test_sampling_matters(key: str) -> None:
    """Each key of `generation` moves the fingerprint, and is the one difference that is shown."""
    new = make_plan(make_prepared(generation=generation(**{key: GENERATION_CHANGES[key]})))
    assert new.fingerprint != BASE
    found = differences(make_plan(make_prepared()), new)
    prefix = f"tasks.addition.generation.{key}"
    assert found
    assert all(name.startswith(prefix) for name in found)


def test_seed_of_none() -> None:
    """No seed is not the same as the default seed."""
    assert of_task(generation=generation(seed=None)) not in (
        BASE,
        of_task(generation=generation(seed=0)),
    )


@pytest.mark.parametrize("key", SERVING_THAT_MATTERS)
def test_serving_that_matters(key: str) -> None:
    """What changes the numbers a server computes, or what it parses, moves the fingerprint."""
    assert of_task(serving=serving(**{key: SERVING_THAT_MATTERS[key]})) != BASE


@pytest.mark.parametrize("key", SERVING_THAT_DOES_NOT)
def test_serving_that_does_not_matter(key: str) -> None:
    """What changes speed, place or patience leaves a run resumable."""
    assert of_task(serving=serving(**{key: SERVING_THAT_DOES_NOT[key]})) == BASE


@pytest.mark.parametrize(
    "other",
    [
        CommandServing(kind="command", command=("sglang",), max_model_len=4096),
        ExternalServing(kind="external", base_url="http://x/v1", max_model_len=4096),
    ],
    ids=["command", "external"],
)
def test_kind_of_server_matters(other: Any) -> None:
    """Another kind of server is another endpoint."""
    assert of_task(serving=other) != BASE


def test_command_matters() -> None:
    """The command line of a server is part of what is measured."""
    one, two = (CommandServing(kind="command", command=("serve", x)) for x in "ab")
    assert of_task(serving=one) != of_task(serving=two)


@pytest.mark.parametrize(
    "change",
    [
        {"benchmark": "other"},
        {"benchmark_version": "2"},
        {"profile": "fixed"},
        {"params": {"n": 10, "digits": 4}},
        {"repeats": 3},
        {"n_samples": 11},
        {"requests_sha256": "f" * 64},
        {"prompts": {"mcq": "a" * 64}},
        {"data": DataProvenance(**(DATA | {"sha256": "a" * 64}))},
        {"name": "other"},
    ],
    ids=lambda change: "-".join(change),
)
def test_task_matters(change: dict[str, Any]) -> None:
    """Benchmark, parameters, data and rendered requests move the fingerprint."""
    assert make_plan(make_prepared(**change)).fingerprint != BASE


@pytest.mark.parametrize(
    "change",
    [
        {"expected_tokens": 9999},
        {"data": DataProvenance(**(DATA | {"licence": "y"}))},
        {"data": DataProvenance(**(DATA | {"n_rows": 11}))},
        {"data": DataProvenance(**(DATA | {"source": "copy.jsonl"}))},
        {"data": DataProvenance(**(DATA | {"revision": "main"}))},
        {"data": DataProvenance(**(DATA | {"altered": True}))},
    ],
    ids=lambda change: "-".join(change),
)
def test_task_that_does_not_matter(change: dict[str, Any]) -> None:
    """What orders or describes the work leaves a run resumable."""
    assert of_task(**change) == BASE


@pytest.mark.parametrize("key", ["weights", "config", "tokenizer", "chat_template", "revision"])
def test_model_matters(key: str) -> None:
    """Other weights, tokenizer, template or configuration are another model."""
    assert of_run(model=ModelIdentity(**(MODEL | {key: "changed"}))) != BASE


def test_place_of_hashed_weights_does_not_matter() -> None:
    """A checkpoint that moved, or got another name in the recipe, is the same model."""
    moved = ModelIdentity(**(MODEL | {"source": "elsewhere", "name": "other"}))
    changes = {"model": moved, "model_source": "/elsewhere", "model_name": "other", "run": "new"}
    assert of_run(**changes) == BASE


def test_place_of_unknown_weights_matters() -> None:
    """A hosted model is known by its id alone."""
    one, two = (ModelIdentity(name="x", source=source) for source in ("a", "b"))
    assert of_run(model=one) != of_run(model=two)


def test_model_that_an_endpoint_is_asked_for_matters() -> None:
    """At somebody else's endpoint the model id chooses the model; its address does not."""

    def external(**changes: Any) -> str:
        values: dict[str, Any] = {"kind": "external", "base_url": "http://x/v1", **changes}
        return of_task(serving=ExternalServing(**values))

    assert external(served_model_name="other") != external()
    assert external(base_url="http://y/v1", headers={"A": "b"}) == external()


def test_hub_model_is_its_commit() -> None:
    """What this machine's cache knows of a hub model's files changes nothing; its commit does."""
    bare = ModelIdentity(name="x", source="o/n", revision="c" * 40)
    cached = bare.model_copy(update={"config": "1", "tokenizer": "2", "chat_template": "3"})
    other = bare.model_copy(update={"revision": "d" * 40})
    assert of_run(model=bare, is_hub=True) == of_run(model=cached, is_hub=True)
    assert of_run(model=bare, is_hub=True) != of_run(model=other, is_hub=True)
    assert make_plan(model=cached, is_hub=True).model == cached


def test_client_does_not_matter() -> None:
    """How fast requests are sent moves no score."""
    client = Client(parallelism=1, max_retries=0, timeout_s=1.0, stall_timeout_s=1.0)
    assert of_run(client=client) == BASE


def test_sandbox_does_not_matter() -> None:
    """What a model's code runs in is not what it is asked."""
    assert of_run(scoring=Scoring(unsafe=True, image="/images/python.sif")) == BASE


def test_order_of_tasks_does_not_matter() -> None:
    """The same tasks in another order are the same run."""
    one, two = make_prepared("a"), make_prepared("b")
    assert make_plan(one, two).fingerprint == make_plan(two, one).fingerprint


def test_differences_are_exact() -> None:
    """Changed, new and gone keys are listed with both values, and nothing else."""
    old = make_plan(make_prepared("a"), make_prepared("gone"))
    new = make_plan(make_prepared("a", generation=generation(temperature=1.0, top_p=0.5)))
    found = differences(old, new)
    assert {k: v for k, v in found.items() if k.startswith("tasks.a.")} == {
        "tasks.a.generation.temperature": ("0.5", "1.0"),
        "tasks.a.generation.top_p": ("(not set)", "0.5"),
    }
    assert found["tasks.gone"] == ("there", "not in this recipe")
    assert len(found) == 3
    assert differences(new, old)["tasks.gone"] == ("not there", "in this recipe")
    assert differences(old, old) == {}


@pytest.mark.parametrize(
    ("key", "values", "line"),
    [
        ("tasks.a.repeats", ("1", "2"), "tasks.a.repeats: 1 there, 2 now"),
        ("tasks.a", ("there", "not in this recipe"), "tasks.a: there, not in this recipe"),
        ("tasks.a", ("not there", "in this recipe"), "tasks.a: not there, in this recipe"),
    ],
)
def test_a_difference_in_words(key: str, values: tuple[str, str], line: str) -> None:
    """A setting has two values; a whole task is there or not."""
    assert describe_difference(key, values) == line


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"params": {"n": 9}}, {"params.n"}),
        ({"n_samples": 5, "data": make_prepared().data}, {"samples"}),
        ({"generation": generation(top_k=3)}, {"generation.top_k", "data.sha256"}),
        ({}, {"data.sha256"}),
        ({"data": make_prepared().data}, {"requests_sha256"}),
    ],
    ids=["params", "limit", "unrelated", "data alone", "requests alone"],
)  # fmt: skip
def test_checksums_that_another_key_explains(changes: dict[str, Any], keys: set[str]) -> None:
    """A checksum is shown where no other difference can be its cause."""
    data = DataProvenance(**(DATA | {"sha256": "a" * 64}))
    new = make_prepared(**{"data": data, "requests_sha256": "f" * 64, **changes})
    found = differences(make_plan(make_prepared()), make_plan(new))
    assert set(found) == {f"tasks.addition.{key}" for key in keys}


@given(json_objects, json_objects)
def test_equal_values_equal_fingerprints(one: dict[str, Any], two: dict[str, Any]) -> None:
    """The order of keys changes no fingerprint; another value does."""
    assert fingerprint(one) == fingerprint(dict(reversed(one.items())))
    if one != two:
        assert fingerprint(one) != fingerprint(two)


def test_flatten() -> None:
    """Nested keys are joined by dots; lists stay values."""
    assert flatten({"a": {"b": {"c": 1}, "d": [1]}, "e": None}) == {
        "a.b.c": 1,
        "a.d": [1],
        "e": None,
    }


def test_inputs_of_the_tests() -> None:
    """The constants above are those of the builder, so that one change is one change."""
    assert make_prepared().generation == generation()
    assert make_prepared().serving == serving()
    assert make_prepared().data == DataProvenance(**DATA)
    assert make_inputs().model == ModelIdentity(**MODEL)
