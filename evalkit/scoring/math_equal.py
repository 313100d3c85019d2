r"""Whether a predicted mathematical answer equals the gold one.

The order of the rules decides scores ("016", "70\%", "m+n=70"), so they follow the mathematics
grader of NeMo-Skills of December 2025 one by one, on math-verify 0.9.0, which does the symbolic part.
The comparison is not symmetric: the gold answer comes first. It does not search a text for its
answer (`evalkit.scoring.boxed` does) and reduces nothing modulo 1000.

math-verify limits its own time with SIGALRM, which only the main thread of a process may use: from
threads and event loops call it through `evalkit.scoring.pool.ScoringPool`. It is imported on first
use, because it brings sympy along.
"""

import re

from evalkit.errors import ScorerError

OPTION_LETTERS = tuple("ABCDEFGHIJ")
PARSE_TIMEOUT_S = 5
"""math-verify's own default for reading one side."""
VERIFY_TIMEOUT_S = 10
NUMERIC_PRECISION = 15

_PERCENT = re.compile(r"(\d+(?:\.\d*)?)\\?%")
_WORDS = re.compile(r"[a-zA-Z ,]+")
_DIGITS = re.compile(r"[0-9 ]+")
_ENVIRONMENTS = (("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), (r"\boxed{", ""))
_SHOWN = 80


def math_equal(gold: str, predicted: str | None, *, literal_integers: bool = False) -> bool:
    """True where the two answers agree; a missing prediction never does.

    ``literal_integers`` restores the state before 2025-12-04, where two strings of digits were
    compared as text ("016" is not "16"). Must run in the main thread of its process. Raises
    ScorerError where math-verify fails or runs out of time; such a unit has no score.
    """
    if predicted is None:
        return False
    try:
        return _equal(gold, predicted, literal_integers=literal_integers)
    except BaseException as error:
        if not _is_grader_failure(error):
            raise
        raise _failure(gold, predicted, repr(error)) from error


def _is_grader_failure(error: BaseException) -> bool:
    """sympy may raise anything on what a model writes; math-verify's timeout is no `Exception`."""
    from math_verify.errors import TimeoutException

    return isinstance(error, (Exception, TimeoutException))


def _failure(gold: str, predicted: str, reason: str) -> ScorerError:
    shown = predicted if len(predicted) <= _SHOWN else f"{predicted[:_SHOWN]}..."
    return ScorerError(
        f"mathematics grader: cannot compare gold {gold!r} with {shown!r}: {reason}",
        hint="The unit has no score. If it fails again, judge this answer by hand.",
    )


def _equal(gold: str, predicted: str, *, literal_integers: bool) -> bool:
    from latex2sympy2_extended import NormalizationConfig, normalize_latex

    if gold.strip() in OPTION_LETTERS and _same_option(gold, predicted):
        return True
    gold, predicted = _without_unit(gold), _without_unit(predicted)
    normal_gold = normalize_latex(gold, NormalizationConfig())
    normal_predicted = normalize_latex(predicted, NormalizationConfig())
    if normal_gold.replace(" ", "") == normal_predicted.replace(" ", ""):
        return True
    literals = (_WORDS, _DIGITS) if literal_integers else (_WORDS,)
    if any(p.fullmatch(normal_gold) and p.fullmatch(normal_predicted) for p in literals):
        return False
    return _symbolically_equal(gold, predicted)


def _same_option(gold: str, predicted: str) -> bool:
    from math_verify import StringExtractionConfig, parse, verify

    config = [StringExtractionConfig(strings=OPTION_LETTERS)]
    sides = [
        parse(side, config, parsing_timeout=PARSE_TIMEOUT_S, raise_on_error=True)
        for side in (gold, predicted)
    ]
    return bool(verify(*sides, raise_on_error=True))


def _without_unit(answer: str) -> str:
    """Drop the percent sign of a plain number, then dots and backslashes at the end."""
    percent = _PERCENT.fullmatch(answer)
    return (percent.group(1) if percent else answer).rstrip(".\\")


def _symbolically_equal(gold: str, predicted: str) -> bool:
    from math_verify import LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig()]
    sides = [
        parse(_as_latex(side), config, parsing_timeout=PARSE_TIMEOUT_S, raise_on_error=True)
        for side in (gold, predicted)
    ]
    return bool(
        verify(
            *sides,
            numeric_precision=NUMERIC_PRECISION,
            timeout_seconds=VERIFY_TIMEOUT_S,
            raise_on_error=True,
        )
    )


def _as_latex(answer: str) -> str:
    """Wrap in dollars what is not inside (or beside) a LaTeX environment already."""
    for opening, closing in _ENVIRONMENTS:
        start = answer.find(opening)
        if start >= 0 and answer.find(closing, start + len(opening)) >= 0:
            return answer
    return f"${answer}$"
