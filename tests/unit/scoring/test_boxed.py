"""The box that mathematics tasks read their answer from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.scoring.boxed import last_boxed, last_opened_box
from tests.unit.vectors import Row, load_rows

BOXY_TEXT = st.lists(
    st.sampled_from(["\\boxed", "{", "}", " ", "a", "\\boxed{", "\n"]), max_size=30
)


@pytest.mark.parametrize("row", load_rows("boxed_extraction"), ids=lambda row: row.id)
def test_vector(row: Row) -> None:
    """Every vector gives its content; all states of the harness agree on boxes."""
    assert last_boxed(row.input["text"]) == row.expected


def test_an_empty_box_is_an_empty_text() -> None:
    r"""\boxed{} holds the empty text, which is not the same as having no box."""
    assert last_boxed("\\boxed{}") == ""


def test_a_bare_later_box_hides_earlier_ones_only_in_the_original() -> None:
    r"""A \boxed without a brace ends the original's search and not the mended one."""
    text = "\\boxed{A} and \\boxed C"
    assert (last_boxed(text), last_opened_box(text)) == (None, "A")


@given(BOXY_TEXT)
def test_the_box_is_balanced_and_in_the_text(pieces: list[str]) -> None:
    """What is found stood in a box, and its braces are balanced at every point."""
    text = "".join(pieces)
    content = last_boxed(text)
    if content is None:
        return
    assert f"\\boxed{{{content}}}" in text
    depths = [
        content[:end].count("{") - content[:end].count("}") for end in range(len(content) + 1)
    ]
    assert min(depths) == 0 == depths[-1]


@given(st.text("ab{}\\ ", max_size=20).filter(lambda t: t.count("{") == t.count("}")))
def test_a_balanced_box_at_the_end_is_found(content: str) -> None:
    """A text in a final box comes back as it was, unless it closes before it opens."""
    depth = 0
    for character in content:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return
    assert last_boxed(f"so \\boxed{{{content}}}") == content


@pytest.mark.timeout(20)
def test_half_a_megabyte_of_braces_is_quick() -> None:
    """An unclosed box before half a megabyte of braces costs one pass."""
    assert last_boxed("\\boxed{" + "{" * 500_000) is None
    assert last_boxed("\\boxed{" * 70_000) is None
