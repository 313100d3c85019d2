"""Lets vLLM go on with a presence penalty where a generation was interrupted.

vLLM's presence penalty is on every token that the request has generated. In a continuation the tokens
of the first part are prompt, and vLLM lets them off. This logits processor lays the penalty on them,
until the continuation generates such a token itself and vLLM's own penalty begins: each token that
occurred is penalised once, as if there had been one generation. (A frequency penalty would be a sum of
two, with another rounding; such requests are not continued.)

It runs inside vLLM's processes: with nothing of evalkit but this file, which is found through
PYTHONPATH. vLLM has two model runners with an interface each and takes one of them by features of the
model, so this is a processor of both. A request asks for it by `vllm_xargs`:

    evalkit_generated  ids that the first part generated, each once
    evalkit_prompt     length of the continuation's prompt, tokens
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor as ProcessorV1
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

try:
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as ProcessorV2
except ImportError:  # a vLLM with one model runner
    ProcessorV2 = ProcessorV1

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.v1.sample.logits_processor import BatchUpdate
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext

GENERATED = "evalkit_generated"
PROMPT = "evalkit_prompt"
FIRST_ROWS = 8
FIRST_WIDTH = 256
BASES = (ProcessorV1,) if ProcessorV2 is ProcessorV1 else (ProcessorV1, ProcessorV2)


class Table:
    """Penalties that are still to be laid, a row per continuation: [rows, width] on the device.

    Rows are as wide as the widest; what is behind a shorter one's end adds 0 to token 0.
    """

    def __init__(self, device: torch.device) -> None:
        self._ids = torch.zeros(FIRST_ROWS, FIRST_WIDTH, dtype=torch.int64, device=device)
        self._bias = torch.zeros(FIRST_ROWS, FIRST_WIDTH, dtype=torch.float32, device=device)
        self._free = list(range(FIRST_ROWS))

    def take(self, ids: list[int], penalty: float) -> int:
        """A row for a continuation whose first part generated these ids."""
        rows, width = self._ids.shape
        if not self._free:
            self._free = list(range(rows, 2 * rows))
            rows *= 2
        while width < len(ids):
            width *= 2
        if (rows, width) != tuple(self._ids.shape):
            self._ids, self._bias = (_grown(old, rows, width) for old in (self._ids, self._bias))
        row = self._free.pop()
        self._ids[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
        self._ids[row, len(ids) :] = 0
        self._bias[row] = 0.0
        self._bias[row, : len(ids)] = -penalty
        return row

    def give_back(self, row: int) -> None:
        """A row is not needed any more."""
        self._free.append(row)

    def strike(self, rows: torch.Tensor, tokens: torch.Tensor) -> None:
        """From here on vLLM penalises these tokens itself: one [n] for each of different rows [n]."""
        left = self._bias[rows]
        self._bias[rows] = left.masked_fill_(self._ids[rows] == tokens[:, None], 0.0)

    def lay(self, logits: torch.Tensor, places: torch.Tensor, rows: torch.Tensor) -> None:
        """Add row `rows[i]` to `logits[places[i]]`, in place."""
        logits.index_put_((places[:, None], self._ids[rows]), self._bias[rows], accumulate=True)


def _grown(old: torch.Tensor, rows: int, width: int) -> torch.Tensor:
    new = torch.zeros(rows, width, dtype=old.dtype, device=old.device)
    new[: old.shape[0], : old.shape[1]] = old
    return new


class Continuation:
    """One continuation in the batch."""

    def __init__(self, row: int, seen: int, output: list[int] | None = None) -> None:
        self.row = row
        self.seen = seen
        """Tokens that were looked at: of `output`, else of the whole sequence."""
        self.output = output
        """The running list of generated tokens (first model runner)."""

    def next_token(self) -> int | None:
        """The next generated token that was not looked at; null while it is not there."""
        if self.output is None or self.seen >= len(self.output) or self.output[self.seen] < 0:
            return None  # a negative one holds the place of a token that is being computed
        self.seen += 1
        return self.output[self.seen - 1]


class ContinuedPenalties(*BASES):  # type: ignore[misc]
    """The processor, for both model runners."""

    def __init__(self, vllm_config: VllmConfig, *runner: Any) -> None:
        """`runner`: device and pinning (first model runner), or the states of requests (second)."""
        self._states: Any = runner[0] if len(runner) == 1 else None
        device = self._states.device if self._states is not None else runner[0]
        self._table = Table(device)
        self._device = device
        self._continued: dict[int, Continuation] = {}

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse arguments that make no sense: the client is told, and the engine lives on."""
        given = sampling_params.extra_args or {}
        if GENERATED not in given:
            return
        ids, prompt = given[GENERATED], given.get(PROMPT)
        if not isinstance(ids, list) or not all(
            isinstance(each, int) and each >= 0 for each in ids
        ):
            raise ValueError(f"{GENERATED} must be a list of token ids")
        if not isinstance(prompt, int) or prompt < 1:
            raise ValueError(f"{PROMPT} must be the length of the prompt")
        if len(set(ids)) != len(ids):
            raise ValueError(f"{GENERATED} has an id twice")

    def is_argmax_invariant(self) -> bool:
        """A penalty can make another token the likeliest."""
        return False

    def _begin(self, params: SamplingParams, output: list[int] | None) -> Continuation | None:
        given = params.extra_args or {}
        if not given.get(GENERATED) or not params.presence_penalty:
            return None
        row = self._table.take(given[GENERATED], params.presence_penalty)
        return Continuation(row, given[PROMPT] if output is None else 0, output)

    # The first model runner: requests by their place in the batch.

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Requests came, went or moved."""
        if batch_update is None:
            return
        before = {each.row for each in self._continued.values()}
        process_dict_updates(
            self._continued, batch_update, lambda params, _, output: self._begin(params, output)
        )
        for row in before - {each.row for each in self._continued.values()}:
            self._table.give_back(row)

    def _strike_output(self) -> None:
        while True:
            found = [
                (each.row, token)
                for each in self._continued.values()
                if (token := each.next_token()) is not None
            ]
            if not found:
                return
            rows, tokens = zip(*found, strict=True)
            self._table.strike(self._tensor(rows), self._tensor(tokens))

    # The second: requests by their slot.

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """A request takes a slot, which another one may have had; whether it concerns us."""
        if (old := self._continued.pop(req_idx, None)) is not None:
            self._table.give_back(old.row)
        if (new := self._begin(sampling_params, None)) is None:
            return False
        self._continued[req_idx] = new
        return True

    def _strike_committed(self, here: list[tuple[int, int]], lengths: Any) -> None:
        """Look at what each of `here` (place in the batch, slot) has generated since the last step."""
        tokens = self._states.all_token_ids.gpu
        while True:
            new = [
                (slot, each.row, each.seen)
                for place, slot in here
                if (each := self._continued[slot]).seen < lengths[place]
            ]
            if not new:
                return
            slots, rows, seen = (self._tensor(column) for column in zip(*new, strict=True))
            self._table.strike(rows, tokens[slots, seen].to(torch.int64))
            for slot, _, _ in new:
                self._continued[slot].seen += 1

    def apply(self, logits: torch.Tensor, ctx: LogitsContext | None = None) -> torch.Tensor:
        """Lay the penalties on the logits of a step: [rows, vocabulary], float32."""
        if not self._continued:
            return logits
        if ctx is None:
            self._strike_output()
            here = [(place, place) for place in self._continued]
        else:
            slots = enumerate(ctx.idx_mapping_np.tolist())
            here = [(place, slot) for place, slot in slots if slot in self._continued]
            self._strike_committed(here, ctx.seq_lens_upper_bound_np)
        if here:
            rows = [self._continued[slot].row for _, slot in here]
            self._table.lay(logits, self._tensor([p for p, _ in here]), self._tensor(rows))
        return logits

    def _tensor(self, values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64).to(self._device, non_blocking=True)
