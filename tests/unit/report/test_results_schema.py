"""The shipped JSON Schema is the classes' own, and refuses what they refuse."""

from pathlib import Path

import jsonschema
import orjson
import pytest

from evalkit.report.results import Results
from evalkit.report.schema import make_schema, shipped_schema_path
from tests.unit.report.run_builder import make_run


def test_the_shipped_schema_is_up_to_date() -> None:
    """After a change of the classes: python -c 'from evalkit.report.schema import *; ship_schema()'."""
    assert orjson.loads(shipped_schema_path().read_bytes()) == make_schema()


def test_the_schema_is_a_valid_schema() -> None:
    """Its own dialect accepts it."""
    jsonschema.Draft202012Validator.check_schema(make_schema())


@pytest.mark.parametrize(
    "change",
    [{"complete": None}, {"surprise": 1}, {"schema_version": 2}, {"headline": {}}],
)
def test_the_schema_refuses_what_is_no_result(tmp_path: Path, change: dict[str, object]) -> None:
    """A changed file of a real gather is not valid any more."""
    run = make_run(tmp_path)
    run.write_all()
    valid = run.gather().model_dump(mode="json")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(valid | change, make_schema())


@pytest.mark.parametrize("complete", [True, False])
def test_results_survive_a_round_trip(tmp_path: Path, complete: bool) -> None:
    """What was written is read back as the same value."""
    run = make_run(tmp_path)
    run.write(run.answer(key) for key in run.units()[: None if complete else 3])
    results = run.gather()
    content = run.folder.results("echo").read_bytes()
    assert Results.model_validate_json(content) == results
