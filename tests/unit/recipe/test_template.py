"""Template files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from evalkit.errors import RecipeError
from evalkit.recipe import template
from evalkit.recipe.template import load_template

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def shipped(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two shipped templates."""
    folder = tmp_path_factory.mktemp("slurm_templates")
    (folder / "default.yaml").write_text("description: Any cluster.\ntime_min: 60\nnodes: 2\n")
    (folder / "other.yaml").write_text("extends: default\npartition: p\nnodes: null\n")
    files = {path.stem: path for path in sorted(folder.iterdir())}
    monkeypatch.setattr(template, "shipped_templates", lambda: files)


def test_shipped() -> None:
    """A shipped template is found by name and laid over what it extends."""
    assert load_template("other") == {
        "description": "Any cluster.",
        "time_min": 60,
        "nodes": None,
        "partition": "p",
    }


def test_file(write: Write, tmp_path: Path) -> None:
    """A file is found relative to a folder; the environment fills in references."""
    write(site="extends: default.yaml\naccount: ${env:ACCOUNT}\n")
    loaded = load_template("site.yaml", base=tmp_path, env={"ACCOUNT": "me"})
    assert (loaded["account"], loaded["time_min"]) == ("me", 60)


def test_unknown() -> None:
    """An unknown template is answered with the shipped ones."""
    with pytest.raises(RecipeError) as caught:
        load_template("defult")
    assert str(caught.value) == (
        "there is no template 'defult'\nDid you mean 'default'? Shipped templates: default, other."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "partiton: x",
            "site.yaml:1: unknown key 'partiton'. Did you mean 'partition'? Valid keys: ",
        ),
        ("time_min: x", "site.yaml:1 time_min: expected a whole number of at least 1, found 'x'"),
        ("description: [x]", "site.yaml:1 description: expected text"),
        ("account: ${env:X}", "site.yaml:1 account: the environment variable X is not set. "),
        ("", "site.yaml: the template is empty"),
        ("extends: site.yaml", "site.yaml: the template extends itself: site.yaml -> site.yaml"),
    ],
)
def test_errors(text: str, message: str, write: Write) -> None:
    """A wrong template is answered with its own file and line."""
    write(site=text)
    with pytest.raises(RecipeError) as caught:
        load_template("site.yaml")
    assert str(caught.value).startswith(message)
