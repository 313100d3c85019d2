"""A wheel with a `framework.yml`, made of a few files: what nvidia-simple-evals is made of, and how it behaves."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from evalkit.benchmarks.contract import Answered
from evalkit.benchmarks.data import DataAccess
from evalkit.benchmarks.registry import harness, harness_names, make_benchmark
from evalkit.errors import InfraError, PlanError, RecipeError
from evalkit.harnesses.environments import MANIFEST, Manifest, read_pins
from evalkit.harnesses.framework_spec import overlay, read_framework, render
from evalkit.recipe.schema import DataOverride
from tests.unit.harnesses.driving import KEY, FakeModel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PYTHON = ".".join(map(str, sys.version_info[:3]))
FRAMEWORK = """
framework: {name: simple_evals, pkg_name: simple_evals}
defaults:
  command: >-
    {% if target.api_endpoint.api_key_name is not none %}export API_KEY=${{target.api_endpoint.api_key_name}} && {% endif %}
    toy_evals {{target.api_endpoint.url}} {{target.api_endpoint.model_id}} {{config.params.task}}
    {{config.output_dir}}/{{config.type}} {{config.params.extra.n_samples}} {{config.params.temperature}}
    {% if config.params.limit_samples is not none %}{{config.params.limit_samples}}{% else %}3{% endif %}
  config:
    params:
      {limit_samples: null, temperature: 0, request_timeout: 60, parallelism: 10, max_retries: 5, extra: {n_samples: 1, judge: {url: null}}}
  target: {api_endpoint: {}}
evaluations:
- name: sums
  description: Sums of
    two numbers
  defaults:
    config: {type: sums, supported_endpoint_types: [chat], params: {task: sums, extra: {n_samples: 2}}}
- name: vectors
  defaults:
    config: {type: vectors, supported_endpoint_types: [embedding], params: {task: vectors}}
"""
COMMAND = """#!{python}
import json, os, sqlite3, statistics, sys, urllib.request
from pathlib import Path

url, model, task, out, repeats, temperature, limit = sys.argv[1:]
out, repeats, limit = Path(out), int(repeats), int(limit)
(out / "cache" / "cache.sqlite").mkdir(parents=True)
db = sqlite3.connect(out / "cache" / "cache.sqlite" / "cache.db")
db.execute("CREATE TABLE Cache (key TEXT, value BLOB, filename TEXT)")
scores = []
for index in reversed(range(limit * repeats)):
    question = {{"role": "user", "content": f"What is {{index % limit}} + 1?"}}
    body = {{"model": model, "messages": [question], "temperature": float(temperature)}}
    headers = {{"Authorization": "Bearer " + os.environ["API_KEY"], "Content-Type": "application/json"}}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as reply:
        said = json.load(reply)["choices"][0]["message"]["content"]
    scores.append(float(said.startswith(str(index % limit + 1))))
    row = json.dumps({{"score": scores[-1], "metrics": {{}}, "convo": [question, {{"role": "assistant", "content": said}}]}})
    name = None
    if len(row) > 1000:
        name, row = f"{{index}}.val", Path(out / "cache" / "cache.sqlite" / f"{{index}}.val").write_text(row) and None
    db.execute("INSERT INTO Cache VALUES (?, ?, ?)", (str(index), row, name))
db.commit()
found = {{"task_name": task, "score": statistics.fmean(scores), "score:stderr": 0.123}}
(out / f"{{task}}.json").write_text(json.dumps(found | ({{"n_repeats": repeats}} if repeats > 1 else {{}})))
"""
OUTPUT = """
import json, pathlib
from types import SimpleNamespace as Box

def parse_output(folder):
    kind = "sums" if "type: sums" in (pathlib.Path(folder) / "run_config.yml").read_text() else None
    found = json.loads((pathlib.Path(folder) / kind / "sums.json").read_text())
    stats = Box(model_dump=lambda exclude_none: {"stderr": found["score:stderr"]})
    score = Box(metrics={"score": Box(scores={"micro": Box(value=found["score"], stats=stats)})})
    return Box(groups={"sums": score}, tasks={"sums": score})
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An environment as `evalkit harness install --wheel` leaves it, without pip."""
    folder = tmp_path_factory.mktemp("harnesses")
    made = folder / "toy"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(made)], check=True)
    site = made / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    core = site / "core_evals" / "simple_evals"
    core.mkdir(parents=True)
    (core / "framework.yml").write_text(FRAMEWORK)
    (core / "output.py").write_text(OUTPUT)
    (site / "toy-1.5.dist-info").mkdir()
    (site / "toy-1.5.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: toy\nVersion: 1.5\n"
    )
    (made / "bin" / "toy_evals").write_text(COMMAND.format(python=made / "bin" / "python"))
    (made / "bin" / "toy_evals").chmod(0o755)
    manifest = Manifest(
        name="toy",
        requirement="toy==1.5",
        package="toy",
        version="1.5",
        versions={"toy": "1.5"},
        python=PYTHON,
        installed="2026-01-01T00:00:00+00:00",
        frameworks={"simple_evals": str((core / "framework.yml").relative_to(made))},
        is_wheel=True,
    )
    (made / MANIFEST).write_text(manifest.model_dump_json())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVALKIT_HARNESSES", str(folder))
        yield folder


def make(**params: Any) -> Any:
    return make_benchmark("toy/sums", params, "card")


def load(benchmark: Any, folder: Path, limit: int | None = None) -> Any:
    [sample] = benchmark.load(DataAccess("sums", DataOverride(), folder, limit)).samples
    return sample


def right_at_first(body: dict[str, Any], before: int) -> str:
    """Sums are right once, and in the end there is much to say."""
    number = int(re.search(r"\d+", str(body["messages"]))[0])
    return f"{number + 1 if before == 0 else 'none'} {'so ' * 500 * (number == 2)}"


def test_an_installed_wheel_is_a_harness(toy: Path) -> None:
    """Its tasks are listed with what decides their answers."""
    assert {"toy", "nvidia-simple-evals", "inspect", "command"} <= set(harness_names())
    first, second = harness("toy").tasks()
    assert (first.name, first.kind, first.description) == ("sums", "chat", "Sums of two numbers")
    assert first.defaults == {"temperature": 0, "n_samples": 2}
    assert (second.name, second.kind, second.defaults["n_samples"]) == ("vectors", "embedding", 1)


def test_a_task_for_real(toy: Path, tmp_path: Path) -> None:
    """Its command asks the gateway, its reader finds its number, its answers are told apart by item."""
    benchmark = make(temperature=0.5)
    assert benchmark.version == "1+1.5"
    sample = load(benchmark, tmp_path)
    run = tmp_path / "cache" / "run"  # only below the wheel's own folder is a cache one
    model = FakeModel(run, right_at_first)
    solution = asyncio.run(benchmark.solve(sample, model))
    assert [body["temperature"] for body in model.bodies] == [0.5] * 6
    params = sample.data["evaluation"]["config"]["params"]
    assert params["request_timeout"] > 24 * 3600
    out = tmp_path / "native"
    out.mkdir()
    result = benchmark.conclude([Answered(sample, 0, solution, None)], run, out)
    assert result.headline == ("sums", "score/micro")
    assert [(m.value, m.stderr) for m in result.metrics] == [(0.5, None)]
    assert (result.n_samples, result.repeats) == (3, 2)
    assert [(s.id, s.repeat, s.scores["score/micro"]) for s in result.samples] == [
        *(("0", 0, 0.0), ("1", 0, 0.0), ("2", 0, 0.0)),
        *(("0", 1, 1.0), ("1", 1, 1.0), ("2", 1, 1.0)),
    ]
    assert len(result.samples[5].content) > 1000
    assert result.versions == {"toy": "1.5"}
    assert "group values of different samples" in result.problems[0]
    assert sorted(path.name for path in out.rglob("*.*")) == [
        "program.log",
        "run_config.yml",
        "sums.json",
    ]
    assert KEY not in (out / "run_config.yml").read_text()


def test_a_single_answer_keeps_the_wheels_error(toy: Path, tmp_path: Path) -> None:
    """The standard error of one answer to each item is as the wheel says; a limit is passed on."""
    benchmark = make(extra={"n_samples": 1})
    sample = load(benchmark, tmp_path, limit=2)
    model = FakeModel(tmp_path, right_at_first)
    solution = asyncio.run(benchmark.solve(sample, model))
    result = benchmark.conclude([Answered(sample, 0, solution, None)], tmp_path, tmp_path)
    assert len(model.bodies) == 2
    assert [(m.value, m.stderr) for m in result.metrics] == [(1.0, 0.123)]
    assert result.problems == []


def test_a_failed_command_is_owed(toy: Path, tmp_path: Path) -> None:
    """A request that fails ends the command, and the unit as ours."""
    benchmark = make()
    sample = load(benchmark, tmp_path)
    with pytest.raises(InfraError, match=r"(?s)bash failed \(exit code 1\).*HTTP Error 500"):
        asyncio.run(benchmark.solve(sample, FakeModel(tmp_path, lambda *_: 500)))


def test_unknown_task_and_endpoint(toy: Path, tmp_path: Path) -> None:
    """Tasks that there are not and endpoints that evalkit has not are refused."""
    with pytest.raises(RecipeError, match="the harness toy has no task 'sum'"):
        load(make_benchmark("toy/sum", {}, "card"), tmp_path)
    with pytest.raises(RecipeError, match="evalkit has chat, completions"):
        load(make_benchmark("toy/vectors", {}, "card"), tmp_path)


def test_overlay() -> None:
    """Mappings are merged at every depth, lists and values replaced, nothing shared."""
    below = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
    merged = overlay(below, {"a": {"c": [3]}, "d": {"e": 1}})
    assert merged == {"a": {"b": 1, "c": [3]}, "d": {"e": 1}}
    merged["a"]["b"] = 2
    assert below["a"]["b"] == 1


def test_render_refuses_what_a_shell_would_split() -> None:
    """The wheel's template does not quote; a missing setting is named."""
    evaluation = {
        "command": "run {{target.api_endpoint.model_id}} {{config.x}}",
        "config": {"x": "{{1 + 1}}"},
    }
    target = {"url": "http://h/v1", "model_id": "m", "api_key_name": "K"}
    assert render(evaluation, target, "out") == "run m 2"
    with pytest.raises(PlanError, match="model_id is 'a; b'"):
        render(evaluation, {**target, "model_id": "a; b"}, "out")
    with pytest.raises(PlanError, match="'dict object' has no attribute 'x'"):
        render({**evaluation, "config": {}}, target, "out")


def test_no_framework(tmp_path: Path) -> None:
    """A file of another form is named."""
    file = tmp_path / "framework.yml"
    file.write_text(yaml.safe_dump({"framework": {"name": "x"}}))
    with pytest.raises(
        PlanError, match=r"framework.yml is no framework.yml of nemo-evaluator 0.2: KeyError"
    ):
        read_framework(file)


def test_pins() -> None:
    """The wheel's version is the one that the harness names."""
    assert read_pins("nvidia-simple-evals.txt")["nvidia-simple-evals"] == "26.3"
