"""Grading: programs run in a sandbox and answers shown to a judge, between generation and gather.

docs/adr/0019-grading.md says where findings lie and what they depend on.
"""

from evalkit.cluster.grading.answers import grade_answers
from evalkit.cluster.grading.stage import GradingProgress, Watching, grade_run, ungraded_tasks

__all__ = ["GradingProgress", "Watching", "grade_answers", "grade_run", "ungraded_tasks"]
