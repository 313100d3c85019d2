"""MMLU-Pro: 12,032 questions of 14 subjects with up to ten options (Wang et al. 2024, arXiv 2406.01574).

One user message, no examples, options in the order of the data. The gold letter is `answer`:
`answer_index` is wrong in one row of the 2024 data and is not read. The set was corrected after its
publication (answers of about 15 medical questions in April 2025, categories in October 2025), so the
state of the data is part of a score. The known duplicates among the questions are kept, as elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.benchmarks.card_sampling import CARD_SAMPLING
from evalkit.benchmarks.choice import ChoiceBenchmark, ChoiceParams, render_problem
from evalkit.benchmarks.contract import Dataset, Sample
from evalkit.benchmarks.data import DataSource
from evalkit.benchmarks.fields import field, require_unique_ids, text_field
from evalkit.errors import DataError
from evalkit.scoring.multiple_choice import LETTERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.benchmarks.data import DataAccess
    from evalkit.benchmarks.prompt_templates import PromptTemplate


class MmluProParams(ChoiceParams):
    """How MMLU-Pro is prompted and scored."""

    prompt: str = "eval/aai/mcq-10choices-boxed"
    """Name of a shipped prompt template, or the path of a text file with `{problem}` in it."""


class MmluPro(ChoiceBenchmark):
    """Which of up to ten options is right?"""

    name = "mmlu_pro"
    version = "1"
    title = "MMLU-Pro"
    description = "12,032 multiple-choice questions of 14 subjects, up to ten options each."
    licence = "MIT"
    source = DataSource(
        hub="TIGER-Lab/MMLU-Pro",
        # The state of 2025-10-25, with the corrections of that year: the one before the card.
        revision="dd36ce4b34827164989f100331f82c5a29741747",
        file="data/test-00000-of-00001.parquet",
        known={
            "0e24a191921c2f453518a537a8b2117bd137e7714d4ef1565e9ba06c1ecb9ad8": (
                "test set at hub revision b189ec76 (Parquet)"
            ),
            "32c67294bd848fbc30e57ae1c500e99919252ecd385600e57e250fb37868dde9": (
                "test set as of October 2024, before the corrections of 2025 (JSON Lines)"
            ),
            "5ee62e523d7c57878999f196c5fc2f8855142483c53d1a3702283d042eb56278": (
                "50 questions of each subject as of October 2024, for smoke runs (JSON Lines)"
            ),
        },
        formats="JSON Lines or Parquet with the fields of the hub's test split",
    )
    params_type = MmluProParams
    generation = CARD_SAMPLING
    repeats = 1
    expected_tokens = 4_000
    gold_form = "Answer: \\boxed{{{letter}}}"

    def load(self, access: DataAccess) -> Dataset:
        """Samples by question id. Raises DataError for rows that are not MMLU-Pro's."""
        template = self.load_template(access.base)
        data = access.rows(self.source, self.licence)
        samples = [_sample(row, number, template) for number, row in enumerate(data.rows, start=1)]
        samples.sort(key=lambda sample: int(sample.id))
        require_unique_ids(samples, self.name)
        return Dataset(samples, data.provenance, {template.name: template.sha256})


def _sample(row: Mapping[str, Any], number: int, template: PromptTemplate) -> Sample:
    where = f"mmlu_pro row {number}"
    question_id = field(row, "question_id", where)
    if not isinstance(question_id, int):
        raise DataError(f"{where}: 'question_id' must be a whole number, found {question_id!r}")
    options = _options(field(row, "options", where), where)
    answer = text_field(row, "answer", where)
    if answer not in LETTERS[: len(options)]:
        raise DataError(f"{where}: the answer {answer!r} is no letter of {len(options)} options")
    problem = render_problem(text_field(row, "question", where), options)
    return Sample(
        id=str(question_id),
        messages=({"role": "user", "content": template.render(problem=problem)},),
        target=answer,
        data={"n_options": len(options)},
        subset=text_field(row, "category", where).replace(" ", "_"),
    )


def _options(value: Any, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(option, str) for option in value):
        raise DataError(f"{where}: 'options' must be a list of texts, found {value!r}")
    if not 2 <= len(value) <= len(LETTERS):
        raise DataError(f"{where}: {len(value)} options; allowed: 2 to {len(LETTERS)}")
    return value
