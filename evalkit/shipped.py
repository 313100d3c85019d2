"""Recipes, cards and templates that come with evalkit, in a checkout as in an installed wheel.

A checkout has them at its root, a wheel inside the package (`evalkit/_shipped`). Nothing is read here.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def shipped_recipes() -> dict[str, Path]:
    """Shipped recipes by name (the file's name without its ending), sorted."""
    return shipped_files("recipes", package_folder())


def shipped_cards() -> dict[str, Path]:
    """Shipped model cards by name, sorted."""
    return shipped_files("recipes/cards", package_folder())


def shipped_templates() -> dict[str, Path]:
    """Shipped templates by name, sorted."""
    return shipped_files("slurm_templates", package_folder())


def package_folder() -> Path:
    """The folder of the evalkit package."""
    return Path(str(resources.files("evalkit")))


def shipped_files(folder: str, package: Path) -> dict[str, Path]:
    """YAML files of one shipped folder by name: the wheel's, else those of the checkout."""
    installed = package / "_shipped" / folder
    root = package.parent
    # Only a checkout has the project file beside the package: `site-packages/recipes` is not ours.
    if not installed.is_dir() and (root / "pyproject.toml").is_file():
        installed = root / folder
    return {path.stem: path for path in sorted(installed.glob("*.yaml"))}
