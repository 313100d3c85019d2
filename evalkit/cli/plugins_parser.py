"""The grammar of the commands that are about what is installed: `ls`, `harness`, `new`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.cli.arguments import add_json

if TYPE_CHECKING:
    import argparse


def add_ls(command: argparse.ArgumentParser) -> None:
    """`ls tasks`, `ls task NAME` and so on."""
    command.add_argument(
        "what",
        choices=["tasks", "task", "harnesses", "recipes", "templates", "runs"],
        help="what to list",
    )
    command.add_argument(
        "name",
        nargs="?",
        help="the task's name, as in a recipe (after `task`)",
    )
    command.add_argument(
        "--harness",
        nargs="+",
        metavar=("NAME", "TEXT"),
        help="tasks: those of this harness, and not evalkit's; with texts, those that have all of them in "
        "their name or description",
    )
    command.add_argument(
        "--output",
        action="append",
        default=[],
        metavar="DIR",
        help="runs: below this folder; repeatable (default: runs, and all that were noted elsewhere)",
    )
    add_json(command)


def add_harness(command: argparse.ArgumentParser) -> None:
    """`harness install`, `harness list` and `harness remove`."""
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=True)
    install = actions.add_parser(
        "install",
        help="make its environment, of pinned versions",
        description="Make the environment of a harness, of pinned versions.",
    )
    install.add_argument("name", nargs="?", metavar="NAME", help="see `evalkit harness list`")
    install.add_argument(
        "--wheel",
        metavar="REQUIREMENT",
        help="one of NVIDIA's wheels with a core_evals/*/framework.yml: NAME==VERSION, or a .whl file",
    )
    install.add_argument(
        "--python", metavar="PYTHON", help="the Python it is made with (default: evalkit's own)"
    )
    install.add_argument(
        "--force", action="store_true", help="anew, though it is there and as it must be"
    )
    listing = actions.add_parser(
        "list", help="the same as `ls harnesses`", description="The same as `ls harnesses`."
    )
    add_json(listing)
    remove = actions.add_parser(
        "remove",
        help="remove its environment, and what interrupted installations left",
        description="Remove a harness's environment, and what interrupted installations left.",
    )
    remove.add_argument("name", metavar="NAME")


def add_new(command: argparse.ArgumentParser) -> None:
    """`new benchmark NAME` and `new harness NAME`."""
    command.add_argument("kind", choices=["benchmark", "harness"], help="what to begin")
    command.add_argument(
        "name", metavar="NAME", help="what recipes will call it: small letters, digits, underscores"
    )
    command.add_argument(
        "--dir", metavar="DIR", help="the folder to write (default: evalkit-NAME, here)"
    )
