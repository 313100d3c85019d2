"""AIME 2025: the 30 problems of both papers, whose answers are integers from 0 to 999.

Only the last box of an answer is read. Thirty problems say little about others: with 64 answers to
each, the same model repeats its score within a point, while another set of thirty could differ by
several. The prompt behind the published score is not public; its stand-in is named in
`prompts/SOURCES.md`. No judge is asked, as in the published recipe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.benchmarks.card_sampling import CARD_SAMPLING
from evalkit.benchmarks.contract import Benchmark, BenchmarkParams, Dataset, Sample, Score, Solution
from evalkit.benchmarks.data import DataSource
from evalkit.benchmarks.fields import require_unique_ids, text_field
from evalkit.benchmarks.prompt_templates import load_prompt
from evalkit.scoring.boxed import last_boxed
from evalkit.scoring.math_equal import math_equal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from evalkit.benchmarks.data import DataAccess
    from evalkit.benchmarks.prompt_templates import PromptTemplate


class Aime2025Params(BenchmarkParams):
    """How AIME is prompted and scored."""

    prompt: str = "gpt-oss/math"
    """Name of a shipped prompt template, or the path of a text file with `{problem}` in it."""
    literal_integers: bool = False
    """Compare strings of digits as text, so that "016" is not "16", as the harness behind the card
    did before 2025-12-04."""


class Aime2025(Benchmark[Aime2025Params]):
    """What is the integer?"""

    name = "aime2025"
    version = "1"
    title = "AIME 2025"
    description = "The 30 problems of the American Invitational Mathematics Examination 2025."
    licence = "file: Apache-2.0; problems: copyright Mathematical Association of America"
    source = DataSource(
        # The hub's copy has other fields and another licence; this is the file behind the card.
        url="https://raw.githubusercontent.com/NVIDIA-NeMo/Skills/"
        "699dfaa67800ad5f5777c0962e8671f3f1c0c564/nemo_skills/dataset/aime25/test.txt",
        file="aime2025.jsonl",
        known={
            "b672f9c6660b68dd42f5fc705b17405f24eaa9991c98991d63463c6b683468a8": (
                "nemo_skills/dataset/aime25/test.txt of NVIDIA-NeMo/Skills@699dfaa6"
            )
        },
        formats="JSON Lines with id, problem and expected_answer, as nemo_skills/dataset/aime25/"
        "test.txt of github.com/NVIDIA-NeMo/Skills",
    )
    metric = "symbolic_correct"
    parallel_scoring = True
    params_type = Aime2025Params
    generation = CARD_SAMPLING
    repeats = 64
    expected_tokens = 20_000

    def check(self, base: Path) -> None:
        """Raises RecipeError for a prompt that is not there or does not show what it must."""
        self._template(base)

    def _template(self, base: Path) -> PromptTemplate:
        template = load_prompt(self.params.prompt, base)
        template.require("problem")
        return template

    def load(self, access: DataAccess) -> Dataset:
        """Samples in file order. Raises DataError for rows without the three fields."""
        template = self._template(access.base)
        data = access.rows(self.source, self.licence)
        samples = [_sample(row, number, template) for number, row in enumerate(data.rows, start=1)]
        require_unique_ids(samples, self.name)
        return Dataset(samples, data.provenance, {template.name: template.sha256})

    def score(self, sample: Sample, solution: Solution) -> Score:
        """1 where the last box equals the gold integer. Needs a main thread; raises ScorerError."""
        answer = last_boxed(solution.text)
        literal = self.params.literal_integers
        equal = math_equal(sample.target, answer, literal_integers=literal)
        return Score({self.metric: float(equal)}, answer)

    def gold(self, sample: Sample) -> Solution:
        """The right integer in a box."""
        return Solution(f"\\boxed{{{sample.target}}}")

    def wrong(self, sample: Sample) -> Solution:
        """The next integer in a box."""
        return Solution(f"\\boxed{{{int(sample.target) + 1}}}")


def _sample(row: Mapping[str, Any], number: int, template: PromptTemplate) -> Sample:
    where = f"aime2025 row {number}"
    # No template shows examples to the model; one has a place for them.
    content = template.render(problem=text_field(row, "problem", where), examples="")
    return Sample(
        id=text_field(row, "id", where),
        messages=({"role": "user", "content": content},),
        target=text_field(row, "expected_answer", where),
    )
