"""The logits processor that vLLM loads for us: with its classes and tensors, without a server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.serving.vllm import PLUGIN_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator

tokens = st.lists(st.integers(0, 11), max_size=8)


@pytest.fixture(scope="module")
def runners() -> Iterator[Any]:
    """`penalty_runners`; the plugin is found as in a server: through the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, PLUGIN_FOLDER])
        from tests.integration import penalty_runners

        yield penalty_runners


@settings(deadline=None)
@given(tokens.filter(bool), tokens, st.floats(-2, 2).filter(bool))
def test_first_runner(runners: Any, first: list[int], since: list[int], penalty: float) -> None:
    """At each step what the first part generated is penalised once, by vLLM or by us."""
    processor, output = runners.first_runner(), [-1]
    own, other = runners.params(first, penalty=penalty), runners.params()
    processor.update_state(runners.update(2, [(1, own, None, output), (0, other, None, [])]))
    for step, token in enumerate([*since, 0]):
        logits = processor.apply(runners.zeros(2))
        assert runners.is_expected(logits[0])
        assert runners.is_expected(logits[1], first, since[:step], penalty)
        output[step:] = [token, -1]  # the place of the next one is held
        processor.update_state(None)


@settings(deadline=None)
@given(tokens.filter(bool), tokens, st.floats(-2, 2).filter(bool))
def test_second_runner(runners: Any, first: list[int], since: list[int], penalty: float) -> None:
    """As with the first one, by slot and by the runner's record of the sequence."""
    processor = runners.second_runner(runners.sequences(5, 3, since))
    assert not processor.add_request(1, runners.params())
    assert processor.add_request(3, runners.params(first, penalty=penalty))
    processor.apply(runners.zeros(2), runners.context([1, 3], [9, 12]))  # reading the prompt
    for step in range(len(since) + 1):
        logits = processor.apply(runners.zeros(2), runners.context([1, 3], [9, 20 + step]))
        assert runners.is_expected(logits[0])
        assert runners.is_expected(logits[1], first, since[:step], penalty)
    assert not processor.add_request(3, runners.params()), "the slot is somebody else's now"
    logits = processor.apply(runners.zeros(1), runners.context([3], [40]))
    assert runners.is_expected(logits[0])


def test_second_runner_catches_up(runners: Any) -> None:
    """A request that vLLM itself had put aside comes back with tokens that it generated before."""
    processor = runners.second_runner(runners.sequences(2, 0, [4, 5, 4]))
    processor.add_request(0, runners.params([3, 4, 5, 6]))
    logits = processor.apply(runners.zeros(1), runners.context([0], [23]))
    assert runners.is_expected(logits[0], [3, 4, 5, 6], [4, 5])


@settings(deadline=None)
@given(data=st.data())
def test_requests_come_go_and_move(runners: Any, data: st.DataObject) -> None:
    """Whatever the first runner does to its batch, each place has the penalties of who is there."""
    processor = runners.first_runner()
    batch: dict[int, list[int]] = {}
    for _ in range(data.draw(st.integers(1, 12))):
        removed = [place for place in batch if data.draw(st.booleans())]
        for place in removed:
            del batch[place]
        free = [place for place in range(24) if place not in batch and place not in removed]
        new = {
            place: data.draw(tokens.filter(bool)) for place in free[: data.draw(st.integers(0, 9))]
        }
        batch |= new
        added = [(place, runners.params(first), None, []) for place, first in new.items()]
        moved = []
        if batch and data.draw(st.booleans()):
            a, b = data.draw(st.sampled_from(sorted(batch))), data.draw(st.integers(0, 23))
            moved = [(a, b, runners.SWAP)]
            one, other = batch.pop(a), batch.pop(b, None) if a != b else None
            batch |= {b: one} | ({a: other} if other is not None else {})
        processor.update_state(runners.update(24, added, removed, moved))
        logits = processor.apply(runners.zeros(24))
        for place in range(24):
            assert runners.is_expected(logits[place], batch.get(place, ()))


def test_rows_grow_with_what_they_hold(runners: Any) -> None:
    """A long answer knows more ids than any before it."""
    processor = runners.first_runner()
    wide = list(range(1000))
    added = [(0, runners.params([3]), None, []), (1, runners.params(wide), None, [])]
    processor.update_state(runners.update(2, added))
    logits = processor.apply(runners.zeros(2, 1200))
    assert logits[0].nonzero().flatten().tolist() == [3]
    assert logits[1].nonzero().flatten().tolist() == wide
