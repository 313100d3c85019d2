"""The environment, as far as scoring needs it: kept from packages that write to it when imported."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@contextlib.contextmanager
def kept_environment() -> Iterator[None]:
    """Whatever is set inside is unset again: children of this process do not inherit it."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for key in os.environ.keys() - before.keys():
            del os.environ[key]
        os.environ.update(before)


@contextlib.contextmanager
def with_environment(values: Mapping[str, str]) -> Iterator[None]:
    """`values` are set inside, and everything is as before afterwards."""
    with kept_environment():
        os.environ.update(values)
        yield
