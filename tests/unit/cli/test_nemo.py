"""Files of the NeMo Evaluator launcher from the command line: run as they are, or converted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from evalkit.benchmarks.bfcl_v4 import BfclV4
from evalkit.benchmarks.contract import Dataset, Sample
from evalkit.harnesses.framework import FrameworkTask
from evalkit.harnesses.lm_eval_task import AnyLmEvalTask
from evalkit.plan.model import DataProvenance
from tests.unit.recipe.nemo.launcher import ENV, NEMO, URL, needs
from tests.unit.recipe.nemo.test_published import COUNTS
from tests.unit.vectors import SHARED, TESTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evalkit.benchmarks.contract import Benchmark
    from evalkit.benchmarks.data import DataAccess
    from tests.unit.cli.conftest import Shell

INSTRUCT = NEMO / "nemotron" / "local_nvidia_nemotron_3_nano_30b_a3b.yaml"
TOOLS = NEMO / "nemotron" / "local_nvidia_nemotron_3_nano_30b_a3_tools.yaml"
BASE = NEMO / "nemotron" / "local_nvidia-nemotron-3-nano-30b-a3b-base.yaml"
NVFP4 = NEMO / "nemotron" / "slurm_nvidia_nemotron_3_nano_30b_a3b_nvfp4.yaml"
FILES = sorted(
    p for part in ("nemotron", "examples", "history") for p in (NEMO / part).glob("*.yaml")
)
GOLDEN = Path(__file__).with_name("converted.yaml")
DATA = ["-o", f"ns_aime2025.data.path={SHARED / 'aime2025' / 'aime2025.jsonl'}"]
SAMPLES = TESTS / "data" / "samples"
ROWS = {
    "ns_aime2025": SAMPLES / "aime2025.jsonl",
    "ns_gpqa": SAMPLES / "gpqa_diamond.csv",
    "ns_hle": SAMPLES / "hle.jsonl",
    "ns_ifbench": SAMPLES / "ifbench.jsonl",
    "ns_livecodebench": SAMPLES / "livecodebench_v6.jsonl",
    "ns_mmlu_pro": SAMPLES / "mmlu_pro.jsonl",
    "ns_scicode": SAMPLES / "scicode",
}
"""A row or two of every data set that is read from a file."""
SKIP = "--skip-unsupported"
JUDGE = ["-o", f"evaluation.tasks.ns_hle.{URL}"]


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)


def plan_of(shell: Shell, *arguments: str) -> Any:
    """The only plan that a dry run shows, as JSON."""
    said = shell("prepare", *arguments, "--dry-run", "--json")
    assert said.code == 0, said.err
    [found] = orjson.loads(said.out)
    return found


def data_of(path: Path) -> list[str]:
    """Overrides that give a published file's tasks data of a few rows."""
    text = path.read_text("utf-8")
    there = {name: rows for name, rows in ROWS.items() if f"name: {name}\n" in text}
    given = [f"{name}.data.path={rows}" for name, rows in there.items()]
    given += [f"{name}.data.allow_altered=true" for name in there]
    return [*given, "ns_ifbench.params.without_tagger=true"] if "ns_ifbench" in there else given


def test_converted_recipe(shell: Shell) -> None:
    """Golden: what is printed for the published file with tools."""
    said = shell("convert", str(TOOLS))
    assert said.code == 0, said.err
    assert said.err == ""
    assert said.out == GOLDEN.read_text("utf-8")


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (INSTRUCT, []),
        (NVFP4, ["-o", "execution.account=a", "-o", "execution.output_dir=/shared/run"]),
    ],
    ids=["instruct", "nvfp4"],
)
def test_file_and_converted_recipe_have_one_plan(shell: Shell, path: Path, more: list[str]) -> None:
    """Fingerprints, run folder and all: either may begin a run that the other one resumes."""
    arguments = [str(path), "-t", "ns_aime2025", *DATA, *more]
    direct = plan_of(shell, *arguments)
    said = shell("convert", *arguments, "--output", "converted.yaml")
    assert (said.code, said.out) == (0, "")
    assert plan_of(shell, "converted.yaml") == direct


def test_asks_what_the_shipped_recipe_asks(shell: Shell) -> None:
    """Everything of a task's identity but the model and its server is that of `nano`."""
    [theirs] = plan_of(shell, str(INSTRUCT), "-t", "ns_aime2025", *DATA)["plan"]["tasks"]
    name, value = DATA[1].split("=")
    [ours] = plan_of(shell, "nano", "-t", "aime2025", "-o", f"{name.removeprefix('ns_')}={value}")[
        "plan"
    ]["tasks"]
    kept = [key for key in ours["identity"] if key not in ("model", "serving")]
    assert {key: theirs["identity"][key] for key in kept} == {
        key: ours["identity"][key] for key in kept
    }
    assert theirs["repeats"] == 64


def test_dry_run_names_what_is_not_available(shell: Shell) -> None:
    """Under the table, with reasons; and in the JSON of the plan."""
    arguments = [str(INSTRUCT), "-t", "ns_aime2025", "-t", "aa_lcr", SKIP, *DATA, "--limit", "2"]
    said = shell("submit", *arguments, "--dry-run")
    assert said.code == 0, said.err
    assert "not available: aa_lcr: evalkit has no counterpart to this task of AA-LCR" in said.out
    assert "the total of requests in flight" in said.err
    plan = plan_of(shell, *arguments)["plan"]
    assert list(plan["unavailable"]) == ["aa_lcr"]
    alone = plan_of(
        shell, *[a for a in arguments if a not in ("aa_lcr", SKIP)][:3], *DATA, "--limit", "2"
    )
    assert alone["plan"]["fingerprint"] == plan["fingerprint"]


def test_unsupported_tasks_stop_the_command(shell: Shell) -> None:
    """Nothing is written, and the way on is said."""
    before = shell.files()
    said = shell("prepare", str(INSTRUCT))
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: 7 tasks are not available in evalkit\n  ns_bfcl_v3: ")
    assert "--skip-unsupported" in said.err
    assert shell.files() == before


def test_a_file_of_another_harness(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its 16 tasks are read; a plan says what to install where the harness is missing."""
    monkeypatch.setenv("EVALKIT_HARNESSES", str(shell.folder / "none"))
    assert shell("info", str(BASE)).code == 0
    said = shell("submit", str(BASE), "--dry-run")
    assert said.code == 4
    assert "the harness nvidia-lm-eval is not installed" in said.err
    assert "evalkit harness install nvidia-lm-eval" in said.err


def test_dotenv(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """`.env` beside the command is read for launcher files, `--env-file` instead of it; what is set wins."""
    for name in ("HF_HOME", "HF_TOKEN"):
        monkeypatch.delenv(name)
    dry = ("submit", str(TOOLS), "--dry-run")
    assert "HF_HOME is not set" in shell(*dry).err
    (shell.folder / ".env").write_text("HF_HOME=/h\nHF_TOKEN=t\nNGC_API_KEY=other\n")
    (shell.folder / "other.env").write_text("HF_HOME=/h\n")
    assert "HF_TOKEN is not set" in shell(*dry, "--env-file", "other.env").err
    monkeypatch.delenv("HF_HOME")
    assert "is not set" not in shell(*dry).err


@pytest.fixture(scope="module")
def _bfcl_once() -> Iterator[None]:
    """The same data set for all files that have it: making it takes seconds."""
    made: dict[str, Dataset] = {}
    load = BfclV4.load

    def once(self: BfclV4, access: DataAccess) -> Dataset:
        key = repr(self.params)
        if key not in made:
            made[key] = load(self, access)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BfclV4, "load", once)
        yield


@pytest.fixture
def _harnesses_stood_in_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One question for each task of a harness: their environments are not installed for these tests."""

    def one(self: Benchmark[Any], access: DataAccess) -> Dataset:
        facts = DataProvenance(source=self.name, sha256="0" * 64, n_rows=1, licence="none")
        asked = {"method": "generate_until"}
        return Dataset([Sample("0", ({"role": "user", "content": "?"},), data=asked)], facts)

    for cls in (AnyLmEvalTask, FrameworkTask):
        monkeypatch.setattr(cls, "load", one)
        monkeypatch.setattr(cls, "meet", lambda *_: None)


@pytest.mark.usefixtures("_bfcl_once", "_harnesses_stood_in_for")
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_file_dry_runs_or_says_why_not(shell: Shell, path: Path) -> None:
    """Down to what would be started, with one sample of each task; each task that is not there is named. Data
    that is not at hand has a stand-in of a row."""
    arguments = [str(path), SKIP, *(word for each in needs(path) for word in ("-o", each))]
    if path.name == "slurm_nim.yaml":
        said = shell("submit", *arguments, "-o", "execution.num_nodes=1", "--dry-run")
        assert (said.code, "NIM lives in its container" in said.err) == (2, True)
        return
    ours, missing = COUNTS[path.name]
    data = [word for each in data_of(path) for word in ("-o", each)]
    said = shell("submit", *arguments, "--limit", "1", *data, "--dry-run")
    if ours == 0:
        assert said.code == 4
        assert "nothing can be run, for none of its tasks is available here" in said.err
        assert len(said.err.partition("nothing can be run")[2].splitlines()) == 1 + missing
        return
    assert said.code == 0, said.err
    assert said.out.count("not available: ") == missing
    table = said.out[said.out.index("\n task ") :].partition("\n\n")[0]
    assert len([line for line in table.splitlines() if " card " in line]) == ours
    assert "--dry-run" not in said.err


PARTS = sorted((NEMO / "launcher_configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", PARTS, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_parts_of_configurations_are_none(shell: Shell, path: Path) -> None:
    """The launcher's own groups name no task: one sentence says so, whatever the command."""
    for command in (("convert", str(path)), ("submit", str(path), "--dry-run")):
        said = shell(*command)
        assert (said.code, said.out) == (2, "")
        if path.parent.name == "launcher_configs":
            assert "evaluation: expected a mapping, found a list" in said.err
        else:
            assert "a part of launcher configurations" in said.err
            assert len(said.err.splitlines()) == 2


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.name != "slurm_nim.yaml"], ids=lambda p: p.name
)
def test_every_file_is_shown_as_it_is(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    """Without a variable, a value or an option: converting and showing run nothing, and so refuse nothing."""
    for name in ENV:
        monkeypatch.delenv(name, raising=False)
    assert shell("info", str(path)).code == 0
    assert shell("convert", str(path), "--output", "converted.yaml").code == 0
    assert shell("info", "converted.yaml").code == 0


def test_values_to_fill_in_are_named(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the selected tasks alone; a run wants them still, and what stands for them answers nothing."""
    monkeypatch.delenv("JUDGE_API_KEY")
    judge = f"evaluation.tasks.5.{URL.partition('=')[0]}"
    said = shell("convert", str(NVFP4), "--output", "all.yaml")
    assert f"(execution.account, execution.output_dir, {judge}), then run it" in said.err
    text = (shell.folder / "all.yaml").read_text("utf-8")
    assert "base_url: http://missing.invalid" in text
    assert "api_key_env: JUDGE_API_KEY" in text
    assert f"#   line 114, {judge}: a value is required." in text
    said = shell("convert", str(NVFP4), "-t", "ns_aime2025", "--json")
    missing = [n["key"] for n in orjson.loads(said.out)["notes"] if n["is_missing"]]
    assert missing == ["execution.account", "execution.output_dir"]
    assert "execution.account: a value is required" in shell("info", str(NVFP4)).err
    refused = shell("submit", str(NVFP4), SKIP, "--dry-run")
    assert refused.code == 2
    assert "execution.account: a value is required" in refused.err
    assert "JUDGE_API_KEY is not set" in refused.err


def test_keys_of_a_task_that_is_not_available_are_named(shell: Shell) -> None:
    """Each interceptor by its name, as any other key: nothing of a file is dropped without a word."""
    file = str(NEMO / "examples" / "local_advanced_adapters.yaml")
    said = shell("convert", file, "-o", "evaluation.tasks.0.name=tooltalk", "--json")
    notes = {n["key"].rpartition("config.")[2]: n["text"] for n in orjson.loads(said.out)["notes"]}
    end = "not taken over: task tooltalk is not available"
    assert notes["params.parallelism"] == end
    for index, name in ((0, "payload_modifier"), (1, "system_message"), (3, "caching")):
        assert notes[f"adapter_config.interceptors.{index}".partition("config.")[2]] == (
            f"{name} is {end}"
        )


def test_convert_refuses(shell: Shell) -> None:
    """A file that is there, a folder that is not, and a recipe."""
    (shell.folder / "there.yaml").write_text("mine")
    said = shell("convert", str(TOOLS), "--output", "there.yaml")
    assert (said.code, said.err.splitlines()[0]) == (2, "error: there.yaml is there already")
    assert (shell.folder / "there.yaml").read_text() == "mine"
    assert "cannot write" in shell("convert", str(TOOLS), "--output", "no/where.yaml").err
    assert "recipe.yaml is a recipe already" in shell("convert", "recipe.yaml").err
    assert "--lenient: recipe.yaml is a recipe" in shell("info", "recipe.yaml", "--lenient").err


def test_convert_as_json(shell: Shell) -> None:
    """The recipe and the notes as data."""
    found = orjson.loads(shell("convert", str(INSTRUCT), *JUDGE, "--json").out)
    assert len(found["recipe"]["tasks"]) == 8
    note = next(n for n in found["notes"] if n["key"].endswith("request_timeout"))
    assert (note["has_effect"], note["place"]) == (False, f"{INSTRUCT}:44")


def test_status_finds_the_run_of_a_file(shell: Shell) -> None:
    """The run of a launcher file is its output folder, found without what the file leaves open."""
    assert "has no run yet" in shell("status", str(INSTRUCT)).err
    arguments = [str(INSTRUCT), "-t", "ns_aime2025", *DATA, "--limit", "1"]
    assert shell("prepare", *arguments).code == 0
    assert (shell.folder / "results_nvidia_nemotron_3_nano_30b_a3b" / "plan.json").is_file()
    assert "ns_aime2025" in shell("status", str(INSTRUCT)).out
    assert "output_dir: a value is required" in shell("status", str(NVFP4)).err


def test_summary_names_what_is_not_available(shell: Shell) -> None:
    """A recipe's own `unavailable` is in summary.json and under the table of results."""
    shell.write(unavailable={"mmlu_prox": "no data here"})
    assert shell("prepare", "recipe.yaml").code == 0
    said = shell("gather", "recipe.yaml", "--allow-partial")
    assert "not available: mmlu_prox: no data here" in said.out
    summary = orjson.loads((shell.folder / "runs/test/artifacts/summary.json").read_bytes())
    assert summary["unavailable"] == {"mmlu_prox": "no data here"}
    assert [task["task"] for task in summary["tasks"]] == ["addition"]
