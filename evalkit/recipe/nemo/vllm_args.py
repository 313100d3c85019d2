"""`deployment.extra_args`: one text of vLLM options, as keys of a recipe's `serving`.

A flag that is given twice counts as it was given last, and it wins over the deployment's own keys, as on
vLLM's command line. Options that evalkit sets itself, or lays out over nodes, are named.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evalkit.recipe.yaml_text import parse_scalar

if TYPE_CHECKING:
    from collections.abc import Mapping

KEYS: Mapping[str, str] = {
    name.replace("_", "-"): name
    for name in (
        *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"),
        *("max_model_len", "gpu_memory_utilization", "max_num_seqs", "dtype", "kv_cache_dtype"),
        *("quantization", "load_format", "reasoning_parser", "tool_call_parser"),
        *("enable_prefix_caching", "enforce_eager", "trust_remote_code", "served_model_name"),
    )
}
"""Options that have a key of their own in `serving`."""
SHORT = {
    "-tp": "tensor-parallel-size",
    "-pp": "pipeline-parallel-size",
    "-dp": "data-parallel-size",
}
OURS: Mapping[str, str] = {
    "host": "evalkit chooses the address",
    "port": "evalkit chooses a free port",
    "api-key": "evalkit makes a key for each job",
    "model": "the model is deployment.hf_model_handle or checkpoint_path",
    "uds": "evalkit speaks to servers over TCP",
    "distributed-executor-backend": "evalkit lays servers out over nodes itself",
    "data-parallel-backend": "evalkit lays servers out over nodes itself",
    "data-parallel-size-local": "evalkit lays servers out over nodes itself",
    "data-parallel-address": "evalkit lays servers out over nodes itself",
    "data-parallel-rpc-port": "evalkit lays servers out over nodes itself",
    "headless": "evalkit lays servers out over nodes itself",
    "stream-interval": "evalkit sets it (serving.stream_interval)",
}
"""Options without effect, and why."""
FLAG = re.compile(r"--([A-Za-z][\w.-]*)(?:=(.*))?", re.DOTALL)


@dataclass
class VllmArgs:
    """The options of one text."""

    keys: dict[str, Any] = field(default_factory=dict)
    """Keys of `serving`."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Its `extra_args`."""
    revision: str | None = None
    without_effect: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def parse_vllm_args(text: str) -> VllmArgs:
    """The options of a text; what is wrong is in `problems`."""
    result = VllmArgs()
    try:
        words = shlex.split(text)
    except ValueError as error:
        result.problems.append(f"cannot be split into words: {error}")
        return result
    for name, values in _options(words, result):
        _take(result, name, values)
    if "tool_call_parser" in result.keys:
        result.extra.pop("enable-auto-tool-choice", None)
    return result


def _options(words: list[str], result: VllmArgs) -> list[tuple[str, list[str]]]:
    """Options with the words behind them, in order."""
    found: list[tuple[str, list[str]]] = []
    for word in words:
        match = FLAG.fullmatch(word)
        if word in SHORT:
            found.append((SHORT[word], []))
        elif match is not None:
            found.append((match[1], [] if match[2] is None else [match[2]]))
        elif not found or (word.startswith("-") and not _is_number(word)):
            result.problems.append(f"{word}: expected options with their long names, --NAME VALUE")
        else:
            found[-1][1].append(word)
    return found


def _is_number(word: str) -> bool:
    return isinstance(parse_scalar(word), int | float)


def _take(result: VllmArgs, name: str, values: list[str]) -> None:
    norm = name.replace("_", "-")
    negated = norm.removeprefix("no-")
    if norm in OURS:
        result.without_effect[name] = OURS[norm]
    elif norm == "revision":
        result.revision = values[0] if values else None
    elif norm in KEYS:
        _take_key(result, name, KEYS[norm], values)
    elif negated in KEYS and norm != negated:
        result.keys[KEYS[negated]] = False
    else:
        # The same option in another spelling before: this one is the last.
        for old in [key for key in result.extra if key.replace("_", "-") in (norm, negated)]:
            del result.extra[old]
        if norm.startswith("no-") and not values:
            result.extra[negated] = False
        else:
            result.extra[name] = _value(values)


def _take_key(result: VllmArgs, name: str, key: str, values: list[str]) -> None:
    if len(values) > 1:
        result.problems.append(f"--{name}: expected one value, found {' '.join(values)}")
    elif key in ("quantization", "dtype", "served_model_name") and values:
        result.keys[key] = values[0]
    else:
        result.keys[key] = _value(values)


def _value(values: list[str]) -> Any:
    """`true` for a bare flag, a scalar, or a list."""
    if not values:
        return True
    scalars = [parse_scalar(value) for value in values]
    plain = [
        value if scalar is None else scalar for value, scalar in zip(values, scalars, strict=True)
    ]
    return plain[0] if len(plain) == 1 else plain
