"""The problems of SciCode: where they are found, what a row must hold, and the three given steps.

The data set is two files, read as one: the 15 problems of `problems_dev.jsonl`, which have solutions,
before the 65 of `problems_test.jsonl`. They are a folder of the user's, or in the wheel
`nvidia-scicode` (which is looked for and never imported), or on the hub. Which of them makes no
difference: the checksum is the same.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from importlib import resources
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from evalkit.benchmarks.data import DataSource, Located
from evalkit.benchmarks.fields import field, text_field
from evalkit.errors import DataError
from evalkit.scoring.vendored import vendored_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.benchmarks.data import DataAccess, Rows

FILES = ("problems_dev.jsonl", "problems_test.jsonl")
PACKAGE = "scicode"
PACKAGE_FILES = ("problems_dev.jsonl", "problems_all.jsonl")
"""As the wheel names them: its second file has the 65 of `problems_test.jsonl`, not all."""
WHEEL = "nvidia-scicode"
WHEEL_FOLDER = vendored_folder("scicode-data")
"""Where `scripts/setup_env --extras scicode` unpacks it."""
SOURCE = DataSource(
    hub="SciCode1/SciCode",
    revision="4510f6a6aa27c43fad7b43da2c59602a86e88480",
    file=" + ".join(FILES),
    known={
        "a18bc0242a131b45f98e5c1501dcc65da32bccaa0bac2f696d36ad440db0c039": (
            "80 problems: problems_dev.jsonl (193968af…), then problems_test.jsonl (38797fef…)"
        )
    },
    formats=f"a folder with {FILES[0]} and {FILES[1]}, or one JSON Lines file with the rows of both",
)
PREFILLED: Mapping[str, str] = {
    "13.6": "8913e2873c2279082e9d293f4de49c5d9716a133ff207b591a3e2597f25e466c",
    "62.1": "8f622de83adde9a9cf535125a87690ca6bbd5c63dffb231bc4a1f59f835617d9",
    "76.3": "ff372b004368f5e2dfa3133ea9c9d285b53776360dbabd77f09b9aac34f16cc1",
}
"""sha256 of the code of the steps that every model is given: neither asked for nor scored."""


class Step(TypedDict):
    """One step of a problem, as it is frozen with the sample."""

    number: str
    description: str
    background: str
    """Empty for a step without one."""
    header: str
    """Of the function to write; empty for a given step."""
    return_line: str
    tests: list[str]
    """Python sources."""
    prefilled: str | None
    """The code of a given step."""


def read_problems(access: DataAccess, licence: str) -> Rows:
    """The rows of both files, in order. Raises DataError."""
    return access.read(_locate(access), SOURCE, licence)


def parse_steps(row: Mapping[str, Any], where: str) -> list[Step]:
    """The steps of a row. Raises DataError for one that is not SciCode's."""
    problem = text_field(row, "problem_id", where)
    rows = field(row, "sub_steps", where)
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{where}: 'sub_steps' must be a list of steps, found {rows!r}")
    return [
        _parse_step(step, f"{problem}.{number}", where) for number, step in enumerate(rows, start=1)
    ]


def gold_codes(row: Mapping[str, Any]) -> dict[str, str] | None:
    """The solutions of a row's steps by number, or None where not all of them have one."""
    steps = row["sub_steps"]
    if not all(isinstance(step.get("ground_truth_code"), str) for step in steps):
        return None
    return {step["step_number"]: step["ground_truth_code"] for step in steps}


def _locate(access: DataAccess) -> Located:
    if access.path is not None:
        return Located(_named_files(access.path), access.path.name)
    in_package = _package_files() if access.revision is None else None
    if in_package is not None:
        return Located(in_package, WHEEL)
    # The checksum is known, so it is asked of the hub as well.
    return replace(access.from_hub(SOURCE, FILES), is_pinned=False)


def _named_files(path: Path) -> tuple[Path, ...]:
    if path.is_file():
        return (path,)
    for names in (FILES, PACKAGE_FILES):
        found = tuple(path / name for name in names)
        if all(file.is_file() for file in found):
            return found
    raise DataError(
        f"scicode: {path} is no data file, nor a folder with {' and '.join(FILES)}",
        hint="A relative data.path starts at the recipe's folder.",
    )


def _search_path() -> list[str]:
    return [*sys.path, str(WHEEL_FOLDER)]


def _package_files() -> tuple[Path, ...] | None:
    """The files in the installed wheel, or None. Finding a package runs nothing of it."""
    spec = PathFinder.find_spec(PACKAGE, _search_path())
    for folder in (spec and spec.submodule_search_locations) or ():
        found = tuple(Path(folder) / "data" / name for name in PACKAGE_FILES)
        if all(file.is_file() for file in found):
            return found
    return None


def _parse_step(step: Any, number: str, where: str) -> Step:
    if not isinstance(step, dict):
        raise DataError(f"{where}: step {number} must be an object, found {step!r}")
    where = f"{where}: step {number}"
    found = text_field(step, "step_number", where)
    if found != number:
        raise DataError(f"{where} is numbered {found!r}: steps count from 1, in order")
    given = _prefilled(number) if number in PREFILLED else None
    background = field(step, "step_background", where)
    return Step(
        number=number,
        description=text_field(step, "step_description_prompt", where),
        background=background if isinstance(background, str) else "",
        header="" if given is not None else text_field(step, "function_header", where),
        return_line="" if given is not None else text_field(step, "return_line", where),
        tests=[] if given is not None else _tests(step, where),
        prefilled=given,
    )


def _tests(step: Mapping[str, Any], where: str) -> list[str]:
    tests = field(step, "test_cases", where)
    if not isinstance(tests, list) or not tests or not all(isinstance(t, str) for t in tests):
        raise DataError(f"{where}: 'test_cases' must be a list of programs, found {tests!r}")
    return tests


def _prefilled(number: str) -> str:
    """The code of a given step; see prefilled/SOURCES.md."""
    file = resources.files("evalkit.benchmarks") / "prefilled" / f"{number}.txt"
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != PREFILLED[number]:
        raise DataError(
            f"scicode: the shipped code of step {number} has sha256 {digest}, "
            f"evalkit ships {PREFILLED[number]}",
            hint="The installed package was altered: install it again.",
        )
    return content.decode()
