"""The logits processor that vLLM loads for us: with its classes and tensors, without a server.

vLLM's CPU build has the first model runner only. For the second one its own loader, interface and
context are used here, with tensors of the CPU in the places that a runner fills.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
from vllm.v1.sample.logits_processor import _load_logitsprocs_by_fqcns as load_first
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext
from vllm.v1.worker.gpu.sample.logits_processor.loader import (
    _load_v2_logitsprocs_by_fqcns as load_second,
)

from evalkit.serving.vllm import PLUGIN, PLUGIN_FOLDER

if TYPE_CHECKING:
    from collections.abc import Sequence

VOCABULARY = 12
CPU = torch.device("cpu")
tokens = st.lists(st.integers(0, VOCABULARY - 1), max_size=8)


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin is found as in a server: through the path."""
    monkeypatch.setattr(sys, "path", [*sys.path, PLUGIN_FOLDER])


def params(first: Sequence[int] = (), prompt: int = 20, penalty: float = 1.5) -> SamplingParams:
    """What a continuation is sampled with, or, without `first`, any other request."""
    extra = {"evalkit_generated": sorted(set(first)), "evalkit_prompt": prompt} if first else None
    return SamplingParams(presence_penalty=penalty, extra_args=extra)


def expected(first: Sequence[int], since: Sequence[int], penalty: float) -> torch.Tensor:
    """What must come on top of vLLM's own penalties: first tokens that were not generated again."""
    row = torch.zeros(VOCABULARY)
    row[sorted(set(first) - set(since))] = -penalty
    return row


def first_runner() -> Any:
    """The processor as the first model runner makes it."""
    [cls] = load_first([PLUGIN])
    return cls(SimpleNamespace(), CPU, False)  # type: ignore[arg-type]


def second_runner(sequences: torch.Tensor) -> Any:
    """The processor as the second model runner makes it; `sequences`: [slots, length]."""
    [cls] = load_second([PLUGIN])
    states = SimpleNamespace(device=CPU, all_token_ids=SimpleNamespace(gpu=sequences))
    return cls(SimpleNamespace(), states)  # type: ignore[arg-type]


def context(slots: Sequence[int], lengths: Sequence[int]) -> LogitsContext:
    """A step with these slots in the batch, whose sequences are so long."""
    mapping = torch.tensor(slots)
    nothing = torch.zeros(len(slots), dtype=torch.int64)
    return LogitsContext(
        expanded_idx_mapping=mapping,
        idx_mapping=mapping,
        idx_mapping_np=np.array(slots),
        expanded_local_pos=nothing,
        input_ids=nothing,
        pos=nothing,
        seq_lens_upper_bound_np=np.array(lengths),
    )


@settings(deadline=None)
@given(tokens.filter(bool), tokens, st.floats(-2, 2).filter(bool))
def test_first_runner(first: list[int], since: list[int], penalty: float) -> None:
    """At each step what the first part generated is penalised once, by vLLM or by us."""
    processor, output = first_runner(), [-1]
    added = [(1, params(first, penalty=penalty), None, output), (0, params(), None, [])]
    processor.update_state(BatchUpdate(batch_size=2, removed=[], added=added, moved=[]))
    for step, token in enumerate([*since, 0]):
        logits = processor.apply(torch.zeros(2, VOCABULARY))
        assert torch.equal(logits[0], torch.zeros(VOCABULARY))
        assert torch.equal(logits[1], expected(first, since[:step], penalty))
        output[step:] = [token, -1]  # the place of the next one is held
        processor.update_state(None)


@settings(deadline=None)
@given(tokens.filter(bool), tokens, st.floats(-2, 2).filter(bool))
def test_second_runner(first: list[int], since: list[int], penalty: float) -> None:
    """As with the first one, by slot and by the runner's record of the sequence."""
    sequences = torch.zeros(5, 40, dtype=torch.int32)
    sequences[3, 20 : 20 + len(since)] = torch.tensor(since, dtype=torch.int32)
    processor = second_runner(sequences)
    assert not processor.add_request(1, params())
    assert processor.add_request(3, params(first, penalty=penalty))
    processor.apply(torch.zeros(2, VOCABULARY), context([1, 3], [9, 12]))  # reading the prompt
    for step in range(len(since) + 1):
        logits = processor.apply(torch.zeros(2, VOCABULARY), context([1, 3], [9, 20 + step]))
        assert torch.equal(logits[0], torch.zeros(VOCABULARY))
        assert torch.equal(logits[1], expected(first, since[:step], penalty))
    assert not processor.add_request(3, params()), "the slot is somebody else's now"
    logits = processor.apply(torch.zeros(1, VOCABULARY), context([3], [40]))
    assert torch.equal(logits, torch.zeros(1, VOCABULARY))


def test_second_runner_catches_up() -> None:
    """A request that vLLM itself had put aside comes back with tokens that it generated before."""
    sequences = torch.zeros(2, 40, dtype=torch.int32)
    sequences[0, 20:23] = torch.tensor([4, 5, 4], dtype=torch.int32)
    processor = second_runner(sequences)
    processor.add_request(0, params([3, 4, 5, 6]))
    logits = processor.apply(torch.zeros(1, VOCABULARY), context([0], [23]))
    assert torch.equal(logits[0], expected([3, 4, 5, 6], [4, 5], 1.5))


@settings(deadline=None)
@given(st.data())
def test_requests_come_go_and_move(data: st.DataObject) -> None:
    """Whatever the first runner does to its batch, each place has the penalties of who is there."""
    processor = first_runner()
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
        added = [(place, params(first), None, []) for place, first in new.items()]
        moved = []
        if batch and data.draw(st.booleans()):
            a, b = data.draw(st.sampled_from(sorted(batch))), data.draw(st.integers(0, 23))
            moved = [(a, b, MoveDirectionality.SWAP)]
            one, other = batch.pop(a), batch.pop(b, None) if a != b else None
            batch |= {b: one} | ({a: other} if other is not None else {})
        processor.update_state(
            BatchUpdate(batch_size=24, removed=removed, added=added, moved=moved)
        )
        logits = processor.apply(torch.zeros(24, VOCABULARY))
        for place in range(24):
            assert torch.equal(logits[place], expected(batch.get(place, ()), (), 1.5))


def test_rows_grow_with_what_they_hold() -> None:
    """A long answer knows more ids than any before it."""
    processor = first_runner()
    wide = list(range(1000))
    added = [(0, params([3]), None, []), (1, params(wide), None, [])]
    processor.update_state(BatchUpdate(batch_size=2, removed=[], added=added, moved=[]))
    logits = processor.apply(torch.zeros(2, 1200))
    assert logits[0].nonzero().flatten().tolist() == [3]
    assert logits[1].nonzero().flatten().tolist() == wide
