"""A launcher file as a recipe: what carries over, what is refused, and what is said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from evalkit.errors import RecipeError
from tests.unit.recipe.nemo.launcher import hosted, load, served, task

if TYPE_CHECKING:
    from pathlib import Path

TOOL = "++tool_modules=[nemo_skills.mcp.servers.python_tool::PythonTool]"


def refusal(folder: Path, data: Any, *overrides: str, **options: Any) -> str:
    """What is said of a configuration that is refused."""
    with pytest.raises(RecipeError) as caught:
        load(folder, data, *overrides, **options)
    return str(caught.value)


def notes(loaded: Any) -> dict[str, str]:
    """What is said of each key."""
    return {note.key: note.sentence() for note in loaded.notes}


def judged(**judge: Any) -> dict[str, Any]:
    """HLE with a judge."""
    whole = {"url": "https://j/v1", "model_id": "o/judge", "api_key": "JUDGE_KEY", **judge}
    return task("ns_hle", {"judge_support": True, "judge": whole})


def test_defaults_that_differ_are_written_out(tmp_path: Path) -> None:
    """One repeat, the harness's own prompt, and v6 where nothing else is said."""
    tasks = load(tmp_path, hosted("ns_aime2025", "ns_livecodebench", "ns_gpqa")).recipe.tasks
    assert [each.repeats for each in tasks.values()] == [1, 1, 1]
    assert tasks["ns_aime2025"].params == {"prompt": "generic/math"}
    assert tasks["ns_livecodebench"].params == {
        "release": "v6",
        "from_date": "2024-08-01",
        "to_date": "2025-05-31",
    }
    assert tasks["ns_gpqa"].params == {}


def test_precedence_of_parameters(tmp_path: Path) -> None:
    """All tasks', the task's own, its arguments, the command line."""
    params = {"temperature": 0.1, "top_p": 0.2, "max_new_tokens": 10, "limit_samples": 50}
    data = hosted(
        task("ns_gpqa", {"args": "++inference.temperature=0.5 ++max_samples=7"}, top_p=0.3),
        "ns_mmlu_pro",
    )
    data["evaluation"]["nemo_evaluator_config"] = {"config": {"params": params}}
    recipe = load(tmp_path, data, "ns_mmlu_pro.limit=3").recipe
    assert recipe.generation.model_dump(exclude_unset=True) == {
        "temperature": 0.1,
        "top_p": 0.2,
        "max_tokens": 10,
    }
    assert recipe.tasks["ns_gpqa"].generation == {"top_p": 0.3, "temperature": 0.5}
    assert recipe.tasks["ns_mmlu_pro"].generation == {}
    assert [each.limit for each in recipe.tasks.values()] == [7, 3]


def test_a_task_that_is_there_twice(tmp_path: Path) -> None:
    """Each instance has its position in the name, and `-t` finds it by that."""
    data = hosted("ns_gpqa", "nemo_skills.ns_mmlu_pro", task("ns_gpqa", {"num_repeats": 4}))
    assert list(load(tmp_path, data).recipe.tasks) == ["ns_gpqa.0", "ns_mmlu_pro", "ns_gpqa.2"]
    one = load(tmp_path, data, tasks=["ns_gpqa.2"]).recipe.tasks
    assert {name: each.repeats for name, each in one.items()} == {"ns_gpqa.2": 4}


def test_python_tool_is_another_benchmark(tmp_path: Path) -> None:
    """With the tool's own benchmark; where there is none, the task is not available."""
    loaded = load(
        tmp_path,
        hosted(task("ns_gpqa", {"args": TOOL}), task("ns_hle", {"args": TOOL})),
        skip_unsupported=True,
    )
    assert loaded.recipe.tasks["ns_gpqa"].benchmark == "gpqa_diamond_tools"
    assert loaded.recipe.unavailable == {"ns_hle": "evalkit has hle without a Python tool alone"}


def test_unavailable_tasks_stop_unless_they_are_known(tmp_path: Path) -> None:
    """All are listed with reasons; a name that nobody has is another error."""
    data = hosted("ns_gpqa", "ns_mmlu_prox", "lm-evaluation-harness.truthfulqa")
    said = refusal(tmp_path, data)
    assert said.startswith("2 tasks are not available in evalkit\n  ns_mmlu_prox: evalkit has no ")
    assert "\n  truthfulqa: evalkit reads no such task of lm-evaluation-harness" in said
    assert "--skip-unsupported" in said
    assert "-t ns_gpqa" in said
    assert list(load(tmp_path, data, tasks=["ns_gpqa"]).recipe.tasks) == ["ns_gpqa"]
    said = refusal(tmp_path, hosted("ns_gqpa"), skip_unsupported=True)
    assert "neither evalkit nor the launcher has a task 'ns_gqpa'. Did you mean 'ns_gpqa'?" in said
    assert "None of the selected tasks can be run" in refusal(tmp_path, hosted("truthfulqa"))


def test_required_values_of_other_tasks_do_not_count(tmp_path: Path) -> None:
    """`???` stops the command with its path, for selected tasks alone."""
    data = hosted("ns_gpqa", judged(url="???"))
    said = refusal(tmp_path, data)
    path = "evaluation.tasks.1.nemo_evaluator_config.config.params.extra.judge.url"
    assert said.count(path) == 2
    lines = (tmp_path / "launcher.yaml").read_text().splitlines()
    number = 1 + next(i for i, line in enumerate(lines) if "???" in line)
    assert f"launcher.yaml:{number} {path}: a value is required." in said
    assert list(load(tmp_path, data, tasks=["ns_gpqa"]).recipe.tasks) == ["ns_gpqa"]


@pytest.mark.parametrize(
    ("section", "key", "words"),
    [
        ("execution", "mounts.evalution", "Did you mean 'evaluation'? Valid keys: deployment, "),
        ("evaluation", "taks", "Did you mean 'tasks'?"),
        ("evaluation", "tasks.0.config", "Valid keys: name, container, endpoint_type"),
        (
            "evaluation",
            "nemo_evaluator_config.config.params.temprature",
            "Did you mean 'temperature'?",
        ),
        (
            "evaluation",
            f"{'nemo_evaluator_config.target.api_endpoint.adapter_config'}.use_cache",
            "",
        ),
    ],
)
def test_unknown_keys_are_errors_where_the_launcher_is_strict(
    tmp_path: Path, section: str, key: str, words: str
) -> None:
    """With the place, the section, the nearest and the valid keys."""
    said = refusal(tmp_path, hosted("ns_gpqa"), f"++{section}.{key}=1")
    assert said.startswith(f"-o ++{section}.{key} {section}")
    assert f"unknown key '{key.rpartition('.')[2]}'. {words}" in said


def test_unknown_keys_elsewhere_are_notes(tmp_path: Path) -> None:
    """They may be there to be referred to; a slip is told before anything else."""
    data = hosted(
        task("ns_gpqa"), {**task("truthfulqa"), "nemo_evaluator_config": {"env_vars": {"A": "x"}}}
    )
    data["evaluation"]["nemo_evaluator_config"] = {"config": {"extra": {"n": 1}}}
    loaded = load(tmp_path, data, skip_unsupported=True)
    [note] = [n for n in loaded.notes or () if n.important and not n.has_effect]
    assert note.key == "evaluation.nemo_evaluator_config.config.extra"
    loaded = load(tmp_path, hosted(mine={"dir": "there"}), "++execution.walltme=3")
    [slip] = [note for note in loaded.notes or () if note.key == "execution.walltme"]
    assert slip.important
    assert "Did you mean 'walltime'?" in slip.text
    assert (
        load(tmp_path, hosted(mine={"d": "x"}), "execution.output_dir=${mine.d}").recipe.output.name
        == "x"
    )


def test_wrong_types_are_errors(tmp_path: Path) -> None:
    """With what was expected and what was found."""
    data = hosted(task("ns_gpqa", {"num_repeats": "many"}, temperature="hot", limit_samples=0))
    said = refusal(tmp_path, data)
    assert "params.temperature: expected a number, found 'hot'" in said
    data = hosted(task("ns_gpqa", {"num_repeats": "many"}, limit_samples=0.5))
    said = refusal(tmp_path, data)
    assert "extra.num_repeats: expected a whole number, found 'many'" in said
    assert "limit_samples: expected a whole number of samples of at least 1" in said


def test_what_cannot_be_said_is_refused(tmp_path: Path) -> None:
    """Arguments, splits, prompts, endpoints and shell text that would make it another evaluation."""
    data = hosted(
        task("ns_gpqa", {"args": "++x=1", "dataset_split": "main"}),
        task("ns_mmlu_pro", {"prompt_config": "/in/a/container.yaml"}),
        task("ns_livecodebench", {"dataset_split": "test_v6"}),
        {"name": "ns_aime2025", "endpoint_type": "completions", "pre_cmd": "rm -r /"},
        task("ns_ifbench", {"prompt_config": "generic/math"}),
        judged(url=None),
    )
    said = refusal(tmp_path, data)
    for words in (
        "evalkit does not know the argument ++x=1",
        "evalkit has the split diamond alone",
        "/in/a/container.yaml is a file of the launcher's container",
        "expected test_vN_YYMM_YYMM",
        "evalkit asks chat endpoints alone",
        "evalkit runs no shell text of a configuration. Delete it: -o '~evaluation.tasks.3.pre_cmd'",
        "ifbench has a prompt of its own alone",
        "answers to hle are judged by a model: give its URL",
    ):
        assert words in said, words


def test_variables(tmp_path: Path) -> None:
    """Literals go to the jobs, keys by the name they have here, and the forms that are none are named."""
    data = hosted(judged(), env_vars={"A": "lit:0"})
    data["evaluation"]["env_vars"] = {"JUDGE_KEY": "host:REAL", "B": "lit:x y"}
    recipe = load(tmp_path, data, env={"REAL": "v4lue"}).recipe
    assert recipe.cluster["env"] == {"A": "0", "B": "x y"}
    assert recipe.judges["judge"].serving.model_dump()["api_key_env"] == "REAL"
    assert "v4lue" not in str(recipe)
    data["evaluation"]["tasks"][0]["env_vars"] = {"JUDGE_KEY": "runtime:OTHER", "C": "lit:1"}
    loaded = load(tmp_path, data, env={"REAL": "secret"})
    assert loaded.recipe.judges["judge"].serving.model_dump()["api_key_env"] == "OTHER"
    assert "no effect: tasks have no process" in notes(loaded)["evaluation.tasks.0.env_vars.C"]
    for value, words in (
        ("host:GONE", "the environment variable GONE is not set"),
        ("${oc.env:REAL}", "would write the value into the recipe"),
        (
            "some text",
            "begins with host: (a variable here), lit: (text) or runtime: (a variable in the job)",
        ),
        ("host:some text", "expected host: and the name of an environment variable"),
        ("lit:key", "a key is given by the name of its variable"),
    ):
        data["evaluation"]["tasks"][0]["env_vars"] = {"JUDGE_KEY": value}
        assert words in refusal(tmp_path, data, env={"REAL": "x"})


def test_judges(tmp_path: Path) -> None:
    """Sampling and width of a judge; two of one name are told apart; no judge for compared answers."""
    data = hosted(
        judged(temperature=0.0, max_new_tokens=99, parallelism=3),
        task("ns_hle_aa", {"judge": {"api_key": "KEY"}}),
        task(
            "ns_hle", {"judge_support": True, "judge": {"url": "https://k/v1", "model_id": "judge"}}
        ),
        task("ns_aime2025", {"judge": {"url": "https://j/v1", "model_id": "x"}}),
    )
    loaded = load(tmp_path, data)
    judges, tasks = loaded.recipe.judges, loaded.recipe.tasks
    assert list(judges) == ["judge", "gpt-4.1", "judge-2"]
    assert judges["judge"].generation == {"temperature": 0.0, "max_tokens": 99}
    assert judges["judge"].parallelism == 3
    assert judges["gpt-4.1"].id == "us/azure/openai/gpt-4.1"
    assert [tasks[name].judge for name in ("ns_hle.0", "ns_hle_aa", "ns_hle.2")] == [*judges]
    assert tasks["ns_hle_aa"].params == {"judge_prompt": "judge/hle-official"}
    assert "no judge is asked about aime2025" in " ".join(notes(loaded).values())


def test_an_auxiliary_deployment_is_a_judge_that_is_served(tmp_path: Path) -> None:
    """With its own vLLM; its nodes have no meaning."""
    data = hosted(
        judged(
            url="auxiliary_deployments.big.chat_url", model_id="auxiliary_deployments.big.model_id"
        ),
        auxiliary_deployments={
            "big": {
                "hf_model_handle": "o/big",
                "checkpoint_path": None,
                "served_model_name": "b",
                "num_nodes": 2,
            }
        },
    )
    data["defaults"].insert(2, "deployment/vllm@auxiliary_deployments.big")
    loaded = load(tmp_path, data)
    judge = loaded.recipe.judges["big"]
    serving = judge.serving.model_dump()
    assert (judge.hub, serving["kind"], serving["tensor_parallel_size"]) == ("o/big", "vllm", 8)
    assert serving["served_model_name"] == "b"
    assert "no effect" in notes(loaded)["auxiliary_deployments.big.num_nodes"]


def test_commands(tmp_path: Path) -> None:
    """SGLang, and any command of one's own, with evalkit's port and model; shell text in a shell."""
    sglang = served(
        {"type": "sglang", "tensor_parallel_size": 2, "extra_args": "--context-length 9"}
    )
    serving = load(tmp_path, sglang).recipe.serving.model_dump()
    assert serving["kind"] == "command"
    text = " ".join(serving["command"])
    assert text.startswith(
        "python3 -m sglang.launch_server --model-path {model} --served-model-name "
    )
    assert text.endswith(
        "--host 0.0.0.0 --port {port} --tp-size 2 --pp-size 1 --dp-size 1 --context-length 9"
    )
    assert serving["gpus"] == 2
    own = {
        "type": "generic",
        "image": "i",
        "command": "serve /checkpoint --port ${deployment.port} && x",
    }
    serving = load(tmp_path, served(own, gres="gpu:4")).recipe.serving.model_dump()
    assert serving["command"] == ("bash", "-c", "serve {model} --port {port} && x")
    assert serving["gpus"] == 4
    assert "names no port" in refusal(tmp_path, served({**own, "command": "serve /checkpoint"}))
    vllm = served({"command": "vllm serve /checkpoint --port ${deployment.port}"})
    assert load(tmp_path, vllm).recipe.serving.kind == "command"


def test_deployments_that_are_refused(tmp_path: Path) -> None:
    """Two models, none, variables under another name, shell text, and an address beside a server."""
    both = served({"hf_model_handle": "o/m"})
    assert "give one of checkpoint_path and hf_model_handle, not both" in refusal(tmp_path, both)
    del both["deployment"]["checkpoint_path"]
    assert load(tmp_path, both).recipe.models["m"].hub == "o/m"
    neither = served({"checkpoint_path": None})
    assert "checkpoint_path: give one of" in refusal(tmp_path, neither)
    renamed = served({"env_vars": {"TOKEN": "host:MY_TOKEN"}, "pre_cmd": "x"})
    said = refusal(tmp_path, renamed, env={"MY_TOKEN": "t"})
    assert "set TOKEN, and write host:TOKEN" in said
    assert "Put the lines into cluster.setup" in said
    said = refusal(tmp_path, {**served({}), "target": {"api_endpoint": {"url": "https://x/v1"}}})
    assert "target.api_endpoint.url: not with a deployment" in said


def test_limits_and_places_of_jobs(tmp_path: Path) -> None:
    """Times in every form, minutes rounded up; an output folder that nodes see."""
    data = served(
        {}, walltime="1-02:00:30", max_walltime=None, cpu_partition="cpu", gres="gpu:h100:8"
    )
    data["execution"]["sbatch_extra_flags"] = {"exclusive": False, "reservation": "r"}
    cluster = load(tmp_path, data).recipe.cluster
    assert cluster["time_min"] == 26 * 60 + 1
    assert "max_hours" not in cluster
    assert cluster["gather"] == {"partition": "cpu"}
    assert cluster["gpu_type"] == "h100"
    assert cluster["sbatch"] == {"reservation": "r"}
    assert load(tmp_path, data, "execution.walltime=10:00:00").recipe.cluster["time_min"] == 600
    assert load(tmp_path, data, "execution.walltime=90").recipe.cluster["time_min"] == 90
    assert "expected minutes, MM:SS" in refusal(tmp_path, data, "execution.walltime=soon")
    assert "must be an absolute path" in refusal(tmp_path, data, "execution.output_dir=here")
    assert "3 nodes cannot be shared by 2 instances" in refusal(
        tmp_path, served({}, num_nodes=3, num_instances=2)
    )
    assert "not on 'lepton'" in refusal(tmp_path, data, "execution.type=lepton")


def test_endpoints(tmp_path: Path) -> None:
    """Up to the version; completions and what is no URL are refused."""
    url = "target.api_endpoint.url"
    for text in ("https://x/v1/chat/completions", "https://x/v1/", "https://x/v1"):
        serving = load(tmp_path, hosted(), f"{url}={text}").recipe.serving.model_dump()
        assert serving["base_url"] == "https://x/v1"
        assert serving["api_key_env"] == "KEY"
    assert "takes completions" in refusal(tmp_path, hosted(), f"{url}=https://x/v1/completions")
    assert "expected a URL" in refusal(tmp_path, hosted(), f"{url}='...'")
    assert "a value is required" in refusal(tmp_path, hosted(), f"{url}=???")
    assert "name of an environment variable" in refusal(
        tmp_path, hosted(), "target.api_endpoint.api_key_name=<KEY>"
    )


def test_adapter_of_a_task(tmp_path: Path) -> None:
    """What is added to requests reaches the task alone; an unknown interceptor is an error."""
    adapter = {
        "params_to_add": {"chat_template_kwargs": {"low_effort": True}},
        "use_caching": False,
    }
    one = task("ns_gpqa")
    one["nemo_evaluator_config"]["target"] = {"api_endpoint": {"adapter_config": adapter}}
    loaded = load(tmp_path, hosted(one, "ns_mmlu_pro"))
    found = loaded.recipe.tasks["ns_gpqa"].model_dump(exclude_unset=True)
    assert "low_effort" in str(found)
    assert "low_effort" not in str(loaded.recipe.tasks["ns_mmlu_pro"])
    key = "evaluation.tasks.0.nemo_evaluator_config.target.api_endpoint.adapter_config.use_caching"
    assert "no effect: every finished call is journaled" in notes(loaded)[key]
    adapter["interceptors"] = [{"name": "nvcf"}]
    assert "evalkit has no interceptor 'nvcf'" in refusal(tmp_path, hosted(one))


def test_every_key_is_read_or_named(tmp_path: Path) -> None:
    """Of a file with a key in every section, what has no effect is a note at its line."""
    data = hosted("ns_gpqa", export={"wandb": {"project": "p"}})
    data["execution"] |= {"mode": "parallel", "auto_export": {"destinations": ["wandb"]}}
    data["evaluation"]["nemo_evaluator_config"] = {
        "config": {"params": {"request_timeout": 9, "extra": {"tokenizer": "t", "odd": 1}}}
    }
    found = notes(load(tmp_path, data))
    assert [key for key, text in found.items() if "no effect" in text] == [
        "execution.mode",
        "execution.auto_export.destinations.0",
        "evaluation.nemo_evaluator_config.config.params.request_timeout",
        "evaluation.nemo_evaluator_config.config.params.extra.tokenizer",
        "evaluation.nemo_evaluator_config.config.params.extra.odd",
        "export.wandb.project",
    ]
    lines = (tmp_path / "launcher.yaml").read_text().splitlines()
    place = found["export.wandb.project"].split()[0]
    assert lines[int(place.rpartition(":")[2]) - 1].strip() == "project: p"


def test_slips_of_published_files(tmp_path: Path) -> None:
    """Refused with their lines, and taken for what they were meant to be where that is asked for."""
    params = {"params": {"extra": {"num_repeats": 3}}}
    adapter = {"api_endpoint": {"adapter_config": {"use_reasoning": True}}}
    data = hosted(
        {"name": "ns_gpqa", "config": {"config": params}},
        {"name": "ns_mmlu_pro", "config": params, "target": adapter},
    )
    said = refusal(tmp_path, data)
    lines = (tmp_path / "launcher.yaml").read_text().splitlines()
    number = 1 + next(i for i, line in enumerate(lines) if line.strip() == "config:")
    assert (
        f"launcher.yaml:{number} evaluation.tasks.0: unknown key 'config'. Valid keys: name, "
        in said
    )
    assert "evaluation.tasks.1: unknown key 'target'" in said
    tasks = load(tmp_path, data, lenient=True).recipe.tasks
    assert [each.repeats for each in tasks.values()] == [3, 3]
    assert "think" in str(tasks["ns_mmlu_pro"].model_dump(exclude_unset=True))


def test_options_are_for_launcher_files(tmp_path: Path) -> None:
    """A recipe takes neither flag, and says what it has instead."""
    recipe = {"model": "o/m", "tasks": ["addition"]}
    said = refusal(tmp_path, recipe, skip_unsupported=True)
    assert said.startswith("--skip-unsupported: ")
    assert "unavailable: {NAME: REASON}" in said
    assert "--lenient: " in refusal(tmp_path, recipe, lenient=True)
    assert "nothing" not in str(load(tmp_path, recipe).notes)


def test_a_recipe_of_unavailable_tasks_alone(tmp_path: Path) -> None:
    """It loads; one without any task does not."""
    recipe = {"model": "o/m", "tasks": {}, "unavailable": {"x": "why"}}
    assert load(tmp_path, recipe).recipe.unavailable == {"x": "why"}
    said = refusal(tmp_path, {"model": "o/m", "tasks": {}})
    assert "tasks: expected a mapping with at least 1 entry, found a mapping" in said
