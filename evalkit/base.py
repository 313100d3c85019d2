"""The one base class of every value that is written to disk or read from it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A validated, immutable value: unknown keys are refused, fields cannot be reassigned."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
