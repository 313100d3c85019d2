"""Exports, read back by the packages they are for."""

from __future__ import annotations

import csv
import struct
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar
from unittest.mock import MagicMock

import orjson
import pytest
import yaml
import zstandard

from evalkit.errors import IncompleteError, StoreError, UsageError
from evalkit.recipe.request import Reasoning, RequestSettings
from evalkit.report.export import wandb_run
from evalkit.report.export.kinds import KINDS, export_run
from evalkit.report.export.options import ExportOptions, flag
from evalkit.report.export.outgoing import masked, run_settings
from evalkit.report.export.source import ExportedRun, load_export
from evalkit.report.facts import RunFacts
from evalkit.report.gather import gather_task
from tests.unit.report.run_builder import Echo, PrivateEcho, TestRun, echo, make_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from evalkit.store.records import CallRecord

KEY = "sk-proj-1234567890abcdefghijklmnopqrstuv"
FACTS = RunFacts({"created": "2026-01-02T03:04:05+00:00", "command": "evalkit run"}, ())


def make_export(root: Path, *, cls: type[Echo] = Echo, left_out: int = 0) -> ExportedRun:
    """A gathered run of 4 samples, twice each: three units wrong, and the last ones left out."""
    run = make_run(root)
    keys = run.units()[: 8 - left_out]
    run.write(record(run, number) for number in range(len(keys)))
    gather_task(run.folder, run.plan, run.task, echo(cls), FACTS, run.progress.append)
    return load_export(run.folder, run.plan, allow_partial=left_out > 0)


def record(run: TestRun, number: int) -> CallRecord:
    """The answer of a unit: three of eight are wrong, and one of these holds a key."""
    key = run.units()[number]
    call = run.answer(key, {1: f"the key is {KEY}", 2: "no", 3: "never"}.get(number))
    thoughts = replace(call.reply, reasoning="hm", finish_reason="length")
    return replace(call, reply=thoughts) if number == 0 else call


def export(run: ExportedRun, kind: str, dest: Path, **options: Any) -> list[str]:
    """Export into a folder."""
    return export_run(run, kind, ExportOptions(dest=dest, **options))


def rows_of(path: Path) -> list[dict[str, str]]:
    """A CSV file's rows."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_csv(tmp_path: Path) -> None:
    """The headline comes first, and what does not exist is an empty cell, not a 0."""
    export(make_export(tmp_path / "run"), "csv", tmp_path)
    headline, *others = rows_of(tmp_path / "metrics.csv")
    assert (headline["metric"], headline["value"]) == ("pass@1[avg-of-2] correct", "0.625")
    assert (headline["complete"], headline["bound_low"]) == ("True", "")
    assert "majority@2 correct" in {row["metric"] for row in others}
    samples = rows_of(tmp_path / "echo.csv")
    assert [row["score.correct"] for row in samples].count("0.0") == 3
    assert orjson.loads(samples[0]["messages"]) == [{"role": "user", "content": "say t0"}]


def test_parquet(tmp_path: Path) -> None:
    """The same tables, with types; the file itself says what it is of."""
    import pyarrow.parquet as pq

    run = make_export(tmp_path / "run")
    export(run, "parquet", tmp_path)
    metrics, samples = (
        pq.read_table(tmp_path / "metrics.parquet"),
        pq.read_table(tmp_path / "echo.parquet"),
    )
    assert metrics["value"][0].as_py() == 0.625
    assert sum(samples["score.correct"].to_pylist()) == 5.0
    assert samples["reasoning_tokens"].null_count == 8
    about = orjson.loads(samples.schema.metadata[b"evalkit"])
    assert (about["run_id"], about["complete"]) == (run.plan.run_id, True)


def test_tables_of_a_partial_task_have_another_name(tmp_path: Path) -> None:
    """A partial table says so in its name, and makes room for the complete one."""
    export(make_export(tmp_path / "a", left_out=2), "csv", tmp_path)
    [row] = rows_of(tmp_path / "metrics.csv")
    assert (row["value"], row["complete"], row["missing"]) == ("", "False", "2")
    assert (row["bound_low"], row["bound_high"]) == ("0.375", "0.625")
    assert len(rows_of(tmp_path / "echo.partial.csv")) == 6
    export(make_export(tmp_path / "b"), "csv", tmp_path)
    assert not (tmp_path / "echo.partial.csv").exists()
    assert len(rows_of(tmp_path / "echo.csv")) == 8


def test_model_card(tmp_path: Path) -> None:
    """huggingface_hub reads the results back; the rest of a card stays, and so do others' results."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    theirs = EvalResult("text-generation", "squad", "SQuAD", "f1", 0.9)
    data = ModelCardData(license="mit", model_name="theirs", eval_results=[theirs])
    (tmp_path / "README.md").write_text(f"---\n{data.to_yaml()}\n---\n# Mine\n\nWords.\n")
    run = make_export(tmp_path / "run", left_out=2)
    export(run, "model-card", tmp_path)
    [_, partial] = ModelCard.load(tmp_path / "README.md").data.eval_results or []
    assert partial.dataset_name == "echo (partial)"
    assert partial.metric_value == "between 37.50 and 62.50 % (partial: 2 of 8 units are missing)"
    for _ in range(2):
        export(make_export(tmp_path / "whole"), "model-card", tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    kept, ours = card.data.eval_results or []
    assert (kept.dataset_name, kept.metric_value, card.data.license) == ("SQuAD", 0.9, "mit")
    assert (ours.metric_value, ours.dataset_name) == (62.5, "echo")
    assert ours.metric_name == "pass@1[avg-of-2] correct"
    assert ours.metric_args["complete"] is True
    assert card.text.strip().endswith("Words.")


def test_two_tasks_of_one_data_set_are_two_results(tmp_path: Path) -> None:
    """The hub joins results by data set: each keeps its own name and settings."""
    from huggingface_hub import ModelCard

    run = make_export(tmp_path / "run")
    [task] = run.tasks
    other = replace(task, plan=task.plan.model_copy(update={"name": "again"}))
    export(replace(run, tasks=(task, other)), "model-card", tmp_path)
    results = ModelCard.load(tmp_path / "README.md").data.eval_results or []
    assert [each.dataset_name for each in results] == ["echo", "again"]


def test_results_of_another_profile_stand_beside_the_own(tmp_path: Path) -> None:
    """On one model card, each once however often it is exported."""
    from huggingface_hub import ModelCard

    run = make_export(tmp_path / "run")
    folder = replace(run.folder, profile="fixed")
    [task] = run.tasks
    fixed = replace(run, folder=folder, tasks=(replace(task, folder=folder),))
    for each in (run, fixed, run, fixed):
        export(each, "model-card", tmp_path)
    results = ModelCard.load(tmp_path / "README.md").data.eval_results or []
    assert sorted(each.dataset_config for each in results) == ["echo", "echo-fixed"]


def test_nemo(tmp_path: Path) -> None:
    """The four files that its exporters ask for, with population statistics of all units' scores."""
    run = make_export(tmp_path / "run")
    export(run, "nemo", tmp_path)
    folder = tmp_path / "echo.0" / "artifacts"
    results = yaml.safe_load((folder / "results.yml").read_text())
    metrics = results["results"]["tasks"]["echo"]["metrics"]
    score = metrics["pass_at_1_avg-of-2"]["scores"]["correct"]
    assert score["value"] == score["stats"]["mean"] == 0.625
    assert (score["stats"]["count"], score["stats"]["sum"]) == (8, 5.0)
    assert score["stats"]["variance"] == pytest.approx(0.625 * 0.375)
    assert results["target"]["api_endpoint"]["model_id"] == "tiny"
    traffic = orjson.loads((folder / "eval_factory_metrics.json").read_bytes())
    assert traffic["response_stats"]["avg_prompt_tokens"] == 10
    assert traffic["reasoning"] == {}
    assert yaml.safe_load((folder / "run_config.yml").read_text())["config"]["type"] == "echo"
    assert yaml.safe_load((folder / "metadata.yaml").read_text())["complete"] is True
    summary = orjson.loads((tmp_path / "processed_results.json").read_bytes())
    [entry] = summary["benchmarks"]["echo"]["models"]["tiny"]
    assert entry["scores"]["echo_pass_at_1_avg-of-2_correct"] == 0.625
    assert entry["timestamp"] == "2026-01-02T03:04:05+00:00"


def test_nemo_has_no_score_of_a_partial_task(tmp_path: Path) -> None:
    """Its readers take any number for a score."""
    export(make_export(tmp_path / "run", left_out=1), "nemo", tmp_path)
    results = yaml.safe_load((tmp_path / "echo.0" / "artifacts" / "results.yml").read_text())
    assert results["results"]["tasks"]["echo"]["metrics"] == {}
    assert results["metadata"]["complete"] is False
    assert "between" not in str(results["results"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_inspect(tmp_path: Path) -> None:
    """Inspect reads the log back: an epoch per repeat, reasoning apart, the headline's metric first."""
    from inspect_ai.log import list_eval_logs, read_eval_log

    run = make_export(tmp_path / "run")
    [path] = export(run, "inspect", tmp_path / "logs")
    assert [info.task for info in list_eval_logs(str(tmp_path / "logs"))] == ["echo"]
    log = read_eval_log(path)
    assert (log.status, log.eval.model, log.eval.run_id) == ("success", "tiny", run.plan.run_id)
    assert log.results is not None
    score = log.results.scores[0]
    assert (score.name, next(iter(score.metrics))) == ("correct", "pass@1[avg-of-2]")
    assert score.metrics["pass@1[avg-of-2]"].value == 0.625
    samples = log.samples or []
    assert [(s.id, s.epoch) for s in samples[:3]] == [("s0", 1), ("s1", 1), ("s2", 1)]
    first = samples[0]
    assert (first.target, first.output.completion) == ("t0", "t0")
    assert first.output.choices[0].stop_reason == "max_tokens"
    assert first.messages[0].text == "say t0"
    assert "hm" in str(first.messages[1].content)
    assert first.model_usage["tiny"].total_tokens == 15
    again = read_eval_log(export(run, "inspect", tmp_path / "again")[0])
    assert again.model_dump(exclude={"location", "etag"}) == log.model_dump(
        exclude={"location", "etag"}
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_inspect_shows_a_partial_log_as_failed(tmp_path: Path) -> None:
    """No results, an error that says what is missing, and no question of restricted data."""
    from inspect_ai.log import read_eval_log

    run = make_export(tmp_path / "run", cls=PrivateEcho, left_out=3)
    log = read_eval_log(export(run, "inspect", tmp_path)[0])
    assert (log.status, log.results, log.tags) == ("error", None, ["evalkit", "partial"])
    assert log.error is not None
    assert log.error.message == "partial: 3 of 8 units are missing"
    assert "may not be republished" in str((log.samples or [])[0].input)


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run for one run, however often it is sent; a complete export takes the mark away."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    uri = f"file://{tmp_path}/mlruns"
    options = ExportOptions(tracking_uri=uri, samples=True)
    export_run(make_export(tmp_path / "a", left_out=2), "mlflow", options)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("evalkit")
    [partial] = client.search_runs([experiment.experiment_id])
    assert partial.data.tags["evalkit.complete"] == "false"
    assert partial.data.tags["evalkit.partial.echo"].startswith("between 37.50 and 62.50 %")
    assert (partial.info.status, partial.data.metrics["echo/missing"]) == ("FAILED", 2)
    assert "echo/headline" not in partial.data.metrics
    for _ in range(2):
        export_run(make_export(tmp_path / "b"), "mlflow", options)
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == partial.info.run_id
    assert run.data.metrics["echo/headline"] == 0.625
    assert run.data.metrics["echo/missing"] == 0
    assert run.data.tags["evalkit.partial.echo"] == ""
    assert run.data.params["tasks.echo.repeats"] == "2"
    history = client.get_metric_history(run.info.run_id, "echo/missing")
    assert [(point.step, point.value) for point in history] == [(0, 2.0), (1, 0.0)]
    names = {each.path for each in client.list_artifacts(run.info.run_id)}
    assert names == {"echo.results.json", "echo.samples.jsonl.zst"}
    with pytest.raises(UsageError, match="has complete results of echo, and these are partial"):
        export_run(make_export(tmp_path / "c", left_out=2), "mlflow", options)
    [kept] = client.search_runs([experiment.experiment_id])
    assert (kept.data.metrics, kept.data.tags) == (run.data.metrics, run.data.tags)


def test_wandb_takes_no_headline_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A partial export after a complete one is refused and changes nothing; its W&B run ends well."""
    ended: list[object] = []

    class Known:
        """A run as W&B hands it out again."""

        url, dir, tags = "https://wandb.example/run", "d", ()
        summary: ClassVar[dict[str, Any]] = {}
        log_artifact = staticmethod(lambda _artifact: None)

        def __enter__(self) -> Known:
            return self

        def __exit__(self, kind: object, *_: object) -> None:
            ended.append(kind)

    wandb = MagicMock()
    wandb.init.return_value = Known()
    wandb.errors.Error = RuntimeError
    monkeypatch.setattr(wandb_run, "need", lambda *_: wandb)
    partial, whole = make_export(tmp_path / "a", left_out=2), make_export(tmp_path / "b")
    for run in (partial, whole):
        export(run, "wandb", tmp_path / "out")
    before = dict(Known.summary)
    assert (before["echo/headline"], before["echo/complete"]) == (0.625, True)
    with pytest.raises(UsageError, match="has complete results of echo, and these are partial"):
        export(partial, "wandb", tmp_path / "out")
    assert Known.summary == before
    assert ended == [None, None, None]


def test_requests_and_reasoning_are_sent_where_they_are_set(tmp_path: Path) -> None:
    """What changed the requests is among the settings."""
    run = make_export(tmp_path)
    [task] = run.tasks
    assert run_settings(run)["tasks"]["echo"]["request"] == {}
    update = {
        "request": RequestSettings(add={"top": 1}, remove=("seed",)),
        "reasoning": Reasoning(strip=False),
    }
    changed = replace(task, plan=task.plan.model_copy(update=update))
    sent = run_settings(replace(run, tasks=(changed,)))["tasks"]["echo"]
    assert sent["request"] == {"add": {"top": 1}, "remove": ["seed"]}
    assert sent["reasoning"] == {"strip": False}


def read_sent(path: Path) -> list[dict[str, Any]]:
    """The samples that were sent."""
    with zstandard.open(path, "rb") as file:
        return [orjson.loads(line) for line in file.read().splitlines()]


@pytest.mark.parametrize(("restricted", "texts"), [(False, 0), (True, 8)])
def test_restricted_texts_stay_unless_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restricted: bool, texts: int
) -> None:
    """Of data that may not be published only numbers go to a service; keys never do."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run = make_export(tmp_path / "run", cls=PrivateEcho)
    uri = f"file://{tmp_path}/mlruns"
    options = ExportOptions(tracking_uri=uri, samples=True, include_restricted=restricted)
    export_run(run, "mlflow", options)
    [path] = (tmp_path / "mlruns").rglob("*.samples.jsonl.zst")
    sent = read_sent(path)
    assert len(sent) == 8
    assert sum("content" in line for line in sent) == texts
    assert all("scores" in line and line["usage"]["prompt_tokens"] == 10 for line in sent)
    assert KEY not in orjson.dumps(sent).decode()


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of an offline run: a LevelDB log of protocol buffers behind seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, block = path.read_bytes(), 1 << 15
    at, whole = 7, b""
    while at < len(content):
        if block - at % block < 7:
            at += block - at % block
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(whole)
            whole = b""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that would be sent have our id, the numbers and the settings, and nothing of this machine."""
    import wandb

    for name in ("DATA", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    run = make_export(tmp_path / "run", left_out=2)
    export(run, "wandb", tmp_path / "out", offline=True, samples=True, project="proj")
    wandb.teardown()  # as at the end of a command: its writer closes the file
    [path] = (tmp_path / "out").glob("wandb/offline-run-*/*.wandb")
    begun, summary, artifact = None, {}, None
    for each in wandb_records(path):
        kind = each.WhichOneof("record_type")
        begun = each.run if kind == "run" and begun is None else begun
        if kind == "summary":
            summary |= {
                (item.key or "/".join(item.nested_key)): orjson.loads(item.value_json)
                for item in each.summary.update
            }
        if kind == "request" and each.request.HasField("log_artifact"):
            artifact = each.request.log_artifact.artifact
        artifact = each.artifact if kind == "artifact" else artifact
    assert begun is not None
    assert artifact is not None
    assert (begun.run_id, begun.project, begun.display_name) == (
        run.plan.run_id,
        "proj",
        "test-run",
    )
    assert summary["complete"] is False
    assert summary["echo/missing"] == 2
    assert summary["echo/partial"].startswith("between 37.50 and 62.50 %")
    assert "echo/headline" not in summary
    assert {entry.path for entry in artifact.manifest.contents} == {
        "echo.results.json",
        "echo.samples.jsonl.zst",
    }
    assert KEY.encode() not in path.read_bytes()
    assert sys.argv[0].encode() not in path.read_bytes()


def test_wandb_wants_the_key_that_was_named(tmp_path: Path) -> None:
    """A variable that is not set is named before anything is sent."""
    with pytest.raises(UsageError, match="--key-env: the variable NO_SUCH_KEY is not set"):
        export(make_export(tmp_path), "wandb", tmp_path / "out", key_env="NO_SUCH_KEY")
    assert not (tmp_path / "out").exists()


def test_partial_results_are_refused(tmp_path: Path) -> None:
    """Nothing is written; the message counts what is missing."""
    run = make_export(tmp_path, left_out=2)
    with pytest.raises(IncompleteError, match="echo: partial: 2 of 8 units are missing"):
        load_export(run.folder, run.plan)
    assert not run.folder.exports("csv").exists()


def test_results_that_are_not_there_or_not_ours(tmp_path: Path) -> None:
    """Both are errors that name the command which makes them."""
    run = make_run(tmp_path)
    with pytest.raises(StoreError, match=r"there are no results.*\n`evalkit gather"):
        load_export(run.folder, run.plan)
    made = make_export(tmp_path / "other")
    with pytest.raises(StoreError, match="is of another plan"):
        load_export(made.folder, made.plan.model_copy(update={"fingerprint": "f" * 16}))


@pytest.mark.parametrize("kind", ["parquet", "inspect", "model-card", "wandb", "mlflow"])
def test_a_missing_package_is_named_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """No traceback: what to install."""
    package, extra = {
        "parquet": ("pyarrow", "arrow"),
        "inspect": ("inspect_ai", "export-inspect"),
        "model-card": ("huggingface_hub", "hub"),
        "wandb": ("wandb", "export-wandb"),
        "mlflow": ("mlflow", "export-mlflow"),
    }[kind]
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError) as caught:
        export_run(make_export(tmp_path), kind, ExportOptions())
    assert caught.value.hint == f"pip install 'evalkit[{extra}]'"
    assert package in caught.value.message


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_option_without_effect_is_refused(tmp_path: Path, kind: str) -> None:
    """Each kind names the options it hears."""
    values = {"offline": True, "tracking_uri": "x", "entity": "x", "samples": True}
    for name, value in values.items():
        if name not in KINDS[kind].heard:
            with pytest.raises(UsageError, match=f"{flag(name)} has no effect"):
                ExportOptions(**{name: value}).refuse_unheard(kind, KINDS[kind].heard)


def test_masked_reaches_every_text() -> None:
    """Keys in names, lists and nested values are cut short; numbers stay."""
    assert masked({"a": [KEY, 1.5, None], KEY: {"b": KEY}}) == {
        "a": [f"sk-... ({len(KEY)} characters)", 1.5, None],
        f"sk-... ({len(KEY)} characters)": {"b": f"sk-... ({len(KEY)} characters)"},
    }
