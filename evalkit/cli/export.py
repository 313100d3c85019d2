"""`evalkit export`: published results in the forms of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from evalkit.cli.console import out, print_json, say
from evalkit.cli.env import command_environment
from evalkit.cli.runs import runs_of
from evalkit.cluster.env import refuse_telemetry
from evalkit.errors import UsageError
from evalkit.report.export.kinds import export_run
from evalkit.report.export.options import ExportOptions
from evalkit.report.export.source import load_export
from evalkit.store.run import load_plan

if TYPE_CHECKING:
    import argparse


def command_export(arguments: argparse.Namespace) -> int:
    """Export one run, or a sweep's; nothing is exported while one of them may not be."""
    refuse_telemetry()
    options = ExportOptions(
        dest=None if arguments.dest is None else Path(arguments.dest).expanduser(),
        project=arguments.project,
        entity=arguments.entity,
        tracking_uri=arguments.tracking_uri,
        key_env=arguments.key_env,
        offline=arguments.offline,
        samples=arguments.samples,
        include_restricted=arguments.include_restricted,
        env=command_environment(arguments.env_file),
    )
    found = runs_of(arguments)
    if len(found) > 1 and options.dest is not None:
        raise UsageError(
            f"{arguments.run} is a sweep, whose runs would be written over each other",
            hint="Leave out --dest, or name one of its runs.",
        )
    runs = [
        load_export(
            folder,
            load_plan(folder),
            arguments.task,
            profile=arguments.profile,
            allow_partial=arguments.allow_partial,
        )
        for folder in found
    ]
    documents = []
    for run in runs:
        for task in run.tasks:
            if task.mark:
                say(f"warning: {run.folder.root.name}: {task.name} is exported as {task.mark}")
        places = export_run(run, arguments.to, options)
        documents.append(
            {
                "run_id": run.run_id,
                "folder": str(run.folder.root),
                "to": arguments.to,
                "complete": not run.is_partial,
                "places": places,
            }
        )
        if not arguments.json:
            for place in places:
                out().print(Text(place), soft_wrap=True)
    if arguments.json:
        print_json(documents)
    return 0
