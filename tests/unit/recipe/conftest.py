"""Builders for recipes on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from evalkit.recipe.load import LoadedRecipe, load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable

# A busy machine is no failure.
settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60
)
settings.load_profile("unhurried")

SMALL = "models: {m: {path: /m}}\ntasks: {a: {}}\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write files into an empty working folder: `write("text")` or `write(a="...", b="...")`."""
    monkeypatch.chdir(tmp_path)

    def _write(text: str | None = None, /, **files: str) -> Path:
        if text is not None:
            files["r"] = text
        for name, content in files.items():
            path = tmp_path / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        return Path(f"{next(iter(files))}.yaml")

    return _write


@pytest.fixture
def load(write: Callable[..., Path]) -> Callable[..., LoadedRecipe]:
    """Load a recipe given as text, with an empty environment unless one is given."""

    def _load(text: str = SMALL, *overrides: str, **options: object) -> LoadedRecipe:
        return load_recipe(write(text), overrides=overrides, **{"env": {}, **options})  # type: ignore[arg-type]

    return _load
