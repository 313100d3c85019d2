"""The toy tokenizer, chat template, model and parser of the fault server.

A token is a character; what is markup to a server (roles, `<think>`, tool calls, the end) is a token
of its own. The model is a function of the prompt's tokens alone: a prompt that already holds the
first n tokens of an answer is answered with the rest of it, as greedy decoding would. "in N tokens"
in the last message asks for an answer of that length. Nothing here knows of HTTP or time.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

EOS, BEGIN, SEED, TOOLS, GENERATE = range(5)
ROLES = {"system": 5, "user": 6, "assistant": 7, "tool": 8}
MARKUP = {9: "<think>", 10: "</think>", 11: "<tool_call>", 12: "</tool_call>"}
THINK, END_THINK, CALL, END_CALL = MARKUP
FIRST_CHARACTER = 16
IDS = {text: token for token, text in MARKUP.items()}
LETTERS = "ABCD"
THOUGHT = "I add."


def encode(text: str) -> list[int]:
    """Tokens of text in which markup stands for itself."""
    parts = re.split(f"({'|'.join(IDS)})", text)
    return [t for part in parts for t in ([IDS[part]] if part in IDS else characters(part))]


def characters(text: str) -> list[int]:
    """Tokens of text in which nothing is markup: a user's."""
    return [ord(character) + FIRST_CHARACTER for character in text]


def decode(tokens: Iterable[int], *, markup: bool = True) -> str:
    """Text of tokens; control tokens are left out, markup too when asked."""
    shown = MARKUP if markup else {}
    return "".join(
        chr(t - FIRST_CHARACTER) if t >= FIRST_CHARACTER else shown.get(t, "") for t in tokens
    )


def chat_prompt(body: dict[str, Any], reads: str = "") -> list[int]:
    """The chat template. The seed is part of it, so that repeats differ and stay a function of it.
    `reads` is the field of messages in which reasoning is looked for."""
    tokens = [BEGIN, SEED, *characters(str(body.get("seed")))]
    for message in body.get("messages", []):
        tokens += [ROLES.get(str(message.get("role")), ROLES["user"])]
        tokens += characters(str(message.get("content")))
        if reads and message.get(reads):
            tokens += [THINK, *characters(str(message[reads])), END_THINK]
    names = [tool["function"]["name"] for tool in body.get("tools") or []]
    return [*tokens, *([TOOLS, *characters(" ".join(names))] if names else []), GENERATE]


def text_prompt(prompt: str | Sequence[int]) -> list[int]:
    """Tokens of a completion's prompt, which may be given as tokens."""
    if isinstance(prompt, str):
        return [BEGIN, ROLES["user"], *characters(prompt), GENERATE]
    return list(prompt)


def split_prompt(tokens: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """The prompt proper, and how many tokens of the answer follow it."""
    end = max((i + 1 for i, token in enumerate(tokens) if token == GENERATE), default=len(tokens))
    return tuple(tokens[:end]), len(tokens) - end


def prompt_key(prompt: Sequence[int]) -> str:
    """Names a prompt: equal tokens, equal names."""
    return hashlib.sha256(json.dumps(list(prompt)).encode()).hexdigest()[:16]


@lru_cache(maxsize=256)
def answer_tokens(prompt: tuple[int, ...], *, thinks: bool) -> tuple[int, ...]:
    """The whole answer to a prompt, its end included."""
    text, tools = _last_message(prompt)
    key = prompt_key(prompt)
    thought = THOUGHT
    if (length := re.search(r"in (\d+) tokens", text)) is not None:
        thought = " ".join(_words(key, int(length[1])))[: int(length[1])]
        if not thinks:
            return (*characters(f"{thought} {answer_text(text, int(key, 16))}"), EOS)
    answer = answer_text(text, int(key, 16))
    if tools and int(key, 16) % 2:
        call = json.dumps({"name": tools[0], "arguments": arguments_for(tools[0], answer)})
        answer = f"I ask.<tool_call>{call}</tool_call>"
    return (*encode(f"<think>{thought}</think>{answer}" if thinks else answer), EOS)


def empty_tokens(*, thinks: bool) -> tuple[int, ...]:
    """An answer without content."""
    return (*encode(f"<think>{THOUGHT}</think>"), EOS) if thinks else (EOS,)


def _words(key: str, length: int) -> Iterable[str]:
    return (hashlib.sha256(f"{key}{i}".encode()).hexdigest()[:7] for i in range(length // 8 + 1))


def _last_message(prompt: tuple[int, ...]) -> tuple[str, list[str]]:
    """Text of the last message of a user, and names of the tools."""
    parts: dict[int, str] = {}
    starts = [i for i, token in enumerate(prompt) if token < FIRST_CHARACTER]
    for start, end in zip(starts, [*starts[1:], len(prompt)], strict=True):
        parts[prompt[start]] = decode(prompt[start + 1 : end])
    return parts.get(ROLES["user"], ""), parts.get(TOOLS, "").split()


def answer_text(text: str, number: int) -> str:
    """The sum for "A + B" (wrong for one question in four), else a letter and a number."""
    if (sum_of := re.search(r"(\d+) \+ (\d+)", text)) is not None:
        total = int(sum_of[1]) + int(sum_of[2]) + (number % 4 == 0)
        options = dict(re.findall(r"^([A-J])\) (\d+)$", text, re.MULTILINE))
        letter = next((x for x, option in options.items() if option == str(total)), "A")
        return f"The answer is ({letter})." if options else rf"The answer is \boxed{{{total}}}."
    return rf"The answer is ({LETTERS[number % 4]}), that is \boxed{{{number % 1000}}}."


def arguments_for(tool: str, answer: str) -> dict[str, str]:
    """What a tool is called with; a Python tool gets code whose output needs all cells before it."""
    if "python" not in tool:
        return {"answer": answer}
    code = f"seen = globals().get('seen', []) + [{len(answer)}]\nprint(seen)\n{answer!r}[-9:]"
    return {"code": code}


def count_thought(tokens: Sequence[int]) -> int:
    """Tokens between the tags of reasoning, or from the first on where they never end."""
    begins = tokens.index(THINK) + 1 if THINK in tokens else 0
    return (tokens.index(END_THINK) if END_THINK in tokens else len(tokens)) - begins


class Parser:
    """A server's parser of reasoning and tool calls, fed with any number of tokens at a time."""

    def __init__(self, field: str | None) -> None:
        """`field` is where reasoning goes; null leaves it in the content."""
        self._field = field
        self._thinking = field is not None
        self._call: list[int] | None = None
        self.called = False

    def feed(self, tokens: Iterable[int]) -> dict[str, Any]:
        """What these tokens add to the message: `content`, reasoning, `tool_calls`."""
        delta: dict[str, Any] = {}
        for token in tokens:
            if self._call is not None or token == CALL:
                self._feed_call(token, delta)
            elif self._thinking:
                self._thinking = token != END_THINK
                delta[str(self._field)] = delta.get(str(self._field), "") + decode(
                    [token], markup=False
                )
            else:
                delta["content"] = delta.get("content", "") + decode([token])
        return delta

    def _feed_call(self, token: int, delta: dict[str, Any]) -> None:
        self._call = [] if self._call is None else self._call
        if token != END_CALL:
            self._call.append(token)
            return
        call = json.loads(decode(self._call, markup=False))
        function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
        name = hashlib.sha256(repr(function).encode()).hexdigest()[:8]
        calls = delta.setdefault("tool_calls", [])
        calls.append({"id": f"call-{name}", "type": "function", "function": function})
        self._call = None
        self.called = True


def message_of(tokens: Sequence[int], field: str | None) -> dict[str, Any]:
    """The whole message that tokens make."""
    parsed = Parser(field).feed(tokens)
    content = parsed.pop("content", None if field else "")
    return {"role": "assistant", "content": content, **parsed}
