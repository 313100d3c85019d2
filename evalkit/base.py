"""The one base class of every value that is written to disk or read from it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A validated, immutable value: unknown keys are refused, fields cannot be reassigned.

    What validates is built with the first value of a class (`defer_build`), not when the class is
    imported: of all that a command imports, it makes few.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
