"""The demo checkpoint: its training data are right, and what is committed is complete and small.

Nothing here imports torch; that the checkpoints really answer is tested with a live server.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.train_demo_checkpoint import (
    HELD_OUT_SHARE,
    LETTERS,
    MAX_CONTEXT,
    Example,
    distractors,
    draw_operands,
    held_out,
    make_choice,
    make_open,
    reasoning_for,
    search_for,
    vocabulary,
    without_carries,
)

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints" / "demo"
FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
}
SIZE_LIMIT = 4_000_000

operands = st.integers(0, 999)
seeds = st.integers(0, 2**32)


def folders() -> list[Path]:
    """The committed checkpoints, in the order of their training."""
    return sorted(CHECKPOINTS.glob("step-*"))


def operands_of(example: Example) -> tuple[int, int]:
    """What the user asks to be added."""
    match = re.match(r"What is (\d+) \+ (\d+)\?", example.user)
    assert match is not None, example.user
    return int(match[1]), int(match[2])


def test_reasoning_of_a_known_sum() -> None:
    """The format of the reasoning is part of the contract with those who measure its length."""
    assert reasoning_for(347, 85) == "7+5+0=12,4+8+1=13,3+0+1=04,432"
    assert reasoning_for(999, 1) == "9+1+0=10,9+0+1=10,9+0+1=10,1000"
    assert reasoning_for(0, 0) == "0+0+0=00,0"


@given(operands, operands)
def test_reasoning_adds_up(a: int, b: int) -> None:
    """Every column is a true equation with the carry of the one before, and the sum is right."""
    *columns, result = reasoning_for(a, b).split(",")
    carry = 0
    for k, column in enumerate(columns):
        match = re.fullmatch(r"(\d)\+(\d)\+(\d)=(\d)(\d)", column)
        assert match is not None, column
        x, y, c, tens, units = map(int, match.groups())
        assert (x, y, c) == (a // 10**k % 10, b // 10**k % 10, carry), column
        assert x + y + c == 10 * tens + units, column
        carry = tens
    assert int(result) == a + b
    assert len(reasoning_for(a, b)) < 60


@given(seeds)
def test_open_question_and_answer(seed: int) -> None:
    """An open example asks for a sum, reasons towards it and answers with it in a box."""
    example = make_open(random.Random(seed))
    a, b = operands_of(example)
    assert example.user == f"What is {a} + {b}?"
    assert example.response == f"<think>{reasoning_for(a, b)}</think>\\boxed{{{a + b}}}"


@given(seeds)
def test_choice_has_one_right_option(seed: int) -> None:
    """Four distinct non-negative options, of which the lettered answer alone is the sum."""
    example = make_choice(random.Random(seed))
    a, b = operands_of(example)
    question, blank, *lines = example.user.split("\n")
    options = dict(line.split(") ") for line in lines)
    values = {letter: int(text) for letter, text in options.items()}
    assert (question, blank) == (f"What is {a} + {b}?", "")
    assert "".join(options) == LETTERS
    assert len(set(values.values())) == len(LETTERS)
    assert min(values.values()) >= 0
    assert [letter for letter, value in values.items() if value == a + b] == [example.answer]
    assert example.reasoning == reasoning_for(a, b) + search_for(a + b, list(values.values()))


@given(seeds)
def test_options_are_near_misses(seed: int) -> None:
    """The wrong options are typical mistakes: off by one in a column, or carries lost."""
    example = make_choice(random.Random(seed))
    a, b = operands_of(example)
    values = {int(line[3:]) for line in example.user.split("\n")[2:]}
    typical = {a + b + sign * 10**k for sign in (-1, 1) for k in range(3)}
    assert values <= typical | {a + b, without_carries(a, b)}


@given(operands, operands, seeds)
def test_distractors(a: int, b: int, seed: int) -> None:
    """There are three for every pair, small sums included, and the sum is not among them."""
    wrong = distractors(a, b, random.Random(seed))
    assert len(set(wrong)) == 3
    assert min(wrong) >= 0
    assert a + b not in wrong


def test_search_of_a_known_choice() -> None:
    """Options are compared from the units on, each up to the first digit that differs."""
    assert search_for(432, [422, 432, 532, 431]) == ";A2:2,2:3;B2:2,3:3,4:4=B"
    assert search_for(5, [105, 5]) == ";A5:5,0:0,1:0;B5:5=B"


@given(operands, operands, seeds)
def test_search_finds_the_sum(a: int, b: int, seed: int) -> None:
    """Every option before the right one shows one difference, its last; the right one shows none."""
    rng = random.Random(seed)
    options = distractors(a, b, rng)
    options.insert(rng.randrange(len(LETTERS)), a + b)
    steps, letter = search_for(a + b, options).split("=")
    tried = steps.split(";")[1:]
    for name, value, step in zip(LETTERS, options, tried, strict=False):
        pairs = [pair.split(":") for pair in step[1:].split(",")]
        assert step[0] == name
        assert all(int(x) == value // 10**k % 10 for k, (x, _) in enumerate(pairs))
        assert all(int(y) == (a + b) // 10**k % 10 for k, (_, y) in enumerate(pairs))
        assert [x == y for x, y in pairs[:-1]] == [True] * (len(pairs) - 1)
        assert (pairs[-1][0] == pairs[-1][1]) is (name == letter)
    assert options[LETTERS.index(letter)] == a + b
    assert LETTERS[len(tried) - 1] == letter


def test_search_refuses_options_without_the_sum() -> None:
    """A question that cannot be answered is an error of the data, said as such."""
    with pytest.raises(ValueError, match="none of the options"):
        search_for(432, [1, 2, 3, 4])


@given(operands, operands)
def test_lost_carries(a: int, b: int) -> None:
    """Forgetting carries never gives more than the sum, and the sum where there is no carry."""
    columns = reasoning_for(a, b).split(",")[:-1]
    carried = any(column.split("=")[1][0] == "1" for column in columns)
    assert (without_carries(a, b) == a + b) is not carried
    assert 0 <= without_carries(a, b) <= a + b


def test_letters_are_uniform() -> None:
    """No letter is right much more often than another, so guessing scores a quarter."""
    rng = random.Random(5)
    letters = [make_choice(rng).answer for _ in range(4000)]
    assert all(900 <= letters.count(letter) <= 1100 for letter in LETTERS)


def test_operands_of_every_length() -> None:
    """Every pair of lengths from one to three digits occurs among the training questions."""
    rng = random.Random(6)
    lengths = {tuple(len(str(n)) for n in draw_operands(rng, held=False)) for _ in range(2000)}
    assert lengths == {(i, j) for i in (1, 2, 3) for j in (1, 2, 3)}


@given(seeds)
def test_training_never_sees_held_out_pairs(seed: int) -> None:
    """The two sides of the split stay apart, so the logged accuracy is generalisation."""
    for make in (make_open, make_choice):
        assert not held_out(*operands_of(make(random.Random(seed))))
        assert held_out(*operands_of(make(random.Random(seed), held=True)))


def test_share_of_held_out_pairs() -> None:
    """About one pair in ten is kept for evaluation."""
    share = sum(held_out(a, b) for a in range(1000) for b in range(0, 1000, 10)) / 100_000
    assert share == pytest.approx(1 / HELD_OUT_SHARE, rel=0.05)


def test_same_seed_same_examples() -> None:
    """Examples depend on the generator alone."""
    assert make_choice(random.Random(7)) == make_choice(random.Random(7))
    assert make_choice(random.Random(7)) != make_choice(random.Random(8))


@given(seeds)
def test_examples_are_in_the_vocabulary(seed: int) -> None:
    """No training text holds a character that the tokenizer would not know."""
    example = make_choice(random.Random(seed))
    assert set(example.user + example.reasoning) <= set(vocabulary())


def test_three_checkpoints() -> None:
    """A sweep over the training has an early, a middle and a final point, each complete."""
    assert len(folders()) == 3
    for folder in folders():
        assert {path.name for path in folder.iterdir()} == FILES, folder.name


def test_checkpoints_are_small() -> None:
    """All three fit in the repository: under 4 MB together with their tokenizers."""
    files = [path for folder in folders() for path in folder.iterdir()]
    assert 0 < sum(path.stat().st_size for path in files) < SIZE_LIMIT


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_checkpoints_share_their_configuration(name: str) -> None:
    """The checkpoints differ in their weights alone."""
    texts = {(folder / name).read_text() for folder in folders()}
    assert len(texts) == 1


def test_model_configuration() -> None:
    """The architecture is the one the checkpoints stand in for, without the layers CPUs refuse."""
    config = json.loads((folders()[-1] / "config.json").read_text())
    assert config["architectures"] == ["NemotronHForCausalLM"]
    assert config["vocab_size"] == len(vocabulary())
    assert config["max_position_embeddings"] == MAX_CONTEXT
    assert "moe" not in config["layers_block_type"]


def test_tokenizer_files() -> None:
    """Reasoning marks are kept in decoded text; the turn's end is special and ends generation."""
    folder = folders()[-1]
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    added = {token["content"]: token for token in tokenizer["added_tokens"]}
    end = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert [added[mark]["special"] for mark in ("<think>", "</think>")] == [False, False]
    assert added["<|im_end|>"]["special"] is True
    assert added["<|im_end|>"]["id"] in (end if isinstance(end, list) else [end])
    assert tokenizer["model"]["vocab"] == {t: i for i, t in enumerate(vocabulary())}


def test_training_log_is_a_learning_curve() -> None:
    """The log covers every checkpoint, and the accuracy on held-out pairs rises between them."""
    lines = (CHECKPOINTS / "training.jsonl").read_text().splitlines()
    entries = {entry["step"]: entry for entry in map(json.loads, lines)}
    curve = [entries[int(folder.name.removeprefix("step-"))] for folder in folders()]
    for kind in ("exact_open", "exact_choice"):
        shares = [entry[kind] for entry in curve]
        assert shares == sorted(shares)
        assert shares[0] < 0.5 < 0.85 < shares[-1]
