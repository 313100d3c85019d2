"""What a recipe may say about requests and answers besides sampling: fitted to what an endpoint takes.

`generation` says how answers are sampled; these sections change the finished body of a request, and
clean what comes back. They depend on who is asked, not on what is asked.
"""

from __future__ import annotations

from typing import NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from evalkit.recipe.section import Section
from evalkit.recipe.values import FreeBody, Text

OURS = ("model", "messages", "stream", "n", "tools")
"""Fields that make a request what it is: without them, or under another name, none is answered."""


class RequestSettings(Section):
    """Changes to the body of every request, at its top level: `remove`, then `add`, then `rename`."""

    add: FreeBody = Field(default_factory=dict)
    """Fields that are merged into the body, mappings into mappings. Not what has a key of its own."""
    remove: tuple[Text, ...] = ()
    """Fields that are not sent, such as `seed` where an endpoint refuses it."""
    rename: dict[Text, Text] = Field(default_factory=dict)
    """Fields that are sent under another name, such as `max_completion_tokens: max_tokens`."""
    system_message: Text | None = None
    """A system message before the benchmark's own messages."""

    @field_validator("add")
    @classmethod
    def _adds_no_tools(cls, fields: dict[str, object]) -> dict[str, object]:
        if "tools" in fields:
            raise ValueError("tools does not belong here: the benchmark brings them")
        return fields

    @field_validator("remove")
    @classmethod
    def _removes_no_ours(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if given := [name for name in names if name in OURS]:
            raise ValueError(f"{given[0]} cannot be left out: no request is answered without it")
        return names

    @field_validator("rename")
    @classmethod
    def _renames_apart(cls, names: dict[str, str]) -> dict[str, str]:
        for old, new in names.items():
            if old in OURS or new in OURS:
                raise ValueError(f"{old if old in OURS else new} keeps its name and its meaning")
            if old == new:
                raise ValueError(f"{old} has that name already")
            if list(names.values()).count(new) > 1:
                raise ValueError(f"two fields would be sent as {new}")
        return names

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        """What is done to a field is done once, or one of the two would win in silence."""
        for name in self.remove:
            if name in self.add or name in self.rename:
                other = "add" if name in self.add else "rename"
                raise ValueError(f"{name} is in remove and in {other}; give one")
        for old, new in self.rename.items():
            if new in self.add:
                raise ValueError(f"{new} is in add, and {old} is renamed to it; give one")
        return self


class Reasoning(Section):
    """Reasoning that a server left inside the content. What it gives in a field of its own is never
    touched."""

    strip: bool = True
    """Take reasoning out of the content, so that scorers read the answer alone."""
    start: Text | None = "<think>"
    """Text that begins it; it may be missing (chat templates put it into the prompt). Null: every
    answer begins with reasoning, so one without `end` is unfinished."""
    end: Text = "</think>"
    """Text that ends it."""
    keep_unfinished: bool = False
    """Where it is not ended, keep the content as it is; else nothing of it is an answer."""

    @field_validator("start", "end")
    @classmethod
    def _not_empty(cls, text: str | None) -> str | None:
        if text == "":
            raise ValueError("an empty text is everywhere")
        return text

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        # by value: a plan that is read back holds all of them
        if not self.strip:
            for name in ("start", "end", "keep_unfinished"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} has no effect with strip: false")
        return self


class Adapters(NamedTuple):
    """Both together, as a task or a judge has them."""

    request: RequestSettings = RequestSettings()
    reasoning: Reasoning = Reasoning()
