"""SciCode's texts: every vector of the extraction, and programs that hold what they must in order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.scoring.scicode_code import HELPERS, assemble, extract_code, render_program
from tests.unit.vectors import Row, load_rows

VECTORS = load_rows("scicode_extraction", profile="card")
FILE = Path("/data/test_data.h5")
WORDS = st.sampled_from(
    ["```", "```python", "\n", " ", "import os", "from a import b", "x = 1", "def f():", "é", "``"]
)


@pytest.mark.parametrize("row", VECTORS, ids=[row.id for row in VECTORS])
def test_extraction_vectors(row: Row) -> None:
    """Code out of a reply is that of the original, byte for byte."""
    assert extract_code(row.input["text"]) == row.expected


def test_both_profiles_extract_alike() -> None:
    """No vector tells the profiles apart, so nothing here asks for one."""
    assert [row.id for row in load_rows("scicode_extraction", profile="fixed")] == [
        row.id for row in VECTORS
    ]


@given(st.lists(WORDS).map("".join))
def test_code_is_a_part_of_the_reply_without_imports(reply: str) -> None:
    """Nothing is invented, no fence stays in a block, and no line begins with an import."""
    code = extract_code(reply)
    assert len(code) <= len(reply)
    assert "```" not in code
    assert re.search(r"^\s*(import |from .*\simport )", code, re.MULTILINE) is None


def test_solution_has_the_codes_in_order() -> None:
    """Imports, the steps before, an empty line, the step itself; the first step has none before."""
    assert assemble("import a", [], "A") == "import a\n\nA"
    assert assemble("import a", ["A", "B"], "C") == "import a\nA\nB\n\nC"


def test_program_is_solution_helpers_and_tests() -> None:
    """In this order; each test has its target, and imports of the original's package are left out."""
    tests = [
        "assert f() == target",
        "from scicode.compare.cmp import x\n  import scicode\nassert y",
    ]
    text = render_program("def f(): pass", "13.7", tests, FILE)
    before, _, after = text.partition(HELPERS)
    assert before == "def f(): pass\n"
    assert after == (
        "\nTARGETS_FILE = '/data/test_data.h5'\n"
        "targets = process_hdf5_to_tuple('13.7', 2)\n"
        "target = targets[0]\n\nassert f() == target\n"
        "target = targets[1]\n\nassert y\n"
    )
    compile(text, "step", "exec")


def test_only_imports_of_the_package_are_left_out() -> None:
    """Another module's, or a line that only mentions it, stays."""
    kept = "import scicodes\nfrom scicode_x import y\n# import scicode\nimport itertools"
    assert kept in render_program("", "1.1", [kept], FILE)
