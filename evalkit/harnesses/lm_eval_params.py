"""What a recipe can say about a task of lm-eval."""

from __future__ import annotations

import re
from collections.abc import Mapping  # noqa: TC003 - pydantic needs it
from typing import Any

from pydantic import Field, field_validator

from evalkit.benchmarks.contract import BenchmarkParams


class LmEvalParams(BenchmarkParams):
    """A task, and how it is asked. What is null is as the task, or lm-eval, has it."""

    task: str
    """Task or group, as in `benchmark: lm-eval/TASK`."""
    num_fewshot: int | None = Field(None, ge=0)
    """Examples before each question; no effect on a task that has 0 written in its file."""
    include_path: str | None = None
    """Folder with tasks of your own, from the recipe's folder on. Relative paths in its files start there."""
    apply_chat_template: bool = False
    """Ask by chat, with the model's template, in place of plain completions."""
    fewshot_as_multiturn: bool | None = None
    """Examples are turns of the chat."""
    system_instruction: str | None = None
    """Text before everything else."""
    repeats: int | None = Field(None, ge=1)
    """Answers to each question of a task that generates; its own filters decide what becomes of them."""
    gen_kwargs: Mapping[str, Any] = {}
    """Generation settings over those of the task, by lm-eval's names (`max_gen_toks`, `until`)."""
    seeds: tuple[int, int, int, int] = (0, 1234, 1234, 1234)
    """Of Python, numpy, torch and the few-shot sampler, as `lm-eval --seed` has them."""
    seed: int = 1234
    """Sent with a first answer; repeats get the numbers that follow."""
    metric: str | None = None
    """Headline: a metric's name, or `NAME,FILTER`. By default acc_norm, acc, exact_match or what there is."""
    tokenizer: str | None = None
    """tokenizer.json, or its folder, for log-likelihoods; by default the one beside the model's weights. From
    the recipe's folder on."""
    max_length: int | None = Field(None, ge=3)
    """As lm-eval's API models have it: of a log-likelihood's tokens, the last `max_length` - 1 are sent. By
    default all of them; a rolling one is then cut at lm-eval's 2048."""
    trust_remote_code: bool = False
    """Data sets may run code of their own when they are loaded."""
    allow_code_execution: bool = False
    """The task runs what the model wrote: in evalkit's sandbox, when the run is gathered."""
    bootstrap_iters: int = Field(100_000, ge=0)
    """For standard errors of what is no mean."""

    @field_validator("gen_kwargs")
    @classmethod
    def _no_seed(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        if "seed" in value:
            raise ValueError("the seed is params.seed: one for all repeats would make them equal")
        return value

    @field_validator("metric")
    @classmethod
    def _a_name(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"[^,]+(,.+)?$", value):
            raise ValueError("expected NAME or NAME,FILTER")
        return value


class NvidiaLmEvalParams(LmEvalParams):
    """Those, and what NVIDIA's edition adds."""

    task_name: str | None = None
    """Task of lm-eval behind a launcher's name; by default what the wheel's framework.yml says."""
    add_instruction: bool = False
    """Its `--add_instruction`: the task's instruction before the question."""
    instruction_override: str | None = None
    """Another instruction."""
    downsampling_ratio: float | None = Field(None, gt=0, le=1)
    """Share of the documents that is asked, drawn by the edition itself."""
