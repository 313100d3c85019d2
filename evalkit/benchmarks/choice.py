"""What the multiple-choice benchmarks share: one user message, lettered options, one letter scored.

It knows no data set. Options stand in the order given, are inserted as they are, and never shuffled
here; the prompt says how the model should answer, and the order of search what counts as its answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from evalkit.benchmarks.contract import Benchmark, BenchmarkParams, Sample, Score, Solution
from evalkit.benchmarks.prompt_templates import PromptTemplate, load_prompt
from evalkit.scoring.multiple_choice import LETTERS, McqOrder, extract_letter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from evalkit.recipe.schema import Profile


class ChoiceParams(BenchmarkParams):
    """How a multiple-choice benchmark is prompted and scored."""

    prompt: str
    """Name of a shipped prompt template, or the path of a text file with `{problem}` in it."""
    mcq_order: McqOrder = "regex_then_boxed"
    """Where the letter is searched first: `regex_then_boxed` as the harness behind the card,
    `boxed_then_regex` as the same harness before 2025-12-09, `answer_line_first` as evalkit."""


class ChoiceBenchmark(Benchmark[ChoiceParams]):
    """Score one letter per sample; a subclass loads the samples."""

    metric = "symbolic_correct"
    scoring_params = ("mcq_order",)
    knobs: ClassVar[Mapping[Profile, Mapping[str, Any]]] = {
        "card": {"mcq_order": "regex_then_boxed"},
        "fixed": {"mcq_order": "answer_line_first"},
    }
    gold_form: ClassVar[str]
    """How a model that follows the card's prompt writes its answer: a `str.format` of `letter`."""

    def load_template(self, base: Path) -> PromptTemplate:
        """The task's prompt; `base` is where a relative path starts. Raises RecipeError for one that is not there or shows no problem."""
        template = load_prompt(self.params.prompt, base)
        template.require("problem")
        return template

    def check(self, base: Path) -> None:
        """Raises RecipeError for a prompt that is not there or shows no problem."""
        self.load_template(base)

    def score(self, sample: Sample, solution: Solution) -> Score:
        """1 where the letter found in the content is the gold one; no letter is wrong."""
        n_options = sample.data["n_options"]
        letter = extract_letter(solution.text, n_options, self.params.mcq_order)
        return Score({self.metric: float(letter == sample.target)}, letter)

    def gold(self, sample: Sample) -> Solution:
        """The right letter in the form the prompt asks for."""
        return Solution(self.gold_form.format(letter=sample.target))

    def wrong(self, sample: Sample) -> Solution:
        """The first other letter in the same form."""
        letter = "B" if sample.target == "A" else "A"
        return Solution(self.gold_form.format(letter=letter))


def render_problem(question: str, options: Sequence[str]) -> str:
    """The question without line ends around it, a blank line, and one line per option."""
    letters = LETTERS[: len(options)]
    lines = (f"{letter}) {option}" for letter, option in zip(letters, options, strict=True))
    return question.strip("\n") + "\n\n" + "\n".join(lines)
