"""What a person may say about an export, and which kinds hear it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from evalkit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Options of all kinds; null and false were not given."""

    dest: Path | None = None
    """Folder (or, for `model-card`, also an existing card) that is written."""
    project: str | None = None
    """W&B project or MLflow experiment."""
    entity: str | None = None
    """W&B user or team."""
    tracking_uri: str | None = None
    """MLflow server, `sqlite:///FILE` or `file:///FOLDER`."""
    key_env: str | None = None
    """Name of the variable that holds the W&B key."""
    offline: bool = False
    """Write W&B's files and send nothing."""
    samples: bool = False
    """Send the samples, too."""
    include_restricted: bool = False
    """Texts of data that may not be published, too."""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The process environment."""

    def refuse_unheard(self, kind: str, heard: frozenset[str]) -> None:
        """Raise UsageError for an option that this kind has no use for."""
        for option in fields(self):
            given = option.name != "env" and bool(getattr(self, option.name))
            if given and option.name not in heard:
                takes = ", ".join(sorted(flag(name) for name in heard))
                raise UsageError(
                    f"{flag(option.name)} has no effect on an export to {kind}",
                    hint=f"Options of {kind}: {takes}.",
                )
        if self.include_restricted and "samples" in heard and not self.samples:
            raise UsageError(
                "--include-restricted is about samples", hint="Give --samples too, or leave it out."
            )


def flag(name: str) -> str:
    """An option as it is typed."""
    return "--" + name.replace("_", "-")
