"""Write docs/reference/recipe.md from the schema's attribute docstrings, or check that it is current.

The page is generated so that it cannot disagree with what evalkit accepts. Usage:

    python scripts/generate_reference.py            # write
    python scripts/generate_reference.py --check    # exit 1 when the page is not current
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticUndefined

from evalkit.meanings import field_meanings
from evalkit.recipe import request, schema, serving
from evalkit.recipe.shape import field_shape, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "recipe.md"

SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("Top level", schema.Recipe),
    ("`models.NAME`", schema.Model),
    ("`serving` of kind `vllm`", serving.VllmServing),
    ("`serving` of kind `command`", serving.CommandServing),
    ("`serving` of kind `external`", serving.ExternalServing),
    ("`serving.price`", serving.Price),
    ("`generation`", schema.Generation),
    ("`request`", request.RequestSettings),
    ("`reasoning`", request.Reasoning),
    ("`tasks.NAME`", schema.Task),
    ("`tasks.NAME.data`", schema.DataOverride),
    ("`judges.NAME`", schema.Judge),
    ("`client`", schema.Client),
    ("`scoring`", schema.Scoring),
    ("`cluster`, and template files", schema.Cluster),
    ("`output`", schema.Output),
)

INTRODUCTION = """\
# Recipe reference

Every key of a recipe file. This page is generated from the schema in `evalkit/recipe/` by
`scripts/generate_reference.py`; do not edit it.

## How a recipe is read

- **YAML.** Only `true` and `false` are booleans. `on`, `off`, `yes`, `no`, times such as `10:00:00`,
  dates and numbers with leading zeros stay text; a key that takes true or false also takes `on`, `off`,
  `yes` and `no`. A key that takes text takes a whole number as well. A key given twice is an error.
- **`extends: FILE`**, or a list of files, lays the recipe over others (paths relative to the file, or
  names of shipped recipes). Mappings merge; lists and scalars replace. Null is a value where a key takes
  null, else it brings back the default. Another `kind` of serving replaces the whole serving, another
  source of a model replaces its old one, and a list of `tasks` keeps those alone.
- **`${env:NAME}`** and **`${env:NAME:-default}`** are filled in from the environment, anywhere in a
  value. `$${env:NAME}` is the text itself. Secrets are not filled in but named: `api_key_env`, `secrets`.
- **`model: TEXT`** is short for one model: a path when it begins with `.`, `/` or `~` or is there, else
  a repository `owner/name` on the hub. `models: {NAME: TEXT}` likewise. `tasks: [NAME, ...]` is short for
  tasks that say nothing else.
- **On the command line** `-o KEY=VALUE` sets a key (YAML; a path is relative to where it is typed),
  `-o '~KEY'` deletes one, `-o TASK.KEY=VALUE` is short for `tasks.TASK.KEY`; `-t TASK` keeps tasks,
  `--limit N` lowers every task's `limit`.
- **Precedence** of generation settings, weakest first: the benchmark's defaults, `generation`,
  `models.NAME.generation`, `tasks.NAME.generation`; of `request` and `reasoning` likewise. Of serving: `serving`, `models.NAME.serving`,
  `tasks.NAME.serving`. Of the cluster: the template, `cluster`.
"""


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description="Generate docs/reference/recipe.md.")
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 on a difference")
    page = render_page()
    if parser.parse_args().check:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page:
            print(
                f"{PAGE} is not current: run python scripts/generate_reference.py", file=sys.stderr
            )
            return 1
        return 0
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page, encoding="utf-8")
    return 0


def render_page() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *(line for each in SECTIONS for line in render_section(*each))])


def render_section(title: str, section: type[BaseModel]) -> Iterator[str]:
    """One heading with the table of a section's keys."""
    yield f"## {title}\n"
    yield f"{(section.__doc__ or '').strip()}\n"
    yield "| key | takes | default | meaning |"
    yield "|---|---|---|---|"
    meanings = field_meanings(section)
    for name, field in section.model_fields.items():
        words = kind_of(section) if name == "kind" else field_shape(field).words
        meaning = " ".join(meanings.get(name, "").split())
        cells = (f"`{name}`", words, render_default(field), meaning)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def render_default(field: FieldInfo) -> str:
    """A default as it would be written in YAML."""
    value: Any = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str | int | float):
        text = f"{value:g}" if isinstance(value, float) else str(value)
        return f"`{text}`" if text else "empty"
    return f"`[{', '.join(value)}]`" if value and isinstance(value, tuple) else ""


if __name__ == "__main__":
    sys.exit(main())
