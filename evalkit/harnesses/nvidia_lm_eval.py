"""NVIDIA's edition of lm-eval: older, with tasks of its own, as its published configurations run them.

`nvidia-lm-eval/NAME` is a task of the launcher, with the parameters that the wheel's `framework.yml` gives
it, or any task of that lm-eval. A recipe's own parameters are over those of the file.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from evalkit.benchmarks.harness import EnvironmentSpec, Harness, HarnessTask
from evalkit.errors import RecipeError
from evalkit.harnesses.lm_eval_calls import list_tasks, read_framework
from evalkit.harnesses.lm_eval_params import NvidiaLmEvalParams
from evalkit.harnesses.lm_eval_task import AnyLmEvalTask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ENVIRONMENT = EnvironmentSpec(
    name="nvidia-lm-eval",
    package="nvidia-lm-eval",
    module="lm_eval",
    requirements="nvidia-lm-eval.txt",
)
SWITCHES = {"--trust_remote_code": "trust_remote_code", "--add_instruction": "add_instruction"}
"""What `extra.args` of the file holds, as parameters."""
LIMITS = {"temperature": "temperature", "top_p": "top_p", "max_new_tokens": "max_gen_toks"}


class NvidiaLmEvalTask(AnyLmEvalTask[NvidiaLmEvalParams]):
    """A task of NVIDIA's launcher, or of its lm-eval."""

    params_type = NvidiaLmEvalParams
    environment = ENVIRONMENT

    @property
    def asked_task(self) -> str:
        """The task by lm-eval's own name."""
        return self.params.task_name or self.params.task

    def resolved(self) -> NvidiaLmEvalParams:
        """With what framework.yml says of a launcher's task. Raises PlanError, RecipeError."""
        found = read_framework(ENVIRONMENT).get(self.params.task)
        if found is None or self.params.task_name is not None:
            return self.params
        route = "chat" if self.params.apply_chat_template else "completions"
        if route not in found["endpoints"]:
            raise RecipeError(
                f"{self.params.task} is made for {' and '.join(found['endpoints'])} endpoints",
                hint="params.apply_chat_template: true asks by chat, false by completions.",
            )
        given = {name: getattr(self.params, name) for name in self.params.model_fields_set}
        told = framework_params(self.params.task, found["params"])
        merged = {**told, **given, "gen_kwargs": {**told["gen_kwargs"], **self.params.gen_kwargs}}
        if self.params.apply_chat_template:
            merged.setdefault("fewshot_as_multiturn", True)  # as its command line has it
        return NvidiaLmEvalParams.model_validate(merged)


def framework_params(task: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of ours for those of framework.yml. Raises RecipeError for an argument we do not know."""
    extra = params["extra"]
    switches = shlex.split(extra.get("args") or "")
    if unknown := [each for each in switches if each not in SWITCHES]:
        raise RecipeError(
            f"{task}: framework.yml asks for {' '.join(unknown)}, which evalkit has not"
        )
    settings = {ours: params[name] for name, ours in LIMITS.items() if params.get(name) is not None}
    told = {"task_name": params["task"], "gen_kwargs": settings}
    told |= {SWITCHES[each]: True for each in switches}
    for name in ("num_fewshot", "downsampling_ratio"):
        if extra.get(name) is not None:
            told[name] = extra[name]
    return told


class NvidiaLmEval(Harness):
    """The edition that measured NVIDIA's base models."""

    name = "nvidia-lm-eval"
    title = "lm-evaluation-harness, packaged by NVIDIA"
    description = "Its adlr_* tasks measured the Nemotron base models; in a Python of its own."
    licence = "MIT and Apache-2.0"
    environment = ENVIRONMENT
    benchmark_type = NvidiaLmEvalTask

    def tasks(self) -> Sequence[HarnessTask]:
        """The launcher's tasks, then those of lm-eval. Raises PlanError."""
        launched = [
            HarnessTask(name, "launcher", row["description"], row["params"])
            for name, row in read_framework(ENVIRONMENT).items()
        ]
        names = {task.name for task in launched}
        return [*launched, *(task for task in list_tasks(ENVIRONMENT) if task.name not in names)]
