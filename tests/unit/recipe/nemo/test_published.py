"""Every published file of the launcher loads, means what it should, and is the recipe that it converts to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from evalkit.errors import RecipeError
from evalkit.recipe.load import load_recipe
from evalkit.recipe.nemo.render import render_recipe
from evalkit.recipe.nemo.tasks import Target, task_index, understand
from evalkit.recipe.resolve import resolve_generation
from tests.unit.recipe.nemo.launcher import ENV, NEMO, hosted, load_file, task

if TYPE_CHECKING:
    from pathlib import Path

FILES = sorted(
    path
    for folder in ("nemotron", "examples", "history")
    for path in (NEMO / folder).glob("*.yaml")
)
INSTRUCT = NEMO / "nemotron" / "local_nvidia_nemotron_3_nano_30b_a3b.yaml"
TOOLS = NEMO / "nemotron" / "local_nvidia_nemotron_3_nano_30b_a3_tools.yaml"
BASE = NEMO / "nemotron" / "local_nvidia-nemotron-3-nano-30b-a3b-base.yaml"
NVFP4 = NEMO / "nemotron" / "slurm_nvidia_nemotron_3_nano_30b_a3b_nvfp4.yaml"
NIM = NEMO / "examples" / "slurm_nim.yaml"

COUNTS = {
    INSTRUCT.name: (8, 7),
    TOOLS.name: (2, 0),
    BASE.name: (16, 0),
    NVFP4.name: (7, 6),
    "local_nvidia_nemotron_3_nano_30b_a3b@5d9815f1.yaml": (8, 6),
    "local_nvidia_nemotron_3_nano_30b_a3b@fc304a07.yaml": (8, 1),
    "local_advanced_adapters.yaml": (1, 0),
    "local_auto_export.yaml": (1, 0),
    "local_basic.yaml": (1, 2),
    "local_reasoning.yaml": (1, 1),
    "local_vllm_logprobs.yaml": (1, 0),
    "slurm_nemotron_benchmarks.yaml": (4, 3),
    "slurm_sglang_auto_export.yaml": (1, 0),
    "slurm_vllm_advanced_hf_caching.yaml": (0, 2),
    "slurm_vllm_auxiliary_judge.yaml": (0, 2),
    "slurm_vllm_basic.yaml": (0, 2),
    "slurm_vllm_checkpoint_path.yaml": (0, 2),
    "slurm_vllm_multinode_dp.yaml": (0, 1),
    "slurm_vllm_multinode_dp_haproxy.yaml": (0, 1),
    "slurm_vllm_multinode_multiinstance_ray_tp_pp.yaml": (0, 1),
    "slurm_vllm_multinode_ray_tp_pp.yaml": (0, 1),
}
"""Tasks that evalkit has, and those that it names as not available."""


@pytest.mark.parametrize("path", [p for p in FILES if p != NIM], ids=lambda p: p.name)
def test_every_file_is_a_recipe(path: Path, tmp_path: Path) -> None:
    """It loads with its number of tasks, and what `convert` writes loads as the very same recipe."""
    loaded = load_file(path)
    recipe = loaded.recipe
    assert (len(recipe.tasks), len(recipe.unavailable)) == COUNTS[path.name]
    assert loaded.notes is not None
    converted = tmp_path / "elsewhere.yaml"
    converted.write_text(render_recipe(loaded, loaded.notes, tmp_path), "utf-8")
    again = load_recipe(converted, env={})
    assert again.recipe == recipe
    assert again.notes is None


def test_nim_says_what_to_do() -> None:
    """A deployment that only exists as a container is refused, with the way out."""
    with pytest.raises(
        RecipeError, match=r"'nim'\. NIM lives in its container: start it, and use depl"
    ):
        load_file(NIM, "execution.account=a", "execution.output_dir=/o")


CARD = {"temperature": 0.99999, "top_p": 0.99999, "max_tokens": 131072}
BFCL = {"temperature": 0.6, "top_p": 0.95, "max_tokens": 8192}
V5 = {"release": "v5", "from_date": "2024-07-01", "to_date": "2024-12-31"}
PLAIN: dict[str, tuple[str, int, dict[str, Any], dict[str, Any]]] = {
    "ns_ifbench": ("ifbench", 8, CARD, {}),
    "ns_bfcl_v4": ("bfcl_v4", 1, BFCL, {}),
    "ns_livecodebench": ("livecodebench_v6", 8, CARD, V5),
    "ns_mmlu_pro": ("mmlu_pro", 1, CARD, {"prompt": "eval/aai/mcq-10choices-boxed"}),
    "ns_gpqa": ("gpqa_diamond", 8, CARD, {"prompt": "eval/aai/mcq-4choices"}),
    "ns_scicode": ("scicode", 8, CARD, {}),
    "ns_hle": ("hle", 1, CARD, {}),
    "ns_aime2025": ("aime2025", 64, CARD, {"prompt": "gpt-oss/math"}),
}
NO_LIMIT = {**CARD, "max_tokens": None}
WITH_PYTHON: dict[str, tuple[str, int, dict[str, Any], dict[str, Any]]] = {
    "ns_aime2025": ("aime2025_tools", 64, NO_LIMIT, {"prompt": "generic/math"}),
    "ns_gpqa": ("gpqa_diamond_tools", 8, NO_LIMIT, {"prompt": "eval/aai/mcq-4choices"}),
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (INSTRUCT, PLAIN),
        (NVFP4, {name: each for name, each in PLAIN.items() if name != "ns_bfcl_v4"}),
        (TOOLS, WITH_PYTHON),
    ],
    ids=["instruct", "nvfp4", "tools"],
)
def test_effective_parameters(path: Path, expected: dict[str, Any]) -> None:
    """Benchmark, repeats, sampling and parameters of every task are the published ones, in its order."""
    recipe = load_file(path).recipe
    [model] = recipe.models
    found = {}
    for name, each in recipe.tasks.items():
        generation = resolve_generation({}, recipe, model, name)
        sampling = {key: getattr(generation, key) for key in CARD}
        found[name] = (each.benchmark, each.repeats, sampling, each.params)
    assert found == expected
    assert list(found) == list(expected)
    assert recipe.client.max_retries == 10


def test_judge_is_the_published_one() -> None:
    """HLE's judge is read with its key's variable, its width and its model."""
    recipe = load_file(INSTRUCT).recipe
    judge = recipe.judges["gpt-4o"]
    assert (judge.id, judge.parallelism, recipe.tasks["ns_hle"].judge) == (
        "openai/gpt-4o",
        16,
        "gpt-4o",
    )
    assert judge.serving.model_dump(exclude_unset=True) == {
        "kind": "external",
        "base_url": "https://judge.example/v1",
        "api_key_env": "JUDGE_API_KEY",
    }


def test_nvfp4_is_the_shipped_recipe() -> None:
    """The published Slurm file and `nano-nvfp4` ask the same things of the same server."""
    theirs = load_file(NVFP4).recipe
    ours = load_recipe("nano-nvfp4", env={}).recipe
    same = ("max_model_len", "gpu_memory_utilization", "tensor_parallel_size", "reasoning_parser")
    same += ("tool_call_parser", "enable_prefix_caching", "trust_remote_code", "kind")
    assert theirs.serving.model_dump(include=set(same)) == ours.serving.model_dump(
        include=set(same)
    )
    assert [m.hub for m in theirs.models.values()] == [m.hub for m in ours.models.values()]
    assert theirs.client == ours.client
    extra = theirs.serving.model_dump()["extra_args"]
    assert extra == {"enable-log-requests": True, "mamba_ssm_cache_dtype": "float32"}
    assert theirs.cluster == {
        "template": "default",
        "partition": "batch",
        "account": "someone",
        "time_min": 60,
        "max_hours": 120,
        "sbatch": {"exclusive": True},
        "replicas": 1,
    }
    assert (theirs.output.dir, theirs.output.name) == ("/shared", "results")


def test_several_nodes() -> None:
    """Instances are replicas, and their nodes those of one replica; no Ray."""
    recipe = load_file(
        NEMO / "examples" / "slurm_vllm_multinode_multiinstance_ray_tp_pp.yaml"
    ).recipe
    assert (recipe.cluster["replicas"], recipe.cluster["nodes"]) == (2, 2)
    assert recipe.cluster["env"] == {"HF_HOME": "/path/to/hf_home"}
    serving = recipe.serving.model_dump()
    assert (serving["tensor_parallel_size"], serving["pipeline_parallel_size"]) == (8, 2)
    assert serving["gpu_memory_utilization"] == 0.9
    assert serving["enforce_eager"]
    assert serving["secrets"] == ("HF_TOKEN",)


def test_first_version_of_a_file() -> None:
    """The form of 2025: variables without a prefix, an own width of some tasks, a prompt by another path."""
    loaded = load_file(NEMO / "history" / "local_nvidia_nemotron_3_nano_30b_a3b@fc304a07.yaml")
    assert loaded.recipe.client.parallelism == 512
    assert loaded.recipe.tasks["ns_aime2025"].params == {"prompt": "gpt-oss/math"}
    texts = [note.text for note in loaded.notes or ()]
    assert "read as host:HF_TOKEN; a value without a prefix is an old form" in texts


def test_places_of_values_are_lines_of_the_file() -> None:
    """`info` can say where a value comes from."""
    loaded = load_file(TOOLS)
    line = loaded.sources["tasks.ns_gpqa.repeats"].removeprefix(f"{TOOLS}:")
    assert "num_repeats: 8" in TOOLS.read_text("utf-8").splitlines()[int(line) - 1]


def test_index_has_every_task_of_the_launcher() -> None:
    """Each name of the published index is known, with its harness."""
    rows = (NEMO / "task_index.csv").read_text("utf-8").splitlines()[1:]
    theirs = {tuple(row.split(",")[:2]) for row in rows if not row.startswith("task,")}
    ours = {(name, harness) for harness, names in task_index().items() for name in names}
    assert ours == theirs


def test_missing_variables_are_named() -> None:
    """What is `host:` must be set; each that is not has its line."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(TOOLS, env={key: "" for key in ENV if key != "HF_HOME"})
    place = f"{TOOLS}:42 evaluation.env_vars.HF_HOME"
    assert str(caught.value).startswith(f"{place}: the environment variable HF_HOME is not set")


def test_tasks_of_simple_evals_are_the_wheels(tmp_path: Path) -> None:
    """Settings go on to the wheel; what it would set by itself is left to it."""
    recipe = load_file(NEMO / "examples" / "slurm_nemotron_benchmarks.yaml").recipe
    assert {name: task.benchmark for name, task in recipe.tasks.items()} == {
        name: f"nvidia-simple-evals/{name}"
        for name in ("gpqa_diamond_nemo", "math_test_500_nemo", "aime_2024_nemo", "aime_2025_nemo")
    }
    assert (recipe.generation.temperature, recipe.generation.max_tokens) == (0.6, 65536)
    extra = {
        "n_samples": 4,
        "judge": {"url": "https://judge.example/v1", "api_key": "JUDGE_API_KEY"},
    }
    data = hosted(
        {
            **task("simple_evals.AIME_2025", extra, temperature=0.2, limit_samples=3),
            "env_vars": {"JUDGE_API_KEY": "host:JUDGE_API_KEY", "HF_TOKEN": "host:HF_TOKEN"},
        }
    )
    path = tmp_path / "launcher.yaml"
    path.write_text(yaml.safe_dump(data))
    [(name, read)] = load_recipe(path, env={**ENV, "KEY": "x"}).recipe.tasks.items()
    assert (name, read.benchmark, read.limit) == (
        "AIME_2025",
        "nvidia-simple-evals/AIME_2025",
        3,
    )
    assert read.params == {"extra": extra, "pass_env": ["JUDGE_API_KEY"]}
    assert read.generation == {"temperature": 0.2}


def test_a_judge_beside_the_model_is_not_started() -> None:
    """Both tasks name the launcher's own judge: they are named as not available, with the way out."""
    unavailable = load_file(
        NEMO / "examples" / "slurm_vllm_auxiliary_judge.yaml"
    ).recipe.unavailable
    assert list(unavailable) == ["AIME_2025", "AIME_2024"]
    assert "give the url and model_id of an endpoint" in unavailable["AIME_2025"]


def test_a_name_of_several_harnesses_must_be_whole() -> None:
    """The launcher has two tasks `mgsm`; evalkit has one of them."""
    assert "write simple_evals.mgsm" in understand("mgsm").reason
    assert understand("simple_evals.mgsm").target == Target(
        "nvidia-simple-evals/mgsm", "mgsm", is_wheel=True
    )
