"""GPQA Diamond: 198 graduate-level science questions (Rein et al. 2023, arXiv 2311.12022).

The options are shuffled once for all repeats, by the Mersenne Twister seeded with 42 and drawn from
through the whole file in file order: a single row more or fewer moves every gold letter after it, so
rows are shuffled before anything else may filter them, and the letters of the known file are checked
against their checksum. The data is gated, and its authors ask that questions are not published:
artifacts hold row numbers and checksums only.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, Any, NamedTuple

from evalkit.benchmarks.card_sampling import CARD_SAMPLING
from evalkit.benchmarks.choice import ChoiceBenchmark, ChoiceParams, render_problem
from evalkit.benchmarks.contract import Dataset, Sample
from evalkit.benchmarks.data import DataSource
from evalkit.benchmarks.fields import field, require_unique_ids, text_field
from evalkit.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.benchmarks.data import DataAccess
    from evalkit.benchmarks.prompt_templates import PromptTemplate

LETTERS = "ABCD"
SHUFFLE_SEED = 42
DIAMOND_CSV = "41d1213cd7a4998605a26c2798500652572007161b3a92817ba46b35befcd305"
DIAMOND_LETTERS = "30565eaa5599b932ba71e28e6ff8b8eb6ba0a0573ed854b8382b579e253445d9"
"""sha256 of the 198 gold letters in file order."""
WRONG_ANSWERS = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
RIGHT_ANSWER = "Correct Answer"

# The original reads the file with pandas, which takes these texts for a missing value.
PANDAS_MISSING = frozenset(
    {
        *("", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null", "-NaN", "-nan"),
        *("#N/A", "#N/A N/A", "#NA", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
    }
)


class GpqaDiamondParams(ChoiceParams):
    """How GPQA Diamond is prompted and scored."""

    prompt: str = "eval/aai/mcq-4choices"
    """Name of a shipped prompt template, or the path of a text file with `{problem}` in it."""


class Shuffled(NamedTuple):
    """One row's options in the order they are shown, and the letter of the right one."""

    options: list[str]
    gold: str


class GpqaDiamond(ChoiceBenchmark):
    """Which of four options is right?"""

    name = "gpqa_diamond"
    version = "1"
    title = "GPQA Diamond"
    description = "198 hard questions of biology, chemistry and physics, four options each (gated)."
    licence = "CC-BY-4.0"
    source = DataSource(
        hub="Idavidrein/gpqa",
        revision="633f5ee89ab8ad4522a9f850766b73f62147ffdd",
        file="gpqa_diamond.csv",
        known={DIAMOND_CSV: "the 198 rows of gpqa_diamond.csv"},
        gated=True,
        formats="CSV with the columns of gpqa_diamond.csv",
    )
    publishable = False
    params_type = GpqaDiamondParams
    generation = CARD_SAMPLING
    repeats = 8
    expected_tokens = 10_000
    gold_form = "Answer: {letter}"

    def load(self, access: DataAccess) -> Dataset:
        """Samples in file order, shuffled as the original. Raises DataError."""
        template = self.load_template(access.base)
        data = access.rows(self.source, self.licence)
        shuffled = shuffle_options(data.rows)
        if data.provenance.sha256 == DIAMOND_CSV:
            check_letters("".join(row.gold for row in shuffled))
        samples = [
            _sample(index, row, options, template)
            for index, (row, options) in enumerate(zip(data.rows, shuffled, strict=True))
        ]
        require_unique_ids(samples, self.name)
        return Dataset(samples, data.provenance, {template.name: template.sha256})


def shuffle_options(rows: Sequence[Mapping[str, Any]]) -> list[Shuffled]:
    """The options of all rows of the file, in file order. Raises DataError for a missing column."""
    rng = random.Random(SHUFFLE_SEED)
    shuffled = []
    for index, row in enumerate(rows):
        where = _where(index)
        options = [clean_option(field(row, key, where)) for key in (*WRONG_ANSWERS, RIGHT_ANSWER)]
        right = options[-1]
        rng.shuffle(options)
        # Two rows offer the right text twice: the first of them is the gold letter.
        shuffled.append(Shuffled(options, LETTERS[options.index(right)]))
    return shuffled


def clean_option(text: str | None) -> str:
    """An option as the original shows it; double blanks are halved once, a missing one is a blank."""
    if text is None or text in PANDAS_MISSING:
        return " "
    return text.strip().replace(" [title]", ". ").replace("  ", " ")


def check_letters(letters: str) -> None:
    """Raises DataError where the known file gives other gold letters than it must."""
    digest = hashlib.sha256(letters.encode()).hexdigest()
    if digest != DIAMOND_LETTERS:
        raise DataError(
            f"gpqa_diamond: the gold letters have sha256 {digest}, they must have {DIAMOND_LETTERS}",
            hint="This Python shuffles otherwise than CPython does; run evalkit with CPython.",
        )


def _sample(
    index: int, row: Mapping[str, Any], shuffled: Shuffled, template: PromptTemplate
) -> Sample:
    where = _where(index)
    question = text_field(row, "Question", where)
    digest = hashlib.sha256(question.encode()).hexdigest()
    problem = render_problem(question, shuffled.options)
    return Sample(
        id=f"{index}-{digest[:12]}",
        messages=({"role": "user", "content": template.render(problem=problem)},),
        target=shuffled.gold,
        data={"n_options": len(LETTERS), "question_sha256": digest},
        subset=text_field(row, "Subdomain", where),
    )


def _where(index: int) -> str:
    return f"gpqa_diamond row {index}"
