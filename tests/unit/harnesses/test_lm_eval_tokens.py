"""Texts become the token ids that lm-eval's own models for APIs would ask about."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from evalkit.benchmarks.contract import ServedModel
from evalkit.errors import PlanError, RecipeError
from evalkit.harnesses.lm_eval_tokens import Pair, Tokens, find_tokenizer

FOLDER = Path(__file__).parents[3] / "checkpoints" / "demo" / "step-1600"
PREFIX = 3


class Letters:
    """A tokenizer with a token for each character."""

    class _Encoded:
        def __init__(self, ids: list[int]) -> None:
            self.ids = ids

    def encode(self, text: str, add_special_tokens: bool) -> _Encoded:
        assert not add_special_tokens
        return self._Encoded([ord(char) for char in text])


def letters() -> Tokens:
    return Tokens(Letters(), PREFIX, Path("tokenizer.json"))


def ids(text: str) -> list[int]:
    return [ord(char) for char in text]


def test_spaces_at_the_end_of_the_context_belong_to_the_continuation() -> None:
    assert letters().pair("Q:  ", "A", None) == Pair(ids("Q:"), ids("  A"))


def test_the_whole_is_split_after_as_many_tokens_as_the_context_has() -> None:
    """With a real tokenizer, whose merges may reach over the border."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    pair = Tokens.of(FOLDER).pair("1 + 2 =", " 3", None)
    whole = tokenizer.encode("1 + 2 = 3", add_special_tokens=False).ids
    given = tokenizer.encode("1 + 2 =", add_special_tokens=False).ids
    assert pair == Pair(given, whole[len(given) :])


def test_a_text_alone_follows_the_prefix_token() -> None:
    assert letters().pair("", "ab", None) == Pair([PREFIX], ids("ab"))
    assert letters().pair("", chr(PREFIX) + "b", None) == Pair([PREFIX], ids("b"))


def test_the_last_tokens_are_kept() -> None:
    assert letters().pair("abcdef", "gh", 6) == Pair(ids("def"), ids("gh"))
    with pytest.raises(PlanError, match=r"2 tokens leaves no room .* params.max_length 3"):
        letters().pair("abcdef", "gh", 3)


@given(st.integers(0, 40), st.integers(3, 12))
def test_windows_ask_about_each_token_once_with_all_the_context_that_fits(
    n: int, max_length: int
) -> None:
    """As lm-eval's rolling windows with a context of at least one token."""
    text = "".join(chr(97 + i) for i in range(n))
    windows = letters().windows(text, max_length)
    assert [token for window in windows for token in window.continuation] == ids(text)
    everything = [PREFIX, *ids(text)]
    done = 0
    for window in windows:
        done += len(window.continuation)
        size = len(window.context) + len(window.continuation)
        assert size <= max_length - 1
        assert [*window.context, *window.continuation] == everything[done + 1 - size : done + 1]
    assert all(len(w.context) + len(w.continuation) == max_length - 1 for w in windows[1:])


def test_where_a_tokenizer_comes_from() -> None:
    assert find_tokenizer(ServedModel("folder", "/models/one"), None) == Path("/models/one")
    assert find_tokenizer(ServedModel("hosted", "m"), "/t/tokenizer.json") == Path("/t")
    with pytest.raises(RecipeError, match="hosted model m need its tokenizer"):
        find_tokenizer(ServedModel("hosted", "m"), None)


def test_a_folder_without_a_tokenizer_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(PlanError) as caught:
        Tokens.of(tmp_path)
    assert "params.tokenizer" in str(caught.value)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(PlanError, match="is no tokenizer"):
        Tokens.of(tmp_path)
