"""Weights & Biases: one run of theirs per run of ours, with our id.

The run's summary holds the numbers, its configuration the settings, an artifact `results.json` of each
task. W&B would also record this machine, this command line and this program, none of which made the
scores: that is switched off.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import UsageError
from evalkit.report.export.outgoing import (
    refuse_taking_back,
    run_numbers,
    run_settings,
    write_results,
    write_samples,
)
from evalkit.report.export.packages import need
from evalkit.report.export.source import PARTIAL

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from evalkit.report.export.options import ExportOptions
    from evalkit.report.export.source import ExportedRun

PROJECT = "evalkit"
KEY_ENV = "WANDB_API_KEY"


def export_wandb(run: ExportedRun, dest: Path, options: ExportOptions) -> list[str]:
    """Send the run, or with `offline` write what `wandb sync` sends, below `dest`; says where it is.

    Raises UsageError without wandb, without a key, or where W&B refuses.
    """
    wandb = need("wandb", "export-wandb", "wandb")
    key = _key(options)
    try:
        dest.mkdir(parents=True, exist_ok=True)
        ours = wandb.init(
            project=options.project or PROJECT,
            entity=options.entity,
            id=run.run_id,
            name=run.title,
            resume="allow",
            dir=dest,
            mode="offline" if options.offline else "online",
            job_type="evaluation",
            config=run_settings(run),
            settings=_settings(wandb, key),
        )
        with ours, tempfile.TemporaryDirectory() as folder:
            complete = _complete_there(ours.summary, run)
            if not any(task.is_partial and task.name in complete for task in run.tasks):
                _fill(wandb, ours, run, options, Path(folder))
            offline = f"{Path(ours.dir).parent} (send it with `wandb sync`)"
            where = offline if options.offline else str(ours.url)
    except (wandb.errors.Error, OSError) as error:
        raise UsageError(
            f"W&B: {error}",
            hint="Check the key, the project and the network, or write the files with --offline.",
        ) from error
    refuse_taking_back(run, complete, where)  # not above: W&B would mark its run as failed
    return [where]


def _complete_there(summary: Mapping[str, Any], run: ExportedRun) -> list[str]:
    """The tasks that W&B has complete results of; what it has is not known offline."""
    return [task.name for task in run.tasks if summary.get(f"{task.name}/complete") is True]


def _key(options: ExportOptions) -> str | None:
    """The key; null leaves it to what `wandb login` noted."""
    if options.offline:
        return None
    name = options.key_env or KEY_ENV
    key = options.env.get(name)
    if options.key_env and not key:
        raise UsageError(
            f"--key-env: the variable {name} is not set",
            hint=f"export {name}=..., or give --offline.",
        )
    return key


def _settings(wandb: ModuleType, key: str | None) -> Any:
    return wandb.Settings(
        api_key=key,
        console="off",
        silent=True,
        disable_code=True,
        disable_git=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )


def _fill(
    wandb: ModuleType, ours: Any, run: ExportedRun, options: ExportOptions, folder: Path
) -> None:
    ours.tags = ("evalkit", *([PARTIAL] if run.is_partial else []))
    for name, number in run_numbers(run).items():
        ours.summary[name] = number
    for task in run.tasks:
        ours.summary[f"{task.name}/complete"] = task.results.complete
        ours.summary[f"{task.name}/{PARTIAL}"] = task.note
    ours.summary["complete"] = not run.is_partial
    artifact = wandb.Artifact(f"evalkit-{run.run_id}", type="evaluation")
    for task in run.tasks:
        artifact.add_file(str(write_results(task, folder)))
        if options.samples:
            path = write_samples(task, folder, include_restricted=options.include_restricted)
            artifact.add_file(str(path))
    ours.log_artifact(artifact)
