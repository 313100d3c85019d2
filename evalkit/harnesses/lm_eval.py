"""The harness lm-eval (EleutherAI's lm-evaluation-harness), as it is published.

It is never imported here: it lives in a Python of its own, where `inside/lm_eval_driver.py` asks it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.benchmarks.harness import EnvironmentSpec, Harness, HarnessTask
from evalkit.harnesses.lm_eval_calls import list_tasks
from evalkit.harnesses.lm_eval_params import LmEvalParams
from evalkit.harnesses.lm_eval_task import AnyLmEvalTask

if TYPE_CHECKING:
    from collections.abc import Sequence

ENVIRONMENT = EnvironmentSpec(
    name="lm-eval",
    package="lm_eval",
    module="lm_eval",
    requirements="lm-eval.txt",
    extra="lm-eval",
)


class LmEvalTask(AnyLmEvalTask[LmEvalParams]):
    """A task or group of lm-eval."""

    params_type = LmEvalParams
    environment = ENVIRONMENT


class LmEval(Harness):
    """Thousands of tasks with frozen requests."""

    name = "lm-eval"
    title = "lm-evaluation-harness"
    description = "EleutherAI's tasks for base and chat models; every request is known beforehand."
    licence = "MIT"
    environment = ENVIRONMENT
    benchmark_type = LmEvalTask

    def tasks(self) -> Sequence[HarnessTask]:
        """All tasks, groups and tags by name. Raises PlanError."""
        return list_tasks(ENVIRONMENT)
