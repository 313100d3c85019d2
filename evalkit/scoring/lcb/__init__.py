"""Judges programs as LiveCodeBench does: extraction from an answer, tests in the sandbox, comparison.

    code = extract_code(answer, "last_closed")
    verdict = await grade_code(Task(code, tests, fn_name, "strict-subprocess", limit_s=6), tools.run)

Expected outputs never enter the sandbox: what a program gave comes out of it, and is compared here.
"""

from evalkit.scoring.lcb.extraction import CodeBlock, extract_code
from evalkit.scoring.lcb.grader import Cases, Grader, ResultCode, Task, Verdict, grade_code

__all__ = [
    "Cases",
    "CodeBlock",
    "Grader",
    "ResultCode",
    "Task",
    "Verdict",
    "extract_code",
    "grade_code",
]
