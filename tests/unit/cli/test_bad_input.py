"""Bad input through the command line: one clear message, a code that is not 0, and nothing touched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from evalkit.benchmarks.registry import benchmark_names
from tests.unit.cli.conftest import RECIPE

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Shell

VLLM = {"kind": "vllm"}
EXTERNAL = RECIPE["serving"]

CASES: dict[str, tuple[dict[str, Any], int, str]] = {
    "unknown key": (
        {"taks": {}},
        2,
        "error: recipe.yaml:16: unknown key 'taks'. Did you mean 'tasks'? Valid keys: name, "
        "description, profile, models, serving, generation, request, reasoning, client, scoring, cluster, judges, "
        "unavailable, tasks, sweep, output, model, extends\n",
    ),
    "misspelt key": (
        {"tasks": {"addition": {"repeat": 3}}},
        2,
        "error: recipe.yaml:10 tasks.addition: unknown key 'repeat'. Did you mean 'repeats'? Valid "
        "keys: benchmark, profile, repeats, limit, params, data, generation, request, reasoning, serving, judge\n",
    ),
    "wrong type": (
        {"tasks": {"addition": {"repeats": "many"}}},
        2,
        "error: recipe.yaml:10 tasks.addition.repeats: expected a whole number of at least 1, or "
        "null, found 'many'\n",
    ),
    "unknown task": (
        {"tasks": {"additon": {}}},
        2,
        "error: tasks.additon: unknown benchmark 'additon'. Did you mean "
        f"'addition'?\nInstalled benchmarks: {', '.join(benchmark_names())}. "
        "Tasks of harnesses are written HARNESS/TASK.\n",
    ),
    "unknown parameter": (
        {"tasks": {"addition": {"params": {"digit": 3}}}},
        2,
        "error: tasks.addition: params.digit: unknown key, did you mean "
        "'digits'?\nParameters of addition: form, n, digits, seed.\n",
    ),
    "unknown template": (
        {"cluster": {"template": "slum"}},
        2,
        "error: there is no template 'slum'\nShipped templates: apptainer, default, local, modules, "
        "multi-node, preemptible, pyxis.\n",
    ),
    "unknown profile": (
        {"profile": "paper"},
        2,
        "error: recipe.yaml:16 profile: expected one of card, fixed, found 'paper'\n",
    ),
    "missing checkpoint": (
        {"models": {"m": {"path": "./nowhere"}}, "serving": VLLM},
        2,
        "loading addition\nerror: models.m.path: no folder nowhere\nA path is relative to the "
        "recipe file; for a hub repository write `hub: owner/name`.\n",
    ),
    "missing variable": (
        {"serving": {**EXTERNAL, "base_url": "${env:NO_SUCH_URL}"}},
        2,
        "error: recipe.yaml:7 serving.base_url: the environment variable NO_SUCH_URL is not set. "
        "Set it, or give a default: ${env:NO_SUCH_URL:-...}\n",
    ),
    "broken line of data": (
        {"tasks": {"aime2025": {"data": {"path": "broken.jsonl", "allow_altered": True}}}},
        3,
        "loading aime2025\nerror: tasks.aime2025: broken.jsonl:2: not a JSON object: unexpected end "
        "of data: line 1 column 13 (char 12)\n",
    ),
    "missing data": (
        {"tasks": {"aime2025": {"data": {"path": "gone.jsonl"}}}},
        3,
        "loading aime2025\nerror: tasks.aime2025.data.path: there is no file gone.jsonl\nA relative "
        "path starts at the recipe's folder.\n",
    ),
    "folder below a file": (
        {"output": {"dir": "file/runs"}},
        5,
        "loading addition\nerror: cannot create the run folder {here}/file/runs/test: Not a "
        "directory\nSet output.dir to a folder that can be written.\n",
    ),
    "folder in /proc": (
        {"output": {"dir": "/proc/nowhere"}},
        5,
        "loading addition\nerror: cannot create the run folder /proc/nowhere/test: No such file or "
        "directory\nSet output.dir to a folder that can be written.\n",
    ),
    "somebody else's folder": (
        {"output": {"dir": ".", "name": "thesis"}},
        5,
        "loading addition\nerror: {here}/thesis holds files that are no run: chapter.tex\nChoose "
        "another output.dir or output.name; nothing was changed.\n",
    ),
    "no room for the prompt": (
        {"serving": {**EXTERNAL, "max_model_len": 100}, "generation": {"max_tokens": 200}},
        4,
        "loading addition\nerror: tasks.addition: generation.max_tokens is 200, and "
        "serving.max_model_len is 100: there is no room for the prompt\nRaise "
        "serving.max_model_len above prompt plus max_tokens, or lower max_tokens.\n",
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("command", ["prepare", "run", "submit"])
def test_bad_recipe(shell: Shell, case: str, command: str) -> None:
    """The message names the place, what is allowed and what to do; no file is made or changed."""
    changes, code, message = CASES[case]
    shell.write(**changes)
    (shell.folder / "broken.jsonl").write_text('{"problem":"1","answer":"2"}\n{"problem": \n')
    (shell.folder / "file").touch()
    (shell.folder / "thesis").mkdir()
    (shell.folder / "thesis" / "chapter.tex").write_text("all of it")
    before = shell.files()
    said = shell(command, "recipe.yaml")
    assert said.code == code
    assert said.err == message.replace("{here}", str(shell.folder))
    assert said.out == ""
    assert shell.files() == before


def test_missing_key_of_an_endpoint(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key's variable that is not set is named before anything is started."""
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    shell.write(serving={**EXTERNAL, "api_key_env": "NO_SUCH_KEY"})
    said = shell("run", "recipe.yaml")
    assert said.code == 2
    assert said.err.endswith(
        "error: variable NO_SUCH_KEY not set: the recipe names them in serving.secrets, "
        "api_key_env or pass_env\nExport them, or give a file of them with --env-file, and submit again.\n"
    )
    assert not (shell.folder / "runs" / "test" / "journal").exists()


def test_existing_run_with_other_settings(shell: Shell) -> None:
    """Another fingerprint is refused with the keys that differ, and the run stays as it is."""
    assert shell("prepare", "recipe.yaml").code == 0
    before = shell.files()
    said = shell(
        "prepare", "recipe.yaml", "-o", "generation.temperature=0.5", "-o", "profile=fixed"
    )
    assert said.code == 4
    assert said.err == (
        f"loading addition\nerror: {shell.folder}/runs/test was made with other settings:\n"
        "  tasks.addition.generation.temperature: (not set) there, 0.5 now\n"
        '  tasks.addition.profile: "card" there, "fixed" now\n'
        "Nothing was changed. Go back to those settings, `evalkit resume` the run as it is, or "
        "start another one with -o output.name=NAME.\n"
    )
    assert shell.files() == before
    assert shell("prepare", "recipe.yaml", "-o", "client.parallelism=3").code == 0


def test_other_tasks_of_a_recipe_have_a_next_step(shell: Shell) -> None:
    """A run of some tasks is no run of others: what to type makes one beside it, and it works."""
    both = {name: {"benchmark": "addition", "params": {"n": 2}} for name in ("a", "b")}
    shell.write(tasks=both)
    assert shell("prepare", "recipe.yaml", "-t", "a").code == 0
    root = shell.folder / "runs" / "test"
    said = shell("prepare", "recipe.yaml", "-t", "b")
    assert said.code == 4
    assert said.err.splitlines()[-3:] == [
        "  tasks.a: there, not in this recipe",
        "  tasks.b: not there, in this recipe",
        "Nothing was changed. A run's tasks are settled when it is made, by -t too; this one has a. "
        f"`evalkit resume {root}` finishes it. The same command with -t b -o output.name=test-b makes "
        f"a run of its own, and `evalkit report {root} {root}-b` shows both side by side.",
    ]
    assert shell("prepare", "recipe.yaml", "-t", "b", "-o", "output.name=test-b").code == 0
    whole = shell("prepare", "recipe.yaml").err
    assert "with -t b -o output.name=test-b makes" in whole


def test_many_differences_fit_on_a_screen(shell: Shell) -> None:
    """A run of another recipe altogether shows the first keys and counts the rest."""
    shell.write(tasks={name: {"benchmark": "addition", "params": {"n": 2}} for name in "abcdefgh"})
    assert shell("prepare", "recipe.yaml").code == 0
    said = shell(
        "prepare", "recipe.yaml", "-o", "profile=fixed", "-o", "generation.seed=1", "--limit", "1"
    )
    assert said.code == 4
    lines = said.err.splitlines()
    assert len(lines) < 24
    assert "more" in lines[-2]


def test_no_slurm_here(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without sbatch the ways out are named, and the run that was prepared stays for them."""
    monkeypatch.setenv("PATH", str(shell.folder / "empty"))
    shell.write(cluster={"executor": "slurm"})
    said = shell("submit", "recipe.yaml")
    assert said.code == 9
    assert said.err == (
        "loading addition\nerror: no Slurm on this machine: sbatch is not on PATH\n"
        "Use `evalkit run` to evaluate here and now, set cluster.executor: local for background "
        "processes, or submit from a login node of the cluster.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prepare", "none.yaml"), "error: there is no recipe 'none.yaml'\n"),
        (
            ("prepare", "recipe.yaml", "--limit", "x"),
            "argument --limit: x is not a positive number",
        ),
        (
            ("prepare", "recipe.yaml", "--limit", "0"),
            "argument --limit: 0 is not a positive number",
        ),
        (("prepare", "recipe.yaml", "-o", "tasks.addition.repeat=3"), "Did you mean 'repeats'?"),
        (("prepare", "recipe.yaml", "-t", "additon"), "additon"),
        (("prepare", "recipe.yaml", "--env-file", "none"), "cannot read --env-file none"),
        (("status", "nope"), "error: no run 'nope'\n"),
        (("gather", "nope"), "error: no run 'nope'\n"),
        (("logs", "nope"), "error: no run 'nope'\n"),
        (("cancel", "nope"), "error: no run 'nope'\n"),
        (("resume", "nope"), "error: no run 'nope'\n"),
        (("status", "recipe.yaml"), "error: recipe.yaml has no run yet: there is no "),
        (("ls", "task"), "ls task needs a name"),
        (("ls", "task", "additon"), "unknown benchmark 'additon'. Did you mean 'addition'?"),
        (("frobnicate",), "invalid choice: 'frobnicate'"),
    ],
)
def test_bad_command_line(shell: Shell, arguments: tuple[str, ...], message: str) -> None:
    """A command line that cannot mean anything ends with code 2 and says why."""
    said = shell(*arguments)
    assert said.code == 2
    assert message in said.err


def test_run_that_is_not_there_lists_those_that_are(shell: Shell) -> None:
    """The names of the runs in the output folder are shown."""
    shell("prepare", "recipe.yaml")
    said = shell("status", "nope")
    assert said.err == (
        "error: no run 'nope'\nGive a run folder, a run's name or id, or a recipe. Runs in runs: "
        "test.\n"
    )


def test_info_of_nothing_names_recipes_too(shell: Shell) -> None:
    """Shipped ones and files of a like name; where there is none, the command that lists them."""
    said = shell("info", "recipes")
    assert said.code == 2
    assert said.err.endswith("Runs in runs: none. Recipes of a like name: recipe.yaml.\n")
    assert "Recipes of a like name: nano-tools" in shell("info", "nano-tool").err
    assert "`evalkit ls recipes` lists" in shell("info", "qqqqqqq").err


def test_env_file(shell: Shell) -> None:
    """A line that is no NAME=VALUE is named by its number, and its text, perhaps a key, is not shown."""
    (shell.folder / "keys.env").write_text("# keys\nexport GOOD='x'\n\nsecret-without-name\n")
    said = shell("prepare", "recipe.yaml", "--env-file", "keys.env")
    assert said.code == 2
    assert said.err == "error: keys.env:4: expected NAME=VALUE\n"


def test_damaged_plan(shell: Shell) -> None:
    """A plan that somebody edited is refused by every command, and never overwritten."""
    shell("prepare", "recipe.yaml")
    plan = shell.folder / "runs" / "test" / "plan.json"
    plan.write_text("{}")
    for command in (("prepare", "recipe.yaml"), ("status", "test"), ("gather", "test")):
        said = shell(*command)
        assert said.code == 5
        assert f"{plan} " in said.err
        assert plan.read_text() == "{}"


def test_frozen_requests_that_were_changed(shell: Shell) -> None:
    """Requests that are not those of the plan are refused before a score is computed with them."""
    shell("prepare", "recipe.yaml")
    path = shell.folder / "runs" / "test" / "tasks" / "addition" / "requests.jsonl.zst"
    shell.write(tasks={"addition": {"params": {"n": 3}}}, output={"dir": "other"})
    shell("prepare", "recipe.yaml")
    path.write_bytes((shell.folder / "other/test/tasks/addition/requests.jsonl.zst").read_bytes())
    said = shell("gather", "test")
    assert said.code == 5
    assert said.err == (
        f"error: {path} is not the file that was planned: its checksum differs\n"
        "Restore the file, or start a new run.\n"
    )
