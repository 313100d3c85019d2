"""Test vectors and shared data for unit tests, read in one place."""

import json
from pathlib import Path
from typing import Any, NamedTuple

TESTS = Path(__file__).resolve().parents[1]
SHARED = TESTS.parent.parent / "shared" / "data"
"""Third-party data beside the repository. A test that needs it fails where it is missing."""


class Row(NamedTuple):
    """One vector."""

    id: str
    kind: str | None
    input: dict[str, Any]
    expected: Any
    profile: list[str]


def load_rows(name: str, *, profile: str | None = None, kind: str | None = None) -> list[Row]:
    """The vectors of one file that hold for a profile and are of a kind; never none at all."""
    lines = (TESTS / "data" / "vectors" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    raw = [json.loads(line) for line in lines]
    rows = [Row(r["id"], r.get("kind"), r["input"], r["expected"], r["profile"]) for r in raw]
    chosen = [
        row
        for row in rows
        if (profile is None or profile in row.profile) and (kind is None or kind == row.kind)
    ]
    assert chosen, f"no vectors in {name} for {profile=} {kind=}"
    return chosen
