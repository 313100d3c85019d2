"""GPQA Diamond with a Python tool, as behind the card's second figure for it.

Data, shuffle, prompt, extraction and scoring are those of `gpqa_diamond`; the letter is searched in the
content of all rounds together.
"""

from __future__ import annotations

from evalkit.benchmarks.card_sampling import CARD_TOOL_SAMPLING
from evalkit.benchmarks.gpqa_diamond import GpqaDiamond, GpqaDiamondParams
from evalkit.benchmarks.python_tool import PythonToolBenchmark, PythonToolParams


class GpqaDiamondToolsParams(GpqaDiamondParams, PythonToolParams):
    """How GPQA Diamond is prompted, helped and scored."""


class GpqaDiamondTools(PythonToolBenchmark, GpqaDiamond):
    """Which of four options is right, with Python at hand?"""

    name = "gpqa_diamond_tools"
    version = "1"
    title = "GPQA Diamond with Python"
    description = "198 hard science questions, four options each (gated), with a Python tool."
    params_type = GpqaDiamondToolsParams
    generation = CARD_TOOL_SAMPLING
