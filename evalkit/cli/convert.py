"""`evalkit convert`: the recipe that a file of the NeMo Evaluator launcher is read as."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.cli import recipes
from evalkit.cli.console import print_json, say
from evalkit.errors import UsageError

if TYPE_CHECKING:
    import argparse


def command_convert(arguments: argparse.Namespace) -> int:
    """Print the recipe, or write it into a new file."""
    from evalkit.recipe.nemo.render import render_recipe

    target = None if arguments.output is None else Path(arguments.output)
    if target is not None and target.exists():
        raise UsageError(f"{target} is there already", hint="Remove it, or name another file.")
    loaded = recipes.load(arguments, tell=False, only_shows=True)
    if loaded.notes is None:
        raise UsageError(
            f"{loaded.path} is a recipe already",
            hint="convert reads files of the NeMo Evaluator launcher; `evalkit info` shows a recipe.",
        )
    folder = Path() if target is None else target.parent
    text = render_recipe(loaded, loaded.notes, folder)
    if arguments.json:
        notes = [
            {
                "key": n.key,
                "place": n.place,
                "text": n.text,
                "has_effect": n.has_effect,
                "is_missing": n.is_missing,
            }
            for n in loaded.notes
        ]
        print_json({"recipe": loaded.raw, "notes": notes})
    elif target is None:
        print(text, end="")
    if target is not None:
        _write(target, text)
        missing = [note.key for note in loaded.notes if note.is_missing]
        first = (
            f"Fill in what it leaves to you ({', '.join(missing)}), then run" if missing else "Run"
        )
        say(f"written: {target}. {first} it with: evalkit submit {target}")
    return 0


def _write(target: Path, text: str) -> None:
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}") from error
