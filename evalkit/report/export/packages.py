"""Packages that one kind of export needs: imported when it is asked for, named when they are missing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from evalkit.errors import UsageError

if TYPE_CHECKING:
    from types import ModuleType


def need(module: str, extra: str, kind: str) -> ModuleType:
    """The module. Raises UsageError with the command that installs it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"an export to {kind} needs {module.partition('.')[0]}; {error.name} is not installed",
            hint=f"pip install 'evalkit[{extra}]'",
        ) from error
