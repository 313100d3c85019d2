"""The letter of a multiple-choice answer, under each published order."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.scoring.boxed import last_boxed
from evalkit.scoring.multiple_choice import MCQ_ORDERS, McqOrder, extract_letter
from tests.unit.vectors import Row, load_rows

ORDER_OF: dict[str, McqOrder] = {
    "card": "regex_then_boxed",
    "ns-2511": "boxed_then_regex",
    "fixed": "answer_line_first",
}
CASES = [(row, profile) for row in load_rows("mcq_extraction") for profile in row.profile]
PIECES = st.one_of(
    st.sampled_from(
        ["The final answer is ", "Answer", "answer:", "\\boxed{", "\\text{", "option is "]
    ),
    st.sampled_from([*":}() \n*_$ABbJKx./1'", "is", "\\(", "\N{LATIN SMALL LETTER LONG S}"]),
)
TEXTS = st.lists(PIECES, max_size=25).map("".join)
LONG = 500_000
ADVERSARIAL = {
    "phrase on one line": "The final answer is " * (LONG // 20) + "\nx\ny",
    "phrase on many lines": "The final answer is A\n" * (LONG // 22) + "x",
    "spaces after answer": "Answer" + " " * LONG + "x",
    "spaces after colon": "Answer:" + " " * LONG + "x",
    "stars after colon": "Answer:" + "*" * LONG + "x",
    "newlines after colon": "answer:" + "\n" * LONG + "x",
    "only spaces": " " * LONG,
    "spaces after is": "the answer is" + " " * LONG + "x",
    "spaces after each is": ("answer is" + " " * 5_000 + "x") * (LONG // 5_010),
    "capitals in a box": "\\boxed{" + "A " * (LONG // 2) + "x" * 100 + "}",
    "capital before filler in a box": "\\boxed{" + "A " * 1_000 + "x " * (LONG // 2) + "}",
    "brackets in a box": "\\boxed{" + "(" * (LONG // 2) + ")" * (LONG // 2) + "}",
    "boxes in a box": "\\boxed{" * (LONG // 7),
    "closed boxes in a box": "\\boxed{" * (LONG // 8) + "}" * (LONG // 8),
    "text commands": "answer:" + "\\text{" * (LONG // 6) + "x",
    "lower letter and brackets": "answer: a" + ")" * LONG + "x",
    "lower letter and newlines": "answer: a" + "\n" * LONG + "x",
    "letter before a far slash": "answer: A" + " " * LONG + "/ x",
    "many answers": "Answer: A " * (LONG // 10),
    "dollars in a box": "\\boxed{" + "$ " * (LONG // 2) + "}",
}


@pytest.mark.parametrize(
    ("row", "profile"), CASES, ids=[f"{row.id}-{profile}" for row, profile in CASES]
)
def test_vector(row: Row, profile: str) -> None:
    """Each vector gives its letter under every profile it names."""
    letter = extract_letter(row.input["text"], row.input["n_options"], ORDER_OF[profile])
    assert letter == row.expected


def original(text: str, *, regex_first: bool) -> str | None:
    """The search as the published rules word it, quadratic patterns included."""
    phrases = re.findall(r"The final answer is (.+)$", text)
    phrase = phrases[-1] if phrases else None
    found = (phrase or last_boxed(text)) if regex_first else (last_boxed(text) or phrase)
    if found and len(found) == 1:
        return found
    if found:
        alone = re.findall(r"\b[A-Z]\b(?!.*\b[A-Z]\b)", found, re.DOTALL)
        if alone:
            return str(alone[-1])
    lines = re.findall(
        r"(?i)[\*\_]{0,2}Answer[\*\_]{0,2}\s*:[\s\*\_]{0,2}\s*([A-Z])(?![a-zA-Z0-9])", text
    )
    return str(lines[-1]).upper() if lines else None


@settings(max_examples=500)
@given(TEXTS)
def test_linear_search_equals_the_published_patterns(text: str) -> None:
    """The linear searches find what the published patterns find, on any text."""
    assert extract_letter(text, 10, "regex_then_boxed") == original(text, regex_first=True)
    assert extract_letter(text, 10, "boxed_then_regex") == original(text, regex_first=False)


def published_is_letters(text: str) -> list[str]:
    """The third pattern of the `fixed` order as its definition words it."""
    wrap = r"(?:[\s*_$]|\\\(|\\\[|\\boxed\s*\{|\\(?:text|textbf|mathrm|mathbf)\s*\{|[({\[])*"
    start = r"(?i:(?:final|correct)?\s*(?:answer|option|choice)\s+is)\s*:?"
    return re.findall(start + wrap + r"([A-J])(?![A-Za-z0-9_'])", text)


@given(
    st.lists(
        st.sampled_from(
            ["final ", "correct", " ", "option is", "choice is ", ":", "A", "B", "(", "x"]
        ),
        max_size=15,
    )
)
def test_linear_is_pattern_equals_its_definition(pieces: list[str]) -> None:
    """Dropping the optional words before "answer is" changes no letter."""
    text = "".join(pieces)
    letters = published_is_letters(text)
    assert extract_letter(text, 10, "answer_line_first") == (letters[-1] if letters else None)


@given(TEXTS, st.integers(1, 10))
def test_fixed_order_gives_only_letters_the_item_has(text: str, n_options: int) -> None:
    """The `fixed` profile never answers with a letter that is no option."""
    letter = extract_letter(text, n_options, "answer_line_first")
    assert letter is None or letter in "ABCDEFGHIJ"[:n_options]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("\\boxed{(A) or (B)}", None),
        ("\\boxed{((C))}", "C"),
        ("\\boxed{((C)}", None),
        ("\\boxed{$\\mathbf{d}$.}", "D"),
        ("\\boxed{\\text{A} B}", None),
        ("Answer: A\nNo, wait. Answer: B", "B"),
        ("Answer: A/B/C/D", None),
        ("the correct option is C\nThe answer is unclear", "C"),
        ("Answer: I've no idea", None),
        ("\\boxed{Z} but the answer is B", "B"),
    ],
)
def test_fixed_order(text: str, letter: str | None) -> None:
    """The answer line wins, then the last box, then a statement; wrappings are peeled in pairs."""
    assert extract_letter(text, 10, "answer_line_first") == letter


@pytest.mark.timeout(30)
@pytest.mark.parametrize("order", MCQ_ORDERS)
@pytest.mark.parametrize("text", ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_half_a_megabyte_of_repetition_ends(text: str, order: McqOrder) -> None:
    """A model that repeats itself for 500 kB costs linear time: quadratic would take many minutes."""
    letter = extract_letter(text, 10, order)
    assert letter is None or len(letter) == 1


@pytest.mark.parametrize("n_options", [0, 11])
def test_impossible_number_of_options(n_options: int) -> None:
    """The number of options must be one that letters exist for."""
    with pytest.raises(ValueError, match="n_options must be 1 to 10"):
        extract_letter("Answer: A", n_options, "answer_line_first")


def test_unknown_order_names_the_known_ones() -> None:
    """A mistyped order is answered with the right ones."""
    with pytest.raises(ValueError, match="regex_then_boxed, boxed_then_regex, answer_line_first"):
        extract_letter("Answer: A", 4, "first")  # type: ignore[arg-type]
