"""Judges programs as LiveCodeBench does: extraction from an answer, tests in the sandbox, comparison.

    code = extract_code(answer, "last_closed")
    verdict = await grade_code(Task(code, Cases(inputs, outputs), fn_name, "strict-subprocess", limit_s=6), tools.run)

Expected outputs never enter the sandbox: what a program gave comes out of it, and is compared here.
"""

from evalkit.scoring.lcb.extraction import CodeBlock, extract_code
from evalkit.scoring.lcb.grader import ResultCode, Verdict, grade_code
from evalkit.scoring.lcb.rounds import PRELOAD, Cases, Grader, Task

__all__ = [
    "PRELOAD",
    "Cases",
    "CodeBlock",
    "Grader",
    "ResultCode",
    "Task",
    "Verdict",
    "extract_code",
    "grade_code",
]
