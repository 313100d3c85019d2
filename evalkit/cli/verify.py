"""`evalkit verify`: whether a run fits what was published of its model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.cli.console import err, out, print_json
from evalkit.cli.runs import label_of, runs_of
from evalkit.errors import UsageError
from evalkit.report.card import load_card
from evalkit.report.scored import load_run, missing_artifacts
from evalkit.report.verify import verify_run
from evalkit.report.verify_view import verification_view
from evalkit.store.run import load_plan

if TYPE_CHECKING:
    import argparse

    from evalkit.report.card import Card
    from evalkit.report.verify import Verification
    from evalkit.store.layout import RunFolder


def command_verify(arguments: argparse.Namespace) -> int:
    """The exit code is the verdict; of several runs, the first that is not 0."""
    card = load_card(arguments.card)
    for name in arguments.task:
        if name not in card.benchmarks:
            raise UsageError(
                f"the card {arguments.card} has no benchmark {name!r}",
                hint=f"Its benchmarks: {', '.join(card.benchmarks)}.",
            )
    with err().status("reading samples"):
        found = [_verify(folder, card, arguments) for folder in runs_of(arguments)]
    if arguments.json:
        print_json([each.model_dump(mode="json") for each in found])
    else:
        console = out()
        ascii_only = not console.options.encoding.startswith("utf")
        for each in found:
            console.print(verification_view(each, console.width, ascii_only=ascii_only))
    codes = [each.exit_code(strict=arguments.strict) for each in found]
    return next((code for code in codes if code), 0)


def _verify(folder: RunFolder, card: Card, arguments: argparse.Namespace) -> Verification:
    plan = load_plan(folder)
    chosen = arguments.task or list(card.benchmarks)
    names = [task.name for task in plan.tasks if task.benchmark in chosen]
    return verify_run(
        load_run(folder, plan, label_of(folder, Path(arguments.output)), names),
        card,
        plan.client,
        missing_files={name: missing_artifacts(folder, name) for name in names},
        benchmarks=chosen,
        detect=arguments.detect / 100,
    )
