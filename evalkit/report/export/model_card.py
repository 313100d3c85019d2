"""The results block of a model card on the Hugging Face hub: `model-index` in its YAML front matter.

A card's metric is any value, so that of a partial task is a text that says what is missing and what the
score may still become: whoever reads a number there reads a complete one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.errors import UsageError
from evalkit.report.export.packages import need
from evalkit.report.export.source import PARTIAL, export_id
from evalkit.store.publish import publish

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.report.export.source import ExportedRun, ExportedTask

TASK_TYPE = "text-generation"
DIGITS = 2
"""Of percents; a standard error is rarely below 0.01 points."""


def export_model_card(run: ExportedRun, dest: Path) -> list[Path]:
    """Write `README.md` in the folder `dest`: a card of nothing but results, or the results of one that
    is there, the rest of which stays as it is. Results of this run's tasks are replaced.

    Raises UsageError without huggingface_hub or for a card it cannot read, StoreError.
    """
    hub = need("huggingface_hub", "hub", "model-card")
    path = dest / "README.md"
    results = [_eval_result(hub, run, task) for task in run.tasks]
    card = _read_card(hub, path) or _new_card(hub, run)
    kept = [each for each in card.data.eval_results or [] if not _is_ours(each, run, results)]
    card.data.model_name = card.data.model_name or run.plan.model.name
    card.data.eval_results = [*kept, *results]
    publish(path, str(card).encode())
    return [path]


def _eval_result(hub: Any, run: ExportedRun, task: ExportedTask) -> Any:
    results = task.results
    headline, data = results.headline, results.provenance.data
    return hub.EvalResult(
        task_type=TASK_TYPE,
        task_name="Text Generation",
        dataset_type=data.source,
        dataset_name=f"{task.name} ({PARTIAL})" if task.is_partial else task.name,
        dataset_config=export_id(
            task.folder, task.name
        ),  # two tasks of one data set would be taken for one of two metrics
        dataset_revision=data.revision,
        dataset_args={
            "benchmark": results.benchmark,
            "version": results.benchmark_version,
            "profile": results.settings.profile,
            "n_samples": headline.n_samples,
            "repeats": headline.repeats,
        },
        metric_type=headline.metric,
        metric_name=headline.name,
        metric_value=_value(task),
        metric_args=_about(run, task),
    )


def _value(task: ExportedTask) -> float | str:
    headline = task.results.headline
    if headline.shown is not None:
        return round(headline.shown, DIGITS)
    return str(task.note)


def _about(run: ExportedRun, task: ExportedTask) -> dict[str, Any]:
    headline, settings = task.results.headline, task.results.settings
    about: dict[str, Any] = {
        "unit": "percent" if headline.is_share else "number",
        "complete": task.results.complete,
        "run_id": run.run_id,
        "fingerprint": settings.fingerprint,
        "differs_from_profile": [each.key for each in settings.differs_from_profile],
    }
    if headline.standard_error is not None:
        about["standard_error"] = round(100 * headline.standard_error, DIGITS)
    if headline.interval is not None:
        about["interval"] = [round(100 * end, DIGITS) for end in headline.interval]
        about["level"] = headline.level
    return about


def _is_ours(found: Any, run: ExportedRun, results: list[Any]) -> bool:
    """Whether an earlier export of this run wrote it, about a task that is exported now."""
    args = found.metric_args or {}
    names = {each.dataset_name.removesuffix(f" ({PARTIAL})") for each in results}
    named = found.dataset_name.removesuffix(f" ({PARTIAL})")
    return isinstance(args, dict) and args.get("run_id") == run.run_id and named in names


def _read_card(hub: Any, path: Path) -> Any:
    if not path.exists():
        return None
    try:
        return hub.ModelCard.load(path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} is not a model card: {error}",
            hint="Mend its front matter, or choose another folder with --dest.",
        ) from error


def _new_card(hub: Any, run: ExportedRun) -> Any:
    data = hub.ModelCardData(model_name=run.plan.model.name)
    return hub.ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {run.plan.model.name}\n")
