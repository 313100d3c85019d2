"""`extra.args` of a task of NeMo Skills: Hydra overrides of that harness, as text.

Those that say how the model is asked are translated. Any other is a problem that names it: an argument
that is left out in silence would be another evaluation under the same name.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import Any

from evalkit.recipe.yaml_text import parse_scalar

PYTHON_TOOL = "nemo_skills.mcp.servers.python_tool::PythonTool"
INFERENCE = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "tokens_to_generate": "max_tokens",
}
KNOWN = (
    "prompt_config",
    "use_client_parsing=False",
    *(f"inference.{name}" for name in INFERENCE),
    f"tool_modules=[{PYTHON_TOOL}]",
    "max_concurrent_requests",
    "max_samples",
    "structured_output=HLE_JUDGE_AA",
)
ARGUMENT = re.compile(r"\+{0,2}([A-Za-z_][\w.]*)=(.*)", re.DOTALL)


@dataclass
class NsArgs:
    """What the arguments ask for."""

    prompt: str | None = None
    generation: dict[str, Any] = field(default_factory=dict)
    """Keys of a recipe's `generation`; null is a value."""
    python: bool = False
    """With the Python tool."""
    limit: int | None = None
    concurrency: str | None = None
    official_judge: bool = False
    problems: list[str] = field(default_factory=list)


def parse_args(text: str) -> NsArgs:
    """The arguments of one task; what is wrong is in `problems`."""
    result = NsArgs()
    try:
        words = shlex.split(text)
    except ValueError as error:
        result.problems.append(f"cannot be split into words: {error}")
        return result
    for word in words:
        match = ARGUMENT.fullmatch(word)
        if match is None:
            _refuse(result, word)
        else:
            _take(result, match[1], match[2].strip(), word)
    return result


def _take(result: NsArgs, name: str, text: str, word: str) -> None:
    value = parse_scalar(text)
    section, _, key = name.partition(".")
    if section == "inference" and key in INFERENCE:
        _take_inference(result, INFERENCE[key], value, word)
        return
    match name:
        case "prompt_config":
            result.prompt = text.strip("'\"")
        case "use_client_parsing" if text.lower() == "false":
            pass  # The server parses tool calls, as always here.
        case "tool_modules" if text.strip("[]'\" ") == PYTHON_TOOL:
            result.python = True
        case "max_concurrent_requests":
            result.concurrency = text
        case "max_samples" if isinstance(value, int) and value > 0:
            result.limit = value
        case "structured_output" if text == "HLE_JUDGE_AA":
            result.official_judge = True
        case _:
            _refuse(result, word)


def _take_inference(result: NsArgs, key: str, value: Any, word: str) -> None:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        result.generation[key] = value
    else:
        result.problems.append(f"{word}: expected a number or null")


def _refuse(result: NsArgs, word: str) -> None:
    result.problems.append(
        f"evalkit does not know the argument {word}. Those it knows: {', '.join(KNOWN)}"
    )
