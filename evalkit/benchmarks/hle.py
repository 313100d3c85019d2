"""Humanity's Last Exam without images: 2,158 questions at the edge of what is known (Phan et al. 2025,
arXiv 2501.14249).

Answers are read by a judge, which is a model: its name is part of the metric's. It sees the whole answer,
also an empty one. The data is gated, and its authors ask that questions are not published: artifacts
hold ids and checksums only.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import orjson

from evalkit.benchmarks.card_sampling import CARD_SAMPLING
from evalkit.benchmarks.contract import Benchmark, BenchmarkParams, Dataset, Sample, Score, Solution
from evalkit.benchmarks.data import DataSource
from evalkit.benchmarks.fields import field, require_unique_ids, text_field
from evalkit.benchmarks.prompt_templates import load_prompt
from evalkit.errors import DataError, JudgeError, ScorerError
from evalkit.scoring.verdict import VerdictRule, read_confidence, read_verdict
from evalkit.store.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.benchmarks.contract import GradingTools
    from evalkit.benchmarks.data import DataAccess
    from evalkit.recipe.schema import Profile
    from evalkit.store.records import Reply

ALL_ROWS, TEXT_ROWS = 2500, 2158
"""Rows of the split, and those without an image."""
JUDGE_TRIES = 3
"""A judge without a readable verdict is asked twice more, where the rule can tell."""
ANSWER_LINE = re.compile(r"(?mi)^[ \t*_]*answer[ \t*_]*:[ \t*_]*(.*)$")
JUDGED: Mapping[str, Any] = {"temperature": 0.0, "top_p": 0.95}
OFFICIAL_FORMAT: Mapping[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "ExtractedAnswer",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "extracted_final_answer": {"type": "string"},
                "reasoning": {"type": "string"},
                "correct": {"type": "string", "enum": ["yes", "no"]},
                "confidence": {"type": "integer"},
                "strict": {"type": "boolean", "enum": [True]},
            },
            "required": ["extracted_final_answer", "reasoning", "correct", "confidence", "strict"],
            "additionalProperties": False,
        },
    },
}
"""What the judge of the authors has to answer in."""


class HleParams(BenchmarkParams):
    """How answers are judged."""

    judge_prompt: Literal["judge/hle", "judge/hle-official"] = "judge/hle"
    """The prompt behind the card, or that of the data's authors, which asks for JSON."""
    verdict: VerdictRule = "card"
    """How a verdict is read: `card` (what is no yes is a no), `ns-2511` (the rule before it) or
    `tolerant` (the judge is asked again where none can be read). JSON needs no rule."""


class Hle(Benchmark[HleParams]):
    """Does a judge accept the answer?"""

    name = "hle"
    version = "1"
    title = "Humanity's Last Exam (text only)"
    description = "2158 expert questions without images, judged by a model (gated)."
    licence = "MIT"
    source = DataSource(
        hub="cais/hle",
        file="data/test-00000-of-00001.parquet",
        gated=True,
        formats="JSON Lines, CSV or Parquet with id, question, answer, answer_type, category, image",
    )
    metric = "judge_correct"
    calibration = ("judge_correct", "confidence")
    grader = "judge"
    grading_params = ("judge_prompt",)
    scoring_params = ("verdict",)
    judge_generation: ClassVar[Mapping[Profile, Mapping[str, Any]]] = {
        "card": {**JUDGED, "presence_penalty": 1.0},
        "fixed": {**JUDGED, "presence_penalty": 0.0},
    }
    publishable = False
    params_type = HleParams
    knobs: ClassVar[Mapping[Profile, Mapping[str, Any]]] = {
        "card": {"verdict": "card"},
        "fixed": {"verdict": "tolerant"},
    }
    generation = CARD_SAMPLING
    expected_tokens = 15_000

    def load(self, access: DataAccess) -> Dataset:
        """Questions without an image, in file order. Raises DataError."""
        user, system = load_prompt("generic/hle"), load_prompt("generic/hle-system")
        data = access.rows(self.source, self.licence)
        samples = []
        for number, row in enumerate(data.rows, start=1):
            where = f"hle row {number}"
            if field(row, "image", where):
                continue
            question = text_field(row, "question", where)
            messages = (
                {"role": "system", "content": system.render()},
                {"role": "user", "content": user.render(problem=question)},
            )
            samples.append(_sample(row, where, question, messages))
        if len(data.rows) == ALL_ROWS and len(samples) != TEXT_ROWS:
            raise DataError(
                f"hle: {len(samples)} of {ALL_ROWS} questions have no image, {TEXT_ROWS} must have none"
            )
        require_unique_ids(samples, self.name)
        provenance = data.provenance.model_copy(update={"n_rows": len(samples)})
        prompts = {each.name: each.sha256 for each in (user, system)}
        return Dataset(samples, provenance, prompts)

    async def grade(self, sample: Sample, solution: Solution, tools: GradingTools) -> Any:
        """The judge's texts, until one has a verdict by the rule. Raises JudgeError without one."""
        template = load_prompt(self.params.judge_prompt)
        if self._is_official:
            content = template.render(
                question=sample.data["question"],
                response=solution.text,
                correct_answer=sample.target,
            )
        else:
            content = template.render(
                problem=sample.data["question"],
                generation=solution.text,
                expected_answer=sample.target,
            )
        message = {"role": "user", "content": content}
        overrides = {"response_format": OFFICIAL_FORMAT} if self._is_official else {}
        texts = []
        for number in range(JUDGE_TRIES):
            seed = {"seed": number} if number else {}
            reply = await tools.judge([message], overrides={**overrides, **seed})
            texts.append(_text(reply))
            found = {"texts": texts, "prompt_sha256": template.sha256}
            if self.suffices(found):
                return found
        raise JudgeError(f"the judge gave no verdict that can be read in {JUDGE_TRIES} answers")

    def score(self, sample: Sample, solution: Solution) -> Score:
        """Whether the judge accepted the answer, and how confident it was stated."""
        if solution.grading is None:
            raise ScorerError("the answer was not judged")
        text, verdict = self._verdict(solution.grading)
        if verdict is None:
            raise ScorerError("the judge's text has no verdict that can be read")
        official = _parse_official(text) if self._is_official else None
        stated = (
            read_confidence(solution.text) if official is None else official["confidence"] / 100
        )
        values = {
            self.metric: float(verdict),
            "confidence": min(max(stated, 0.0), 1.0),
            # counted by the rule that can tell, since the card takes them for a no
            "no_verdict": float(official is None and read_verdict(text, "tolerant") is None),
        }
        return Score(values, _stated_answer(solution.text))

    def suffices(self, found: Any) -> bool:
        """Whether the rule reads a verdict in one of the judge's texts: others may have asked less."""
        return self._verdict(found)[1] is not None

    def _verdict(self, found: Mapping[str, Any]) -> tuple[str, bool | None]:
        """The first text that the rule reads a verdict in, and the verdict; else the last text."""
        texts: list[str] = found["texts"]
        for text in texts:
            if (verdict := self._read(text)) is not None:
                return text, verdict
        return texts[-1], None

    @property
    def _is_official(self) -> bool:
        return self.params.judge_prompt == "judge/hle-official"

    def _read(self, text: str) -> bool | None:
        if not self._is_official:
            return read_verdict(text, self.params.verdict)
        parsed = _parse_official(text)
        return None if parsed is None else parsed["correct"] == "yes"

    def gold(self, sample: Sample) -> Solution:
        """The right answer in the form that is asked for."""
        return Solution(f"Explanation: known.\nAnswer: {sample.target}\nConfidence: 100%")


def _sample(
    row: Mapping[str, Any], where: str, question: str, messages: tuple[dict[str, Any], ...]
) -> Sample:
    return Sample(
        id=text_field(row, "id", where),
        messages=messages,
        target=text_field(row, "answer", where),
        data={"question": question, "answer_type": field(row, "answer_type", where)},
        subset=text_field(row, "category", where),
    )


def _stated_answer(text: str) -> str | None:
    """What stands behind the last `Answer:`; the judge decides, so this is for people only."""
    found = ANSWER_LINE.findall(text)
    return found[-1].strip() or None if found else None


def _text(reply: Reply) -> str:
    """What the judge said. Raises JudgeError where it would not or could not read the answer."""
    if reply.outcome in (Outcome.CONTEXT_OVERFLOW, Outcome.REFUSED):
        raise JudgeError(f"the judge did not read the answer ({reply.outcome}): {reply.detail}")
    return reply.content


def _parse_official(text: str) -> dict[str, Any] | None:
    """The judge's JSON; null where it is none, or another one."""
    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(parsed, dict) or parsed.get("correct") not in ("yes", "no"):
        return None
    confidence = parsed.get("confidence")
    if isinstance(confidence, bool) or not isinstance(confidence, int):
        return None
    return parsed
