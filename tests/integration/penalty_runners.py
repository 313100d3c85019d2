"""Both model runners of vLLM around our logits processor, and the numbers that it must give.

Apart from their tests: to import torch and vLLM takes ten seconds, which every process that collects
tests would spend.

vLLM's CPU build has the first model runner only. For the second one its own loader, interface and
context are used here, with tensors of the CPU in the places that a runner fills.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
from vllm.v1.sample.logits_processor import _load_logitsprocs_by_fqcns as load_first
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext
from vllm.v1.worker.gpu.sample.logits_processor.loader import (
    _load_v2_logitsprocs_by_fqcns as load_second,
)

from evalkit.serving.vllm import PLUGIN

if TYPE_CHECKING:
    from collections.abc import Sequence

VOCABULARY = 12
CPU = torch.device("cpu")
SWAP = MoveDirectionality.SWAP


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


def update(size: int, added: Any, removed: Sequence[int] = (), moved: Any = ()) -> BatchUpdate:
    """What the first model runner tells of its batch."""
    return BatchUpdate(batch_size=size, removed=list(removed), added=list(added), moved=list(moved))


def zeros(rows: int, width: int = VOCABULARY) -> torch.Tensor:
    """Logits that nobody has touched."""
    return torch.zeros(rows, width)


def is_expected(
    row: torch.Tensor, first: Sequence[int] = (), since: Sequence[int] = (), penalty: float = 1.5
) -> bool:
    """Whether a row of zeros has what must come on top, and nothing else."""
    return torch.equal(row, expected(first, since, penalty))


def sequences(slots: int, slot: int, tokens: Sequence[int]) -> torch.Tensor:
    """The second runner's record of all sequences: [slots, 40]; one has tokens behind its prompt of 20."""
    record = torch.zeros(slots, 40, dtype=torch.int32)
    record[slot, 20 : 20 + len(tokens)] = torch.tensor(tokens, dtype=torch.int32)
    return record
