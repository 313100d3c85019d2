"""Every vector of the three rules, and what holds for any answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.scoring.lcb import CodeBlock, extract_code
from tests.unit.vectors import Row, load_rows

RULES: dict[str, CodeBlock] = {
    "card": "first_ns",
    "ns-2512": "last_ns2512",
    "fixed": "last_closed",
}
CASES = [
    pytest.param(row, rule, id=f"{row.id}-{rule}")
    for profile, rule in RULES.items()
    for row in load_rows("lcb_code_extraction", profile=profile)
]
PIECES = st.sampled_from(
    ["```", "```python", "```py", "````", "\n", "\r", "print(1)", "<think>", "</think>", "  ", "`"]
)


@pytest.mark.parametrize(("row", "rule"), CASES)
def test_vector(row: Row, rule: CodeBlock) -> None:
    """The program that the original found."""
    assert extract_code(row.input["text"], rule) == row.expected


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\na\n```python\nb\n```", "b"),
        ("```py\na\n```\n```\nb\n```", "a"),
        ("```\na\n```\n```js\nb\n```", "a"),
        ("```js\nb\n```", ""),
        ("  ```Python3 title\na\n  ```", "a"),
        ("x ```python\na\n```\n", ""),
        ("</think>```python\na\n```", "a"),
        ("<think>a</think>b</think>\n```\nc\n```", "c"),
        ("````python\na\n````", "a"),
    ],
)
def test_last_closed(text: str, code: str) -> None:
    """Fences are lines; a tag within a block opens another one."""
    assert extract_code(text, "last_closed") == code


@given(st.lists(PIECES).map("".join), st.sampled_from(list(RULES.values())))
def test_any_answer(text: str, rule: CodeBlock) -> None:
    """A part of the answer without carriage returns and outer blanks, whatever the answer is."""
    code = extract_code(text, rule)
    assert code == code.strip()
    assert code in text.replace("\r", "")


@given(st.text(alphabet="abc \n", min_size=1))
def test_a_single_block_is_found_by_each_rule(code: str) -> None:
    """There is nothing to choose."""
    for rule in RULES.values():
        assert extract_code(f"So:\n```python\n{code}\n```\nDone.", rule) == code.strip()
