"""Arguments, options, durations and adapters: small texts that become keys of a recipe."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.recipe.nemo.adapter import Adapter, read_adapter, task_settings
from evalkit.recipe.nemo.ns_args import PYTHON_TOOL, parse_args
from evalkit.recipe.nemo.source import Layers
from evalkit.recipe.nemo.times import seconds_of
from evalkit.recipe.nemo.vllm_args import parse_vllm_args
from tests.unit.recipe.nemo.launcher import composed

NUMBERS = st.integers(0, 99)


@given(NUMBERS, st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_durations(days: int, hours: int, minutes: int, seconds: int) -> None:
    """Every form of Slurm's has its seconds."""
    clock = (hours * 60 + minutes) * 60 + seconds
    assert seconds_of(f"{days}-{hours:02}:{minutes:02}:{seconds:02}") == days * 86400 + clock
    assert seconds_of(f"{hours}:{minutes:02}:{seconds:02}") == clock
    assert seconds_of(f"{minutes}:{seconds:02}") == minutes * 60 + seconds
    assert seconds_of(f"{days}-{hours}") == (days * 24 + hours) * 3600
    assert seconds_of(minutes) == seconds_of(str(minutes)) == minutes * 60


@pytest.mark.parametrize("text", ["", "1h", "1:2:3:4", "-3", "1.5", "UNLIMITED"])
def test_what_is_no_duration(text: str) -> None:
    """Nothing is guessed."""
    assert seconds_of(text) is None


@given(st.lists(st.tuples(st.sampled_from(["seed", "max-num-seqs", "x"]), NUMBERS), max_size=6))
def test_the_last_option_counts(options: list[tuple[str, int]]) -> None:
    """In both spellings, with a blank or an equals sign."""
    words = [
        f"--{name.replace('-', '_')}={value}" if value % 2 else f"--{name} {value}"
        for name, value in options
    ]
    args = parse_vllm_args(" ".join(words))
    found = {name.replace("_", "-"): value for name, value in {**args.keys, **args.extra}.items()}
    assert found == dict(options)
    assert args.problems == []


def test_vllm_options() -> None:
    """Keys of `serving`, free ones, bare and negated flags, lists, JSON, short forms."""
    args = parse_vllm_args(
        "--max-model-len 262144 --gpu-memory-utilization 0.95 --gpu_memory_utilization=0.9 "
        "--no-enable-prefix-caching --trust-remote-code --mamba_ssm_cache_dtype float32 "
        "--enable-auto-tool-choice --tool-call-parser qwen3_coder -tp 4 --enable-log-requests "
        '--no-enable-chunked-prefill --lora-modules a b --rope "{\\"x\\": 1}" --revision abc --port 9'
    )
    assert args.keys == {
        "max_model_len": 262144,
        "gpu_memory_utilization": 0.9,
        "enable_prefix_caching": False,
        "trust_remote_code": True,
        "tool_call_parser": "qwen3_coder",
        "tensor_parallel_size": 4,
    }
    assert args.extra == {
        "mamba_ssm_cache_dtype": "float32",
        "enable-log-requests": True,
        "enable-chunked-prefill": False,
        "lora-modules": ["a", "b"],
        "rope": '{"x": 1}',
    }
    assert (args.revision, args.without_effect) == ("abc", {"port": "evalkit chooses a free port"})
    assert args.problems == []


def test_options_that_are_none() -> None:
    """Text before the first option, short ones that are not known, and open quotes."""
    assert parse_vllm_args("model --x 1 -O3").problems == [
        "model: expected options with their long names, --NAME VALUE",
        "-O3: expected options with their long names, --NAME VALUE",
    ]
    [problem] = parse_vllm_args('--x "1').problems
    assert "cannot be split into words" in problem
    assert parse_vllm_args("--max-model-len 1 2").problems == [
        "--max-model-len: expected one value, found 1 2"
    ]


def test_arguments_of_nemo_skills() -> None:
    """Those of the published files, and what else is understood."""
    args = parse_args(
        f"++inference.tokens_to_generate=null ++tool_modules=[{PYTHON_TOOL}] ++inference.top_k=20 "
        "++use_client_parsing=False ++max_samples=5 ++max_concurrent_requests=8 "
        "++prompt_config=eval/aai/mcq-4choices"
    )
    assert args.generation == {"max_tokens": None, "top_k": 20}
    assert (args.python, args.limit, args.concurrency) == (True, 5, "8")
    assert args.prompt == "eval/aai/mcq-4choices"
    assert args.problems == []
    assert parse_args('++prompt_config="/x/math-oai.yaml"').prompt == "/x/math-oai.yaml"


@pytest.mark.parametrize(
    "word",
    [
        "++tool_modules=[other::Tool]",
        "++use_client_parsing=True",
        "++inference.repetition_penalty=1.1",
        "++max_samples=many",
        "++parse_reasoning=False",
        "--metric_type=hle-aa",
    ],
)
def test_unknown_arguments_are_named(word: str) -> None:
    """None is left out in silence."""
    [problem] = parse_args(word).problems
    assert f"evalkit does not know the argument {word}. Those it knows: prompt_config, " in problem


@given(st.text("abc+=.[]:' \"", max_size=20))
def test_any_arguments_are_understood_or_named(text: str) -> None:
    """No text of arguments ends in an exception."""
    try:
        words = len(shlex.split(text))
    except ValueError:
        words = 1
    assert len(parse_args(text).problems) <= words


def adapter_of(config: dict[str, Any], task: dict[str, Any] | None = None) -> Adapter:
    """The adapter of a task with a configuration for all tasks and one of its own."""
    sections = [
        {"target": {"api_endpoint": {"adapter_config": each}}} for each in (config, task or {})
    ]
    source = composed({"evaluation": {"all": sections[0], "one": sections[1]}})
    found = read_adapter(Layers(source, (("evaluation", "all"), ("evaluation", "one"))))
    assert source.problems == []
    return found


def test_adapters_merge() -> None:
    """Additions merge deeply, a task's own over those of all."""
    found = adapter_of(
        {"params_to_add": {"chat_template_kwargs": {"enable_thinking": True}, "a": 1}},
        {
            "params_to_add": {"chat_template_kwargs": {"low_effort": True}},
            "use_system_prompt": True,
            "custom_system_prompt": "/think",
            "process_reasoning_traces": True,
        },
    )
    assert found.add == {
        "chat_template_kwargs": {"enable_thinking": True, "low_effort": True},
        "a": 1,
    }
    assert (found.system_message, found.strip) == ("/think", True)
    assert adapter_of({"custom_system_prompt": "unused"}).system_message is None


def test_interceptors_are_flags() -> None:
    """The list form says the same; what is disabled does not count."""
    found = adapter_of(
        {
            "interceptors": [
                {"name": "payload_modifier", "config": {"params_to_remove": ["stop"]}},
                {"name": "system_message", "config": {"system_message": "be brief"}},
                {"name": "reasoning", "enabled": False},
                {"name": "endpoint", "enabled": True},
            ]
        }
    )
    assert (found.remove, found.system_message, found.strip) == (("stop",), "be brief", None)


WHOLE = Adapter(
    add={"top_k": 3, "chat_template_kwargs": {"x": 1}},
    remove=("stop",),
    rename={"max_completion_tokens": "max_tokens"},
    system_message="brief",
    strip=True,
    keep_unfinished=True,
)


def test_adapter_in_a_recipes_words() -> None:
    """Everything that the launcher's proxy does to requests and answers can be said."""
    settings = task_settings(WHOLE)
    assert settings == {
        "generation": {"top_k": 3},
        "request": {
            "add": {"chat_template_kwargs": {"x": 1}},
            "remove": ["stop"],
            "rename": {"max_completion_tokens": "max_tokens"},
            "system_message": "brief",
        },
        "reasoning": {"strip": True, "end": "</think>", "keep_unfinished": True},
    }
    assert task_settings(Adapter()) == {}
    off = task_settings(Adapter(strip=False))
    assert off == {"reasoning": {"strip": False}}
