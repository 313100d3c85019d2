"""Train the tiny reasoning model that the demo and the integration tests serve.

Tests of a serving path need a checkpoint that is small enough for the repository, runs without a
GPU and yet behaves like the real thing: the Nemotron-H architecture, a chat template, a reasoning
span, an answer that is sometimes wrong and gets better along the training. This script makes it
from nothing but a seed. The model adds two numbers below 1000 column by column, as at school, and
does nothing else; it is not a base for any other work.

The data are pure functions of a random generator; torch and transformers are imported only inside
the functions that train.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import string
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor
    from transformers import NemotronHForCausalLM, PreTrainedTokenizerFast

LETTERS = "ABCD"
PAD, UNKNOWN, START, END = "<|pad|>", "<|unk|>", "<|im_start|>", "<|im_end|>"
THINK, END_THINK = "<think>", "</think>"
ROLES = ("system", "user", "assistant")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# One operand pair in ten is never trained on, so that the logged accuracy is generalisation.
HELD_OUT_SHARE = 10
# Most pairs below 1000 have three digits; shorter ones need fewer examples.
DIGIT_WEIGHTS = {1: 1, 2: 2, 3: 5}
# Roomy: the longest prompt and answer together stay under 130 tokens.
MAX_CONTEXT = 512


@dataclass(frozen=True)
class Example:
    """One conversation: what the user asks, how the model reasons, what it answers."""

    user: str
    reasoning: str
    answer: str

    @property
    def prompt(self) -> str:
        """The text up to the point where the model takes over, as the chat template writes it."""
        return f"{START}user\n{self.user}{END}\n{START}assistant\n"

    @property
    def response(self) -> str:
        """The text that the model must produce, without the closing token."""
        return f"{THINK}{self.reasoning}{END_THINK}\\boxed{{{self.answer}}}"


def held_out(a: int, b: int) -> bool:
    """Whether the pair is kept from training: a fixed rule, the same on every machine."""
    return zlib.crc32(f"{a}+{b}".encode()) % HELD_OUT_SHARE == 0


def draw_operands(rng: random.Random, *, held: bool) -> tuple[int, int]:
    """Two numbers from 0 to 999 of mixed lengths, from the held-out pairs or from the others."""
    digits, weights = list(DIGIT_WEIGHTS), list(DIGIT_WEIGHTS.values())
    while True:
        a, b = (rng.randrange(10**d) for d in rng.choices(digits, weights, k=2))
        if held_out(a, b) is held:
            return a, b


def reasoning_for(a: int, b: int) -> str:
    """Column addition from the units on, then the sum: ``7+5+0=12,4+8+1=13,3+0+1=04,432``.

    Each column reads: digit of ``a``, digit of ``b``, carry in, and the two digits of their sum.
    """
    steps, carry = [], 0
    for x, y in columns(a, b):
        total = x + y + carry
        steps.append(f"{x}+{y}+{carry}={total:02d}")
        carry = total // 10
    return ",".join([*steps, str(a + b)])


def columns(*numbers: int) -> list[tuple[int, ...]]:
    """The digits of the numbers side by side, units first, as many as the longest one has."""
    return [tuple(n // 10**k % 10 for n in numbers) for k in range(len(str(max(numbers))))]


def search_for(total: int, options: Sequence[int]) -> str:
    """Go through the options until one is the total: ``;A2:2,2:3;B2:2,3:3,4:4=B``.

    Each is compared from the units on, its digit before that of the total, up to the first
    difference. One comparison per column is learnt in minutes; naming the letter at a glance,
    from the total alone, was still at chance after a thousand steps.
    """
    text = ""
    for letter, value in zip(LETTERS, options, strict=False):
        pairs = columns(value, total)
        differing = [k for k, (x, y) in enumerate(pairs) if x != y]
        seen = pairs[: differing[0] + 1] if differing else pairs
        text += f";{letter}" + ",".join(f"{x}:{y}" for x, y in seen)
        if not differing:
            return f"{text}={letter}"
    raise ValueError(f"none of the options {list(options)} is the total {total}")


def without_carries(a: int, b: int) -> int:
    """The sum that comes out when every carry is forgotten."""
    return sum((a // 10**k + b // 10**k) % 10 * 10**k for k in range(3))


def distractors(a: int, b: int, rng: random.Random) -> list[int]:
    """Three distinct wrong sums, none negative: off by one in a column, or with carries lost."""
    right = a + b
    near = {right + sign * 10**k for k in range(3) for sign in (1, -1)} | {without_carries(a, b)}
    return rng.sample(sorted(n for n in near if n >= 0 and n != right), 3)


def make_open(rng: random.Random, *, held: bool = False) -> Example:
    """A question whose answer is the sum."""
    a, b = draw_operands(rng, held=held)
    return Example(f"What is {a} + {b}?", reasoning_for(a, b), str(a + b))


def make_choice(rng: random.Random, *, held: bool = False) -> Example:
    """A question with four options, whose answer is the letter of the one that is the sum."""
    a, b = draw_operands(rng, held=held)
    options = distractors(a, b, rng)
    place = rng.randrange(len(LETTERS))
    options.insert(place, a + b)
    lines = "\n".join(f"{letter}) {value}" for letter, value in zip(LETTERS, options, strict=True))
    return Example(
        f"What is {a} + {b}?\n\n{lines}",
        reasoning_for(a, b) + search_for(a + b, options),
        LETTERS[place],
    )


KINDS = {"open": make_open, "choice": make_choice}


def vocabulary() -> list[str]:
    """Every token in the order of its id: special ones, role names, newline, printable ASCII."""
    printable = [c for c in string.printable if c.isprintable()]
    return [PAD, UNKNOWN, START, END, THINK, END_THINK, *ROLES, "\n", *printable]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A character-level tokenizer; characters outside the vocabulary become one unknown token.

    The reasoning marks are ordinary added tokens, not special ones: a server drops special tokens
    from its text, and a reasoning parser would then find nothing to split at.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: i for i, token in enumerate(vocabulary())}
    backend = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    pattern = Regex("|".join([*ROLES, r"[\s\S]"]))
    backend.pre_tokenizer = pre_tokenizers.Split(pattern, "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(t, special=True) for t in (PAD, UNKNOWN, START, END)])
    backend.add_tokens([AddedToken(t, normalized=False) for t in (THINK, END_THINK)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # its class is untyped
        tokenizer_object=backend,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        model_max_length=MAX_CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> NemotronHForCausalLM:
    """An untrained model with the layer kinds of Nemotron-H that every vLLM back end serves."""
    from transformers import NemotronHConfig, NemotronHForCausalLM

    config = NemotronHConfig(
        vocab_size=len(vocabulary()),
        hidden_size=64,
        layers_block_type=["mamba", "mlp", "attention", "mlp"] * 2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=192,
        mamba_num_heads=4,
        mamba_head_dim=32,
        ssm_state_size=16,
        n_groups=1,
        # Short chunks: the pure torch scan costs the square of the chunk, for the same result.
        chunk_size=16,
        # About 1 / sqrt(hidden_size); the default is made for wide models and learns late here.
        initializer_range=0.125,
        max_position_embeddings=MAX_CONTEXT,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = NemotronHForCausalLM(config)
    spread_time_steps(model)
    return model


def spread_time_steps(model: NemotronHForCausalLM) -> None:
    """Start the Mamba heads with time steps from 0.05 to 1, for texts of a hundred tokens.

    The default, 0.001 to 0.1, is made for long texts; here the state then hardly takes part at
    first. Not a matter of ``time_step_min``: as a bound at run time not every server applies it.
    """
    import torch

    for name, parameter in model.named_parameters():
        if name.endswith("dt_bias"):
            steps = torch.logspace(math.log10(0.05), 0.0, parameter.numel())
            parameter.data.copy_(steps + torch.log(-torch.expm1(-steps)))  # inverse of softplus


@dataclass(frozen=True)
class Batch:
    """Token ids, right-padded, and where the loss is taken; both of shape (examples, tokens)."""

    ids: Tensor
    targets: Tensor


def make_batch(tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example]) -> Batch:
    """Encode conversations; ``targets`` marks the positions whose token the model must produce."""
    import torch

    prompts = tokenizer([e.prompt for e in examples])["input_ids"]
    full = tokenizer([e.prompt + e.response + END for e in examples])["input_ids"]
    width = max(map(len, full))
    ids = torch.full((len(full), width), tokenizer.pad_token_id, dtype=torch.long)
    targets = torch.zeros((len(full), width), dtype=torch.bool)
    for row, (prompt, tokens) in enumerate(zip(prompts, full, strict=True)):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        targets[row, len(prompt) : len(tokens)] = True
    return Batch(ids, targets)


def response_logits(model: NemotronHForCausalLM, batch: Batch) -> Tensor:
    """Logits of the response tokens alone, shape (response tokens of all examples, vocabulary).

    No attention mask: padding is on the right and every layer is causal.
    """
    hidden = model.model(input_ids=batch.ids[:, :-1], use_cache=False).last_hidden_state
    logits: Tensor = model.lm_head(hidden[batch.targets[:, 1:]])
    return logits


def exact_share(model: NemotronHForCausalLM, batch: Batch) -> float:
    """Share of examples whose whole response is what greedy decoding would produce.

    Taken in one pass: greedy decoding repeats a text exactly if each of its tokens is the most
    likely one after those before it. Reasoning that errs and still ends right counts as wrong.
    """
    import torch

    model.train(mode=False)
    with torch.no_grad():
        predicted = response_logits(model, batch).argmax(-1)
    model.train()
    right = torch.ones_like(batch.targets)
    right[batch.targets] = predicted == batch.ids[batch.targets]
    return round(float(right.all(dim=1).float().mean()), 4)


def save_checkpoint(trainer: Trainer, folder: Path) -> None:
    """Write weights in bfloat16, configs, tokenizer and chat template, as servers expect them."""
    copy.deepcopy(trainer.model).bfloat16().save_pretrained(folder)
    trainer.tokenizer.save_pretrained(folder)


def batches(args: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> Iterator[Batch]:
    """Training batches without end, one kind of question each so that little padding is needed."""
    rng = random.Random(args.seed)
    while True:
        for make in KINDS.values():
            yield make_batch(tokenizer, [make(rng) for _ in range(args.batch_size)])


class Trainer:
    """Model, optimizer and random state of one training, advanced one batch at a time."""

    def __init__(self, args: argparse.Namespace) -> None:
        import torch

        torch.manual_seed(args.seed)
        torch.set_num_threads(args.threads)
        torch.use_deterministic_algorithms(True)
        self.tokenizer = build_tokenizer()
        self.model = build_model(self.tokenizer).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), betas=(0.9, 0.98), weight_decay=0.01
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=args.learning_rate, total_steps=args.steps, pct_start=0.1
        )

    def step(self, batch: Batch) -> float:
        """One optimizer step; returns the loss before it."""
        import torch

        logits = response_logits(self.model, batch)
        loss = torch.nn.functional.cross_entropy(logits, batch.ids[batch.targets])
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return float(loss.detach())


def train(args: argparse.Namespace) -> None:
    """Train, and leave ``step-NNNN`` folders and ``training.jsonl`` in the output folder."""
    trainer = Trainer(args)
    held = random.Random(args.seed + 1)
    tests = {
        kind: make_batch(trainer.tokenizer, [make(held, held=True) for _ in range(args.eval_size)])
        for kind, make in KINDS.items()
    }
    source = batches(args, trainer.tokenizer)
    losses: list[float] = []
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "training.jsonl").open("w", encoding="utf-8") as log:
        for step in range(1, args.steps + 1):
            losses.append(trainer.step(next(source)))
            if step in args.keep:
                save_checkpoint(trainer, args.out / f"step-{step:04d}")
            if step in args.keep or step % args.log_every == 0:
                entry = {"step": step, "loss": round(math.fsum(losses) / len(losses), 4)}
                entry |= {f"exact_{k}": exact_share(trainer.model, b) for k, b in tests.items()}
                print(json.dumps(entry), file=log, flush=True)
                print(json.dumps(entry), flush=True)
                losses.clear()


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("checkpoints/demo"), help="output folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1600, help="optimizer steps")
    parser.add_argument(
        "--keep",
        type=int,
        nargs="+",
        default=[300, 500, 1600],
        help="steps to save a checkpoint at",
    )
    parser.add_argument("--batch-size", type=int, default=48, help="conversations per step")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="peak of the cycle")
    parser.add_argument("--eval-size", type=int, default=200, help="held-out questions per kind")
    parser.add_argument("--log-every", type=int, default=100, help="steps between log lines")
    parser.add_argument("--threads", type=int, default=2, help="torch threads; changes rounding")
    args = parser.parse_args(argv)
    if max(args.keep) > args.steps:
        parser.error(f"--keep {max(args.keep)} lies beyond the last step, {args.steps}")
    return args


if __name__ == "__main__":
    train(parse_args())
