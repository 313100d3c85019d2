"""AIME 2025 with a Python tool, as behind the card's second figure for it.

Data, extraction and scoring are those of `aime2025`. The published recipe names no prompt here, so
the harness's own one for the data set holds, which is public, other than that of the variant without
a tool.
"""

from __future__ import annotations

from evalkit.benchmarks.aime2025 import Aime2025, Aime2025Params
from evalkit.benchmarks.card_sampling import CARD_TOOL_SAMPLING
from evalkit.benchmarks.python_tool import PythonToolBenchmark, PythonToolParams


class Aime2025ToolsParams(Aime2025Params, PythonToolParams):
    """How AIME is prompted, helped and scored."""

    prompt: str = "generic/math"
    """Name of a shipped prompt template, or the path of a text file with `{problem}` in it."""


class Aime2025Tools(PythonToolBenchmark, Aime2025):
    """What is the integer, with Python at hand?"""

    name = "aime2025_tools"
    version = "1"
    title = "AIME 2025 with Python"
    description = "The 30 problems of AIME 2025, with a Python tool in a sandbox."
    params_type = Aime2025ToolsParams
    generation = CARD_TOOL_SAMPLING
