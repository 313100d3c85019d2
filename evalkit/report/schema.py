"""The JSON Schema of `results.json`, generated from its classes and shipped beside them.

The shipped file is what tools validate against; a test keeps it equal to the classes. After a change
of the classes that old readers could trip over, raise `SCHEMA_VERSION` and ship a new file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evalkit.report.artifacts import render_json
from evalkit.report.results import SCHEMA_VERSION, Results
from evalkit.store.publish import publish

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def shipped_schema_path() -> Path:
    """The schema file of the present version."""
    return Path(__file__).parent / "schemas" / f"results-{SCHEMA_VERSION}.json"


def make_schema() -> dict[str, Any]:
    """The schema as the classes say it."""
    schema = Results.model_json_schema(mode="serialization")
    return {
        "$schema": DIALECT,
        **schema,
        "title": f"evalkit results.json, version {SCHEMA_VERSION}",
    }


def ship_schema() -> None:
    """Write the shipped file anew."""
    publish(shipped_schema_path(), render_json(make_schema()))
