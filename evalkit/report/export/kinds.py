"""All kinds of export by name, with the options each of them hears."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from evalkit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from evalkit.report.export.options import ExportOptions
    from evalkit.report.export.source import ExportedRun

FILES = frozenset({"dest"})
HOSTED = frozenset({"samples", "include_restricted", "project"})


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind."""

    what: str
    """For a person."""
    heard: frozenset[str]
    """Options with an effect."""


KINDS = {
    "csv": Kind("tables of metrics and samples", FILES),
    "parquet": Kind("the same for pandas, polars, DuckDB", FILES),
    "inspect": Kind("logs for Inspect's viewer", FILES),
    "model-card": Kind("results block of a model card on the Hugging Face hub", FILES),
    "nemo": Kind("artifacts as NeMo Evaluator writes them", FILES),
    "wandb": Kind("Weights & Biases", HOSTED | {"dest", "entity", "key_env", "offline"}),
    "mlflow": Kind("MLflow", HOSTED | {"tracking_uri"}),
}


def export_run(run: ExportedRun, kind: str, options: ExportOptions) -> list[str]:
    """Export; says what was written or where it was sent.

    Raises UsageError for an unknown kind, an option without effect or a package that is missing, StoreError.
    """
    if kind not in KINDS:
        raise UsageError(
            f"no kind of export is called {kind!r}", hint=f"Kinds: {', '.join(KINDS)}."
        )
    options.refuse_unheard(kind, KINDS[kind].heard)
    dest = (options.dest or run.folder.exports(kind)).absolute()
    if kind == "wandb":
        from evalkit.report.export.wandb_run import export_wandb

        return export_wandb(run, dest, options)
    if kind == "mlflow":
        from evalkit.report.export.mlflow_run import export_mlflow

        return export_mlflow(run, options)
    module, name = _WRITERS[kind]
    write: Callable[[ExportedRun, Path], list[Path]] = getattr(
        import_module(f"evalkit.report.export.{module}"), name
    )
    return [str(path) for path in write(run, dest)]


_WRITERS = {
    "csv": ("tabular", "export_csv"),
    "parquet": ("tabular", "export_parquet"),
    "inspect": ("inspect_log", "export_inspect"),
    "model-card": ("model_card", "export_model_card"),
    "nemo": ("nemo", "export_nemo"),
}
