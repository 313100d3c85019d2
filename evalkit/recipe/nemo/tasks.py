"""Which of the launcher's tasks evalkit has, and as what: the one place to register another.

A task is (harness, name). A harness that evalkit learns to run is registered here: a row for each of its
tasks, with the benchmark that runs it and the parameters that choose the task there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from evalkit.recipe.problems import nearest
from evalkit.recipe.yaml_text import parse_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NEMO_SKILLS = "nemo_skills"
LM_EVAL = "lm-evaluation-harness"
SIMPLE_EVALS = "simple_evals"
WHEELS: Mapping[str, str] = {SIMPLE_EVALS: "nvidia-simple-evals"}
"""Harnesses of which evalkit runs the wheel, which has their tasks under the same names."""


@dataclass(frozen=True)
class Target:
    """A benchmark of evalkit, and what the launcher's task has by default."""

    benchmark: str
    core: str
    """The task's name in its harness, `config.params.task`."""
    with_python: str | None = None
    """The benchmark that is the same task with a Python tool."""
    prompt: str | None = None
    """The harness's prompt where no other is asked for, if evalkit's default is another one."""
    takes_prompt: bool = True
    """Another prompt may be asked for."""
    split: str | None = None
    """The part of the data where no other is asked for."""
    repeats: int = 1
    params: Mapping[str, Any] = field(default_factory=dict)
    """More parameters of the benchmark."""
    judge: Mapping[str, str] = field(default_factory=dict)
    """The judge where the file names none: its url and model_id."""
    is_wheel: bool = False
    """It is run by the wheel of its harness, which takes the file's settings as they are."""
    is_lm_eval: bool = False
    """A task of lm-evaluation-harness, which has its settings elsewhere."""


TARGETS: Mapping[tuple[str, str], Target] = {
    (NEMO_SKILLS, "ns_aime2025"): Target(
        "aime2025", "aime25", with_python="aime2025_tools", prompt="generic/math", split="test"
    ),
    (NEMO_SKILLS, "ns_gpqa"): Target(
        "gpqa_diamond", "gpqa", with_python="gpqa_diamond_tools", split="diamond"
    ),
    (NEMO_SKILLS, "ns_mmlu_pro"): Target("mmlu_pro", "mmlu-pro", split="test"),
    (NEMO_SKILLS, "ns_livecodebench"): Target(
        "livecodebench_v6", "livecodebench", split="test_v6_2408_2505"
    ),
    (NEMO_SKILLS, "ns_livecodebench_v5"): Target(
        "livecodebench_v6", "livecodebench", split="test_v5_2407_2412"
    ),
    (NEMO_SKILLS, "ns_scicode"): Target("scicode", "scicode", split="test_aai"),
    (NEMO_SKILLS, "ns_ifbench"): Target("ifbench", "ifbench", takes_prompt=False, split="test"),
    (NEMO_SKILLS, "ns_hle"): Target("hle", "hle", takes_prompt=False, split="text"),
    (NEMO_SKILLS, "ns_hle_aa"): Target(
        "hle",
        "hle",
        takes_prompt=False,
        split="text",
        params={"judge_prompt": "judge/hle-official"},
        judge={
            "url": "https://inference-api.nvidia.com/v1",
            "model_id": "us/azure/openai/gpt-4.1",
        },
    ),
    (NEMO_SKILLS, "ns_bfcl_v4"): Target("bfcl_v4", "bfcl_v4", takes_prompt=False),
}

REASONS: Mapping[str, str] = {
    "ns_bfcl_v3": "evalkit has BFCL v4 alone, and v3 weighs its categories otherwise",
    "ns_livecodebench_aa": "its prompt lies in the launcher's container and is not public",
}
"""Why a task is not available, where there is more to say than its harness."""
HARNESS_REASONS: Mapping[str, str] = {
    NEMO_SKILLS: "evalkit has no benchmark for this task of nemo_skills",
    LM_EVAL: "evalkit reads no such task of lm-evaluation-harness from this file; a recipe can have it "
    "as `benchmark: nvidia-lm-eval/NAME`",
}


@dataclass(frozen=True)
class TaskName:
    """A task's name in a file, understood."""

    name: str
    """Without the harness."""
    harnesses: tuple[str, ...]
    """Those that have a task of this name; the one that is written, if one is."""

    @property
    def target(self) -> Target | None:
        """The benchmark for it, null where evalkit has none."""
        found = [TARGETS[h, self.name] for h in self.harnesses if (h, self.name) in TARGETS]
        if not found and len(self.harnesses) == 1 and self.harnesses[0] in WHEELS:
            wheel = WHEELS[self.harnesses[0]]
            return Target(f"{wheel}/{self.name}", self.name, is_wheel=True)
        if not found and LM_EVAL in self.harnesses:
            return lm_eval_targets().get(self.name)
        return found[0] if found else None

    @property
    def reason(self) -> str:
        """Why there is no benchmark for it."""
        if self.name in REASONS:
            return REASONS[self.name]
        if len(self.harnesses) == 1 and self.harnesses[0] in HARNESS_REASONS:
            return HARNESS_REASONS[self.harnesses[0]]
        wheels = [each for each in self.harnesses if each in WHEELS]
        if wheels:
            return (
                f"{' and '.join(self.harnesses)} have a task of this name: write {wheels[0]}.{self.name} "
                "for the one that evalkit has"
            )
        return f"evalkit has no counterpart to this task of {' or '.join(self.harnesses)}"


def understand(text: str) -> TaskName:
    """A name as written, `NAME` or `HARNESS.NAME`. Harnesses are empty for a name that nobody has."""
    harness, dot, rest = text.partition(".")
    index = task_index()
    spelled = {each.replace("-", "_").lower(): each for each in index}
    if dot and (known := spelled.get(harness.replace("-", "_").lower())):
        return TaskName(rest, (known,) if rest in index[known] else ())
    return TaskName(text, tuple(each for each, names in index.items() if text in names))


def similar(name: str) -> str:
    """`Did you mean 'ns_gpqa'? ` or nothing."""
    return nearest(name, sorted({each for names in task_index().values() for each in names}))


@cache
def lm_eval_targets() -> Mapping[str, Target]:
    """Tasks of lm-evaluation-harness; the file says how like they are to the container's."""
    text = resources.files("evalkit.recipe.nemo").joinpath("lm_eval_tasks.yaml").read_text("utf-8")
    return {name: _lm_eval(name, row) for name, row in parse_yaml(text, "").data.items()}


def _lm_eval(name: str, row: Mapping[str, Any]) -> Target:
    metric = {"metric": row["metric"]} if "metric" in row else {}
    params = {**metric, **row.get("params", {})}
    return Target(f"nvidia-lm-eval/{name}", name, params=params, is_lm_eval=True)


@cache
def task_index() -> Mapping[str, Sequence[str]]:
    """Names of all tasks of the launcher, by harness."""
    text = resources.files("evalkit.recipe.nemo").joinpath("names.yaml").read_text("utf-8")
    return {
        harness: names.split() for harness, names in parse_yaml(text, "names.yaml").data.items()
    }
