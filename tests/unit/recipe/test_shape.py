"""The schema in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from evalkit.meanings import field_meanings
from evalkit.recipe.shape import drop_nulls, recipe_shape, shape_at, template_shape
from scripts.generate_reference import PAGE, SECTIONS, main, render_page

if TYPE_CHECKING:
    from evalkit.recipe.section import Section


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("tasks.x.limit", "a whole number of at least 1, or null"),
        ("generation.top_p", "a number above 0 and at most 1, or null"),
        ("tasks.x.request.rename.a", "text"),
        ("tasks.x.generation.stop", "a list of texts, or null"),
        ("tasks.x.params.any.thing", "anything"),
        ("serving.kind", "one of vllm, command, external"),
        ("serving.env.X", "text"),
        ("serving.secrets", "a list of names of variables"),
        ("cluster.template", "text"),
        ("models", "a mapping with at least 1 entry"),
    ],
)
def test_words(path: str, words: str) -> None:
    """Every place of a recipe says what it takes, partial sections included."""
    shape = shape_at(tuple(path.split(".")), recipe_shape())
    assert shape is not None
    assert shape.words == words


def test_invalid_path() -> None:
    """A path that is not valid has no shape, at whatever depth it goes wrong."""
    assert shape_at(("tasks", "x", "limt", "y"), recipe_shape()) is None
    assert shape_at(("partition",), template_shape()) is not None


def test_drop_nulls_leaves_partial_sections() -> None:
    """Nulls of partial sections wait until they are merged."""
    data = {"tasks": {"a": {"serving": {"env": None}, "params": None}}, "unknown": None}
    assert drop_nulls(data, recipe_shape()) == {
        "tasks": {"a": {"serving": {"env": None}}},
        "unknown": None,
    }


@pytest.mark.parametrize("section", [section for _, section in SECTIONS])
def test_every_key_is_documented(section: type[Section]) -> None:
    """Every key has its meaning below it in the schema."""
    assert section.model_fields.keys() <= field_meanings(section).keys()


def test_reference_is_current() -> None:
    """docs/reference/recipe.md is what the generator writes."""
    assert PAGE.read_text(encoding="utf-8") == render_page()


def test_generator(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--check` fails on a page that is missing or old, and passes on a written one."""
    page = PAGE.__class__(str(tmp_path)) / "new" / "recipe.md"
    monkeypatch.setattr("scripts.generate_reference.PAGE", page)
    monkeypatch.setattr("sys.argv", ["generate_reference.py", "--check"])
    assert main() == 1
    assert "is not current" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["generate_reference.py"])
    assert main() == 0
    monkeypatch.setattr("sys.argv", ["generate_reference.py", "--check"])
    assert main() == 0
    page.write_text("old")
    assert main() == 1
