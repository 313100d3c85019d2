"""The JSON Schema of `results.json`, generated from its classes and shipped beside them.

The shipped file is what tools validate against; a test keeps it equal to the classes. After a change
of the classes that old readers could trip over, raise `SCHEMA_VERSION` and ship a new file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from evalkit.meanings import field_meanings
from evalkit.report.artifacts import render_json
from evalkit.report.results import SCHEMA_VERSION, Results
from evalkit.store.publish import publish

if TYPE_CHECKING:
    from pydantic_core.core_schema import DataclassSchema, ModelSchema

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def shipped_schema_path() -> Path:
    """The schema file of the present version."""
    return Path(__file__).parent / "schemas" / f"results-{SCHEMA_VERSION}.json"


class _WithMeanings(GenerateJsonSchema):
    """The string below a field is its description."""

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        return _told(super().model_schema(schema), schema["cls"])

    def dataclass_schema(self, schema: DataclassSchema) -> JsonSchemaValue:
        return _told(super().dataclass_schema(schema), schema["cls"])


def _told(schema: JsonSchemaValue, cls: type) -> JsonSchemaValue:
    for name, text in field_meanings(cls).items():
        schema["properties"][name]["description"] = text
    return schema


def make_schema() -> dict[str, Any]:
    """The schema as the classes say it."""
    schema = Results.model_json_schema(mode="serialization", schema_generator=_WithMeanings)
    return {
        "$schema": DIALECT,
        **schema,
        "title": f"evalkit results.json, version {SCHEMA_VERSION}",
    }


def ship_schema() -> None:
    """Write the shipped file anew."""
    publish(shipped_schema_path(), render_json(make_schema()))
