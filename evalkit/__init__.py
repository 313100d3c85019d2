"""Evaluate language models reproducibly on Slurm clusters with local vLLM serving.

The names below mirror the commands for notebooks; they are imported when first used, so that
`import evalkit` and the command line stay light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalkit.api import Run as Run
    from evalkit.api import load_recipe as load_recipe
    from evalkit.api import make_plans as make_plans
    from evalkit.api import prepare as prepare
    from evalkit.api import submit as submit

__version__ = "0.1.0"
_API = ("Run", "load_recipe", "make_plans", "prepare", "submit")
__all__ = ["Run", "__version__", "load_recipe", "make_plans", "prepare", "submit"]


def __getattr__(name: str) -> Any:
    """Import the Python API when one of its names is used."""
    if name in _API:
        from evalkit import api

        return getattr(api, name)
    raise AttributeError(f"module 'evalkit' has no attribute {name!r}")
