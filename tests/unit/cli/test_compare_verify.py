"""`evalkit compare` and `evalkit verify` on run folders, from artifacts alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import yaml

from evalkit.cli.main import main
from evalkit.recipe.serving import VllmServing
from evalkit.store.layout import RunFolder
from tests.builders import answer_all
from tests.unit.cli.conftest import RECIPE

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalkit.plan.model import UnitKey
    from tests.unit.cli.conftest import Shell

TASKS: dict[str, Any] = {
    "addition": {"params": {"n": 40}, "repeats": 2},
    "choice": {"benchmark": "addition", "params": {"n": 20, "form": "choice"}},
}
CARD: dict[str, Any] = {
    "name": "Tiny",
    "source": ["here"],
    "models": ["m"],
    "profile": "card",
    "benchmarks": {
        "addition": {"value": 75.0, "metric": "correct", "samples": 40, "repeats": 2, "band": 3.0}
    },
}


def make(
    name: str,
    wrong: Callable[[str, UnitKey], bool],
    owed: Callable[[str, UnitKey], bool] = lambda task, key: False,
    **recipe: Any,
) -> None:
    """A gathered run in the current folder."""
    text = yaml.safe_dump({**RECIPE, "tasks": TASKS, **recipe}, sort_keys=False)
    Path("recipe.yaml").write_text(text)
    assert main(["prepare", "recipe.yaml", "-o", f"output.name={name}"]) == 0
    folder = RunFolder(Path.cwd() / "runs" / name)
    answer_all(folder, wrong=wrong, owed=owed)
    assert main(["gather", name, "--allow-partial"]) == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`old`: every fourth sample wrong. `new`: every second one, warmer, `choice` incomplete."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make("old", lambda task, key: key.sample % 4 == 0)
        make(
            "new",
            lambda task, key: key.sample % 2 == 0,
            lambda task, key: task == "choice" and key.sample < 2,
            generation={"temperature": 0.7},
        )
    return folder / "runs"


@pytest.fixture
def runs(shell: Shell, made: Path) -> Shell:
    """A copy of them to spoil."""
    shutil.copytree(made, shell.folder / "runs")
    return shell


def test_servers_of_different_kinds_are_one_line(runs: Shell) -> None:
    """What each is, and where; their settings behind an option and in the JSON."""
    for path in runs.folder.joinpath("runs", "new", "artifacts").glob("*/results.json"):
        results = orjson.loads(path.read_bytes())
        results["settings"]["serving"] = VllmServing().model_dump(mode="json")
        path.write_bytes(orjson.dumps(results))
    said = runs("compare", "old", "new").out
    [line] = [line for line in said.splitlines() if line.strip().startswith("serving")]
    assert line.split()[:5] == ["serving", "A", "external", "http://127.0.0.1:9/v1", "B"]
    assert "vllm" in line
    count = int(said.partition(" further settings of these kinds")[0].split()[-1])
    [run] = orjson.loads(runs("compare", "old", "new", "--json").out)["runs"]
    assert sum(each["key"].startswith("serving.") for each in run["settings"]) == count + 1
    said = runs("compare", "old", "new", "--all-settings").out
    assert "serving.kind" in said
    assert "further settings" not in said


def test_compare(runs: Shell) -> None:
    """Settings come first, then the table, then what was not compared, then the verdict."""
    said = runs("compare", "old", "new")
    assert said.code == 0
    lines = said.out.splitlines()
    assert "generation.temperature" in "".join(lines[:8])
    [row] = [line for line in lines if line.startswith("addition ") and "[" in line]
    assert row.split()[:5] == ["addition", "B", "75.00", "50.00", "-25.00"]
    assert row.split()[-3:] == ["40", "10", "0"]
    [left] = [line for line in lines if line.startswith("not compared")]
    assert "choice (A, B): this run: incomplete: 2 of 20 units are missing" in left
    assert "B - A lies in [-30.00, -20.00]" in left
    assert lines[-1] == "B is worse than A: addition; 1 not compared"


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_a_terminal(runs: Shell, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """No line is wider, and none of its numbers is cut."""
    monkeypatch.setattr("evalkit.cli.console.PIPE_WIDTH", width)
    (runs.folder / "card.yaml").write_text(yaml.safe_dump(CARD))
    for command in (("compare", "old", "new"), ("verify", "old", "--card", "card.yaml")):
        said = runs(*command)
        assert max(map(len, said.out.splitlines())) <= width
        assert "..." not in said.out
        assert "95 % interval" in said.out


def test_gate(runs: Shell) -> None:
    """11 for a regression, 10 for what was not compared, 0 else; the order of runs matters."""
    gate = ("--fail-on-regression",)
    assert runs("compare", "old", "new", *gate).code == 11
    assert runs("compare", "new", "old", *gate).code == 10
    assert runs("compare", "new", "old", "-t", "addition", *gate).code == 0
    assert runs("compare", "old", "new", "-t", "addition", "--margin", "20", *gate).code == 0
    assert runs("compare", "old", "new", "-t", "choice", *gate).code == 10


def test_json_and_three_runs(runs: Shell) -> None:
    """Each against the first, all samples that changed, and one family of tests."""
    said = runs("compare", "old", "new", "old", "-t", "addition", "--json")
    document = orjson.loads(said.out)
    assert [run["run"] for run in document["runs"]] == ["new", "old"]
    new, same = (run["tasks"][0] for run in document["runs"])
    assert len(new["flips"]) == 10
    assert new["adjusted_p"] == pytest.approx(2 * new["difference"]["p_value"])
    assert (same["difference"]["value"], same["flips"]) == (0.0, [])
    assert document["tests"] == 2


def test_results_files(runs: Shell) -> None:
    """Copies of artifacts are enough, and tasks of two names are compared when they are named."""
    artifacts = runs.folder / "runs" / "old" / "artifacts"
    shutil.copytree(artifacts / "addition", runs.folder / "copy")
    shutil.rmtree(runs.folder / "runs" / "old")
    said = runs("compare", "copy/results.json", "runs/new/artifacts/addition/results.json")
    assert "-25.00" in said.out
    document = runs(
        "compare", "copy/results.json", "runs/new/artifacts/choice/results.json", "--json"
    )
    [task] = orjson.loads(document.out)["runs"][0]["tasks"]
    assert task["reason"] == "this run: incomplete: 2 of 20 units are missing"


def test_artifacts_that_do_not_fit_together(runs: Shell) -> None:
    """Samples of another gather, or none, are named; nothing is compared with them."""
    old, new = (RunFolder(runs.folder / "runs" / name) for name in ("old", "new"))
    shutil.copyfile(old.samples("addition"), new.samples("addition"))
    only = ("-t", "addition")
    said = runs("compare", "old", "new", *only).out
    assert "samples.jsonl.zst is not the file that" in said
    new.samples("addition").write_bytes(b"\x28\xb5\x2f\xfd")
    assert "is damaged" in runs("compare", "old", "new", *only).out
    new.samples("addition").unlink()
    assert "there is no" in runs("compare", "old", "new", *only).out
    new.results("addition").unlink()
    assert "this run: not gathered" in runs("compare", "old", "new", *only).out
    new.results("addition").write_text("{}")
    assert "is of another version" in runs("compare", "old", "new", *only).out


def test_a_headline_that_its_samples_do_not_make(runs: Shell) -> None:
    """As by a benchmark that counts otherwise now."""
    path = RunFolder(runs.folder / "runs" / "new").results("addition")
    document = orjson.loads(path.read_bytes())
    document["headline"]["value"] = 0.9
    path.write_bytes(orjson.dumps(document))
    said = runs("compare", "old", "new", "-t", "addition").out
    assert "makes another headline" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("compare", "old"), "only one run: old"),
        (("compare", "old", "nothing"), "no run 'nothing'"),
        (
            ("compare", "old", "new", "-t", "x"),
            "no task 'x' in these runs Tasks: addition, choice.",
        ),
        (("compare", "old", "card.json"), "card.json is no results.json"),
        (("compare", "old", "new", "--alpha", "5"), "5 does not lie between 0 and 1"),
        (("compare", "old", "new", "--margin", "-1"), "not a number of points"),
        (("compare", "old", "new", "--margin", "nan"), "not a number of points"),
        (("verify", "old", "--card", "nemotron-3-nano", "--detect", "0"), "it must be above 0"),
        (("verify", "old", "--card", "no-such"), "there is no card 'no-such'"),
        (("verify", "old", "--card", "nemotron-3-nano", "-t", "x"), "has no benchmark 'x'"),
    ],
)
def test_usage(runs: Shell, words: tuple[str, ...], message: str) -> None:
    """What cannot mean anything ends with 2."""
    (runs.folder / "card.json").write_text("{}")
    said = runs(*words)
    assert said.code == 2
    assert message in said.err.replace("\n", " ")


def test_verify(runs: Shell) -> None:
    """Exit codes are the verdicts: consistent, not consistent, undecided, other settings."""
    path = runs.folder / "card.yaml"

    def code(run: str, *words: str, **changes: Any) -> int:
        entry = {**CARD["benchmarks"]["addition"], **changes}
        path.write_text(yaml.safe_dump({**CARD, "benchmarks": {"addition": entry}}))
        return runs("verify", run, "--card", "card.yaml", *words).code

    assert code("old") == 0
    assert code("new") == 12
    assert code("old", samples=41) == 10
    assert code("old", "--strict") == 13  # 40 samples, where the profile has 200
    said = runs("verify", "old", "--card", "nemotron-3-nano")
    assert said.code == 10
    assert "undecided: mmlu_pro, gpqa_diamond" in said.out
    assert "undecided at 95 %: no score could be compared" in said.out


def test_verify_as_json(runs: Shell) -> None:
    """One document for each run, with everything the text says."""
    (runs.folder / "card.yaml").write_text(yaml.safe_dump(CARD))
    [document] = orjson.loads(runs("verify", "old", "--card", "card.yaml", "--json").out)
    [benchmark] = document["benchmarks"]
    assert (document["verdict"], benchmark["verdict"]) == ("consistent", "consistent")
    assert (benchmark["published"], benchmark["value"]) == (0.75, 0.75)
    assert benchmark["agreement"]["interval"][0] < 0 < benchmark["agreement"]["interval"][1]
    assert {check["state"] for check in document["checks"]} <= {
        "same",
        "differs",
        "unknown",
        "note",
    }
    RunFolder(runs.folder / "runs" / "old").metrics("addition").unlink()
    [document] = orjson.loads(runs("verify", "old", "--card", "card.yaml", "--json").out)
    [artifacts] = [check for check in document["checks"] if check["name"] == "artifacts"]
    assert artifacts["text"] == "metrics.json is not there"
