"""Checked access to the fields of a data set's rows: a broken row is named, not guessed at."""

from collections.abc import Mapping, Sequence
from typing import Any

from evalkit.benchmarks.contract import Sample
from evalkit.errors import DataError


def text_field(row: Mapping[str, Any], key: str, where: str) -> str:
    """The text in a field. Raises DataError where there is none, or a blank one."""
    value = field(row, key, where)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {key!r} must be a text, found {value!r}")
    return value


def field(row: Mapping[str, Any], key: str, where: str) -> Any:
    """The value of a field. Raises DataError where the row has no such field."""
    if key not in row:
        raise DataError(
            f"{where}: there is no field {key!r}", hint=f"Its fields: {', '.join(map(str, row))}."
        )
    return row[key]


def require_unique_ids(samples: Sequence[Sample], where: str) -> None:
    """Raises DataError where two samples have one id."""
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise DataError(f"{where}: two rows have the id {sample.id!r}")
        seen.add(sample.id)


def starts_at_the_root(path: str | None) -> str | None:
    """A path of a recipe that is used elsewhere than where the plan is made: nothing says there where a
    relative one would start. Raises ValueError."""
    if path is not None and not path.startswith(("/", "~")):
        raise ValueError("the path must begin with / or ~")
    return path
