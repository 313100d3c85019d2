"""Inspect's log format: one `.eval` per task, which `inspect view` and `read_eval_log` open.

A unit is a sample of Inspect, a repeat one of its epochs. Ids and times are the run's own, so a later
export of the same task is the same log. What Inspect has no place for (counts, bounds, fingerprint,
settings that differ from the profile) is in the log's metadata. A partial task is a log that ended in
an error, without results: that is what the viewer's lists show.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import evalkit
from evalkit.report.export.packages import need
from evalkit.report.export.source import PARTIAL
from evalkit.report.export.tabular import describe
from evalkit.store.publish import publishing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

    from evalkit.report.export.source import ExportedRun, ExportedTask

STOP_REASONS = {
    "stop": "stop",
    "length": "max_tokens",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
}
WITHHELD = "(not in this log: the data may not be republished; sha256 of the messages: {})"
IN_METADATA = (
    "subset",
    "outcome",
    "detail",
    "data",
    "grading",
    "tool_calls",
    "steps",
    "calls",
    "finish_reason",
)
GENERATION = (
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
    "presence_penalty",
    "frequency_penalty",
)
"""Sampling settings that Inspect knows by the same names; all of them are in the metadata."""


def export_inspect(run: ExportedRun, dest: Path) -> list[Path]:
    """A log per task in a folder; returns what was written. Holds a task's samples in memory.

    Raises UsageError without inspect_ai, StoreError.
    """
    log, model = (
        need(f"inspect_ai.{name}", "export-inspect", "inspect") for name in ("log", "model")
    )
    score = need("inspect_ai.scorer", "export-inspect", "inspect").Score
    written = []
    for task in run.tasks:
        writer = _Writer(log, model, score, run, task)
        path = dest / f"{task.name}_{run.run_id}.eval"
        with tempfile.TemporaryDirectory() as folder:
            # Inspect writes in place: a reader must find the old log or the new one
            made = Path(folder) / path.name
            log.write_eval_log(writer.log(), made)
            with made.open("rb") as source, publishing(path) as target:
                shutil.copyfileobj(source, target)
        written.append(path)
    return written


class _Writer:
    """Makes the log of one task out of Inspect's own classes."""

    def __init__(
        self, log: ModuleType, model: ModuleType, score: Any, run: ExportedRun, task: ExportedTask
    ) -> None:
        self._log, self._model, self._score = log, model, score
        self._run, self._task = run, task
        self._created = run.created.isoformat()

    def log(self) -> Any:
        """The whole log. Raises StoreError where samples cannot be read."""
        samples = asyncio.run(self._samples())
        mark = self._task.mark
        return self._log.EvalLog(
            status="success" if mark is None else "error",
            error=None if mark is None else self._failure(mark),
            eval=self._spec(),
            results=self._results(len(samples)),
            stats=self._log.EvalStats(started_at=self._created, completed_at=self._created),
            metadata=self._about(),
            samples=samples,
        )

    def _spec(self) -> Any:
        results, plan = self._task.results, self._task.plan
        data, settings = results.provenance.data, results.settings
        name = f"{self._run.run_id}-{self._task.name}"
        generation = {key: settings.generation.get(key) for key in GENERATION}
        return self._log.EvalSpec(
            eval_id=name,
            run_id=self._run.run_id,
            task_id=name,
            created=self._created,
            task=self._task.name,
            task_version=results.benchmark_version,
            task_args=settings.params,
            tags=["evalkit", *([PARTIAL] if self._task.is_partial else [])],
            dataset=self._log.EvalDataset(
                name=data.source, location=data.revision, samples=plan.n_samples, shuffled=False
            ),
            model=settings.served_model_name,
            model_generate_config=self._model.GenerateConfig(**generation),
            config=self._log.EvalConfig(epochs=plan.repeats),
            packages={"evalkit": evalkit.__version__},
            metadata=self._about(),
        )

    def _about(self) -> dict[str, Any]:
        results = self._task.results
        shown = ("counts", "missing", "tokens", "latency_s", "settings")
        dumped = results.model_dump(mode="json", include=set(shown))
        return {"evalkit": {**describe(self._task), **{key: dumped[key] for key in shown}}}

    def _results(self, logged: int) -> Any:
        results = self._task.results
        if self._task.is_partial:
            return None
        # the first metric of the first score is the one that Inspect shows for the log
        first = dict.fromkeys([results.headline.metric, *_score_names(results.metrics)])
        return self._log.EvalResults(
            total_samples=results.counts.expected,
            completed_samples=results.counts.scored,
            logged_samples=logged,
            scores=[self._eval_score(name) for name in first],
        )

    def _eval_score(self, name: str) -> Any:
        results = self._task.results
        by_mode = results.metrics or {}
        modes = dict.fromkeys([results.headline.mode, *by_mode])
        values = {mode: by_mode[mode][name] for mode in modes if name in by_mode.get(mode, {})}
        statistics = (results.statistics or {}).get(name)
        if statistics is not None and statistics.se_items_clustered is not None:
            values["stderr"] = statistics.se_items_clustered
        metrics = {key: self._log.EvalMetric(name=key, value=v) for key, v in values.items()}
        return self._log.EvalScore(
            name=name, scorer=name, scored_samples=results.counts.scored, metrics=metrics
        )

    async def _samples(self) -> list[Any]:
        made: list[Any] = []
        last: tuple[str, Any] | None = None
        for line in self._task.samples():
            if last is None or last[0] != line["id"]:  # repeats of a sample follow each other
                last = (line["id"], await self._input(line))
            made.append(self._sample(line, last[1]))
        return made

    async def _input(self, line: Mapping[str, Any]) -> Any:
        """What the model was asked, as Inspect's messages; of withheld data a text that says so."""
        if "messages" not in line:
            return WITHHELD.format(line.get("messages_sha256"))
        asked = await self._model.messages_from_openai(line["messages"])
        name = f"{self._run.run_id}-{self._task.name}-{line['sample']}"
        return [
            message.model_copy(update={"id": f"{name}-message-{number}"})
            for number, message in enumerate(asked)
        ]

    def _sample(self, line: Mapping[str, Any], asked: Any) -> Any:
        usage = self._usage(line["usage"])
        name = f"{self._run.run_id}-{self._task.name}-{line['sample']}-{line['repeat']}"
        answer = self._answer(line).model_copy(update={"id": f"{name}-answer"})
        messages = [*([] if isinstance(asked, str) else asked), answer]
        choice = self._model.ChatCompletionChoice(
            message=answer,
            stop_reason=STOP_REASONS.get(line["finish_reason"] or "", "unknown"),
        )
        served = self._task.results.settings.served_model_name
        return self._log.EvalSample(
            uuid=name,
            id=line["id"],
            epoch=line["repeat"] + 1,
            input=asked,
            target=_target(line["target"]),
            messages=messages,
            output=self._model.ModelOutput(model=served, choices=[choice], usage=usage),
            scores=self._scores(line),
            metadata={key: line.get(key) for key in IN_METADATA},
            model_usage={} if usage is None else {served: usage},
            error=self._error(line),
        )

    def _answer(self, line: Mapping[str, Any]) -> Any:
        content: Any = line["content"]
        if line["reasoning"]:
            content = [
                self._model.ContentReasoning(reasoning=line["reasoning"]),
                self._model.ContentText(text=line["content"]),
            ]
        model = self._task.results.settings.served_model_name
        return self._model.ChatMessageAssistant(content=content, model=model, source="generate")

    def _scores(self, line: Mapping[str, Any]) -> Any:
        if line["scores"] is None:
            return None
        answer = None if line["answer"] is None else str(line["answer"])
        return {
            name: self._score(value=value, answer=answer, explanation=line["detail"])
            for name, value in line["scores"].items()
        }

    def _error(self, line: Mapping[str, Any]) -> Any:
        """Of a unit that something of ours kept from being scored."""
        if line["scores"] is not None:
            return None
        return self._failure(f"{line['outcome']}: {line['detail'] or 'not scored'}")

    def _failure(self, message: str) -> Any:
        return self._log.EvalError(message=message, traceback="", traceback_ansi="")

    def _usage(self, usage: Mapping[str, int | None]) -> Any:
        """Null where the server did not say it: Inspect would show 0."""
        prompt, completion = usage["prompt_tokens"], usage["completion_tokens"]
        if prompt is None or completion is None:
            return None
        return self._model.ModelUsage(
            input_tokens=prompt,
            output_tokens=completion,
            total_tokens=prompt + completion,
            reasoning_tokens=usage["reasoning_tokens"],
        )


def _score_names(metrics: Mapping[str, Mapping[str, float]] | None) -> Sequence[str]:
    """All scores, in their order."""
    return list(dict.fromkeys(name for scores in (metrics or {}).values() for name in scores))


def _target(target: Any) -> Any:
    """A text or texts; whatever else a benchmark has for a target as it prints."""
    if target is None:
        return ""
    if isinstance(target, list) and all(isinstance(each, str) for each in target):
        return target
    return str(target)
